"""What is done with a hostile file, and what may come of it: a right answer or an error of qstore's."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import qstore
from qstore.sources import RowSource, open_source
from qstore.sources.words.text import TextWordVectors

__all__ = [
    "SOURCES",
    "Judge",
    "check_source",
    "in_memory",
    "mutated_bytes",
    "source_seeds",
    "store_seeds",
    "with_right_length",
]

DATA = Path(__file__).parents[2] / "tests" / "data"
_LARGEST_ROW = 1 << 24
_MOST_CHUNKS = 4


def store_seeds() -> tuple[list[bytes], list[bytes]]:
    """The frozen good stores, and the malformed ones."""
    good = [path.read_bytes() for path in sorted(DATA.glob("v1/*.h5"))]
    return good, [gzip.decompress(path.read_bytes()) for path in sorted(DATA.glob("malformed/*.gz"))]


@contextlib.contextmanager
def in_memory(content: bytes) -> Iterator[str]:
    """Path of a file in memory, for as long as the block runs."""
    fd = os.memfd_create("mutated")
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class Judge:
    """Opens files and tells what came of it.

    Parameters
    ----------
    good : list of bytes
        Stores whose content is known: another content under the same identity is a silent error.
    """

    def __init__(self, good: list[bytes]) -> None:
        self._known: dict[str, str] = {}
        for content in good:
            with (
                in_memory(content) as path,
                contextlib.suppress(qstore.FormatError),
                qstore.open(path) as store,
            ):
                if store.verify().ok:
                    self._known[store.content_id] = _digest(store)

    def outcome(self, content: bytes) -> str:
        """``refused``, ``whole`` or ``found by verify``.

        Raises
        ------
        AssertionError
            A silently wrong shape, size or content.
        Exception
            Anything that is not qstore's own refusal.
        """
        with in_memory(content) as path:
            try:
                store = qstore.open(path)
            except qstore.FormatError:
                return "refused"
            with store:
                return self._opened(store, content)

    def _opened(self, store: qstore.Store, content: bytes) -> str:
        rows, dim = store.shape
        raw = tuple(int.from_bytes(content[at : at + 8], "little") for at in (8208, 8216))
        _require((rows, dim) == raw, f"shape {store.shape}, but the fields at 8208 and 8216 say {raw}")
        _require(
            12288 + rows * dim + 8 * rows <= len(content) or not rows,
            f"{store.shape} in {len(content)} bytes",
        )
        _require(store.codes.shape == (rows, dim) and store.scales.shape == (rows,), "views of another shape")
        if rows:
            _require(store.codes.tobytes() == content[12288 : 12288 + rows * dim], "codes from another place")
            with np.errstate(all="ignore"):
                _require(store[0].shape == store[-1].shape == (dim,), "rows of another shape")
        _use_keys(store)
        if not store.verify().ok:
            return "found by verify"
        _require(
            self._known.get(store.content_id) == _digest(store),
            "verified, and yet not a content that was made",
        )
        return "whole"


def _use_keys(store: qstore.Store) -> None:
    """Whatever the keys hold: an answer or a refusal."""
    if store.key_kind is None:
        return
    asked: list[str] | list[int] = (
        ["queen", "", "77kepQFQ8Kl"] if store.key_kind == "text" else [0, -1, 17403]
    )
    with contextlib.suppress(qstore.FormatError):
        found = store.rows_of(asked, default=-1)
        _require(bool(((found >= -1) & (found < len(store))).all()), "keys of rows that are not there")
    with contextlib.suppress(qstore.FormatError):
        _require(len(store.key_of(slice(None))) == len(store), "another number of keys than rows")


def _digest(store: qstore.Store) -> str:
    data = hashlib.sha256(repr(store.shape).encode())
    data.update(repr(None if store.key_kind is None else list(store.key_of(slice(None)))).encode())
    data.update(store.codes.tobytes())
    data.update(store.scales.tobytes())
    return data.hexdigest()


def _require(right: bool, words: str) -> None:
    if not right:
        raise AssertionError(words)


# Sources ----------------------------------------------------------------------------------------------


def check_source(path: Path) -> str:
    """List and open a source, read its first and last row: ``refused`` or ``read``."""
    refused = False
    try:
        qstore.list_tensors(path)
    except qstore.SourceError:
        refused = True
    try:
        with open_source(path) as source:
            _read_ends(source)
    except qstore.SourceError:
        return "refused"
    _require(not refused, "opened, though its tensors cannot be listed")
    return "read"


def _read_ends(source: Any) -> None:
    if isinstance(source, TextWordVectors):
        for piece in itertools.islice(source._pieces(0), _MOST_CHUNKS):
            found, expected = (_rows_or_error(read, piece) for read in (source._parsed, source._specified))
            _require(found == expected, f"{found} of text, specified is {expected}")
    if not isinstance(source, RowSource):
        for chunk in itertools.islice(source.chunks(), _MOST_CHUNKS):
            _require(chunk.ndim == 2 and chunk.shape[1] == source.dim, f"chunk of shape {chunk.shape}")
        return
    item = 8
    if not source.rows or source.dim * item > _LARGEST_ROW:
        return
    for row in (0, source.rows - 1):
        found = source.read(row, row + 1)
        _require(found.shape == (1, source.dim), f"row of shape {found.shape}")


def _rows_or_error(read: Callable[[Any], Any], piece: Any) -> object:
    try:
        row, words, values, line = read(piece)
    except qstore.SourceError as error:
        return str(error)
    return row, words, values.tobytes(), line


def _npy() -> list[bytes]:
    files = []
    for array in (
        np.arange(6, dtype="<f4").reshape(2, 3),
        np.asfortranarray(np.ones((3, 4), ">f8")),
        np.ones(3, "i1"),
    ):
        memory = io.BytesIO()
        np.save(memory, array)
        files.append(memory.getvalue())
    return files


def _safetensors() -> list[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "embedding.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "bias": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
    }
    one = {"w": {"dtype": "BF16", "shape": [3, 1], "data_offsets": [0, 6]}}
    files = []
    for members, size in ((header, 30), (one, 6)):
        text = json.dumps(members).encode()
        files.append(len(text).to_bytes(8, "little") + text + bytes(size))
    return files


def _quantized() -> list[bytes]:
    """Checkpoints of quantized weights, by the libraries that quantize so."""
    return [path.read_bytes() for path in sorted(DATA.glob("quantized/*/model.safetensors"))]


def with_right_length(content: bytes) -> bytes:
    """A safetensors file whose length of the header fits its JSON: otherwise damage gets no further."""
    end = content.rfind(b"}") + 1
    return max(0, end - 8).to_bytes(8, "little") + content[8:]


def _index() -> list[bytes]:
    maps: tuple[dict[str, str], ...] = (
        {"embedding.weight": "shard.safetensors", "bias": "shard.safetensors"},
        {"bias": "missing.safetensors"},
    )
    return [json.dumps({"metadata": {"total_size": 30}, "weight_map": names}).encode() for names in maps]


def _hdf5() -> list[bytes]:
    options: tuple[dict[str, Any], ...] = (
        {},
        {"chunks": (2, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (4, 1), "fletcher32": True, "maxshape": (None, 3)},
    )
    files = []
    for libver in ("earliest", "latest"):
        for option in options:
            memory = io.BytesIO()
            with h5py.File(memory, "w", libver=libver) as file:
                file.create_dataset("group/weights", data=np.arange(12, dtype="<f4").reshape(4, 3), **option)
                file.attrs["name"] = "text"
            files.append(memory.getvalue())
    return files


def _npz() -> list[bytes]:
    files = []
    for save in (np.savez, np.savez_compressed):
        memory = io.BytesIO()
        save(memory, weight=np.arange(12, dtype="<f4").reshape(4, 3), bias=np.ones(3))
        files.append(memory.getvalue())
    return files


def _torch() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        qstore.build(np.ones((4, 3), np.float32), f"{folder}/one.h5")
        qstore.export(f"{folder}/one.h5", f"{folder}/one.pt")
        one = Path(folder, "one.pt").read_bytes()
    return [one, *(path.read_bytes() for path in sorted(DATA.glob("sources/*.pt")))]


def _distributed() -> list[bytes]:
    return [Path(DATA, "sources/one_matrix/.metadata").read_bytes()]


def _quantized_pieces() -> list[bytes]:
    return [Path(DATA, "sources/one_quantized/.metadata").read_bytes()]


def _words_binary() -> list[bytes]:
    rows = b"".join(
        word + b" " + np.ones(3, "<f4").tobytes() + b"\n" for word in (b"the", b"of", "\xfc".encode())
    )
    return [b"3 3\n" + rows, *_packed(b"3 3\n" + rows)]


def _words_text() -> list[bytes]:
    rows = b"the 0.5 -1e-3 2\nof 1 2 3\n. . . 4 5 6\n"
    return [rows, b"3 3\n" + rows, rows.replace(b" ", b"\t"), *_packed(rows)]


def _packed(content: bytes) -> list[bytes]:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("source"), content, zipfile.ZIP_DEFLATED)
    return [gzip.compress(content, mtime=0), bz2.compress(content), lzma.compress(content), file.getvalue()]


def _gguf() -> list[bytes]:
    """One float32 tensor of 2 rows of 3 (its shape is told the other way round), no metadata."""
    name = b"token_embd.weight"
    counts = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
    info = struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
    head = counts + info
    return [head + bytes(-len(head) % 32) + np.arange(6, dtype="<f4").tobytes() + bytes(8)]


def _vecs() -> list[bytes]:
    return [(np.int32(3).tobytes() + np.ones(3, "<f4").tobytes()) * 3]


def _keras() -> list[bytes]:
    weights, model = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layers/embedding/vars/0"] = np.array([[127, 5], [-3, -127], [127, 0]], "i1")
        file["layers/embedding/vars/1"] = np.array([2, 50, 0.1], "f4")
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr(zipfile.ZipInfo("metadata.json"), "{}")
        archive.writestr(zipfile.ZipInfo("config.json"), "{}")
        archive.writestr(zipfile.ZipInfo("model.weights.h5"), weights.getvalue())
    return [model.getvalue(), weights.getvalue()]


def _fasttext() -> list[bytes]:
    """A model of two words and three buckets, n-grams of one to three characters, and one label."""
    head = struct.pack("<2i12id", 793712314, 12, 2, 5, 5, 1, 5, 1, 1, 1, 3, 1, 3, 100, 1e-4)
    words = struct.pack("<3i2q", 3, 2, 1, 9, -1)
    words += b"".join(
        word + b"\0" + struct.pack("<qb", 3, kind) for word, kind in ((b"a", 0), (b"of", 0), (b"l", 1))
    )
    return [head + words + b"\0" + struct.pack("<2q", 5, 2) + np.ones((5, 2), "<f4").tobytes()]


def _onnx() -> list[bytes]:
    """A graph with one initializer of 2 rows of 3, its values in bytes."""
    tensor = b"\x0a\2\2\3\x10\1\x42\3emb\x4a\x18" + np.ones(6, "<f4").tobytes()
    graph = b"\x0a\7\x0a\3emb\x22\0\x12\1g\x2a" + bytes([len(tensor)]) + tensor
    return [b"\x08\x08\x3a" + bytes([len(graph)]) + graph]


def _onnx_tables() -> list[bytes]:
    """Quantized tables, of each way in which a graph makes values of them."""
    return [path.read_bytes() for path in sorted(DATA.glob("onnx/*.onnx"))]


def _bigann() -> list[bytes]:
    return [np.array([3, 2], "<u4").tobytes() + np.ones((3, 2), "<f4").tobytes()]


SOURCES: dict[str, tuple[str, Callable[[], list[bytes]]]] = {
    "npy": ("source.npy", _npy),
    "safetensors": ("source.safetensors", _safetensors),
    "quantized": ("source.safetensors", _quantized),
    "index": ("source.safetensors.index.json", _index),
    "hdf5": ("source.h5", _hdf5),
    "npz": ("source.npz", _npz),
    "keras": ("source.keras", _keras),
    "torch": ("source.pt", _torch),
    "distributed": (".metadata", _distributed),
    "distributed-quantized": (".metadata", _quantized_pieces),
    "words-binary": ("source.bin", _words_binary),
    "words-text": ("source.txt", _words_text),
    "vecs": ("source.fvecs", _vecs),
    "fasttext": ("source.bin", _fasttext),
    "onnx": ("source.onnx", _onnx),
    "onnx-tables": ("source.onnx", _onnx_tables),
    "big-ann": ("source.fbin", _bigann),
    "gguf": ("source.gguf", _gguf),
}
"""Name of a parser to the name of a file for it, and what makes good files."""


def source_seeds(parser: str, folder: Path) -> tuple[Path, list[bytes]]:
    """Where files for a parser go, with what they refer to beside them, and good ones to start from."""
    name, make = SOURCES[parser]
    (folder / "shard.safetensors").write_bytes(_safetensors()[0])
    pieces = "one_quantized" if parser == "distributed-quantized" else "one_matrix"
    for data in DATA.glob(f"sources/{pieces}/*.distcp"):
        shutil.copy(data, folder)
    return folder / name, make()


def mutated_bytes(content: bytes, chance: random.Random, tokens: tuple[bytes, ...] = ()) -> bytes:
    """A plain mutation: bits, numbers, cuts, repeats, inserted tokens."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + chance.choice((1, 2, 4, 8))] = chance.choice(
                (b"\0", b"\xff" * 8, b"9", b"-1", b"{", b"]")
            )
        elif kind == 2:
            del changed[at : at + chance.randrange(1, 20)]
        elif kind == 3:
            changed[at:at] = changed[at : at + chance.randrange(1, 60)]
        elif tokens:
            changed[at:at] = chance.choice(tokens)
    return bytes(changed)
