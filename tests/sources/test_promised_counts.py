"""What a file says of its own size, in every format: counts that are wrong, and what is left over.

A build, with keys and without, in one file and in shards, must see both; a reader that stops at the number of
rows that the header names would not.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from source_contract import refused
from word_files import PACK, VALUES, WORDS, binary_words, text_words

import qstore
from qstore.errors import SourceError
from qstore.sources import open_source
from qstore.sources.words import text as text_reader

LINE_FEEDS = pytest.mark.parametrize("end", [b"", b"\n"], ids=["gensim", "word2vec.c"])


def f4(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def every_way(source: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """All that reads a source to its end."""
    np.save(folder / "three.npy", VALUES)
    given: dict[str, Any] = {"overwrite": True}

    def against() -> None:
        with open_source(source) as matrix:
            rows = min(matrix.rows or 3, 3)
        qstore.build(VALUES[:rows], folder / "other.h5", overwrite=True)
        with qstore.open(folder / "other.h5") as store:
            qstore.verify_against(store, source, keys=False)

    return {
        "build": lambda: qstore.build(source, folder / "a.h5", **given),
        "without keys": lambda: qstore.build(source, folder / "a.h5", keys=False, **given),
        "shards": lambda: qstore.build_shards(source, folder / "s", 2, **given),
        "shards without keys": lambda: qstore.build_shards(source, folder / "s", 1, keys=False, **given),
        "last rows": lambda: qstore.build(source, folder / "a.h5", rows=slice(-1, None), **given),
        "two files": lambda: qstore.build([folder / "first", source], folder / "a.h5", **given),
        "against": against,
    }


def refused_in_every_way(source: Path, folder: Path, words: str, skip: tuple[str, ...] = ()) -> None:
    (folder / "first").write_bytes(binary_words([b"a", b"b", b"c"]))
    for name, way in every_way(source, folder).items():
        if name not in skip:
            assert re.search(words, _error_of(way)), name
    assert not (folder / "a.h5").exists()
    assert not (folder / "s" / "qstore.json").exists()


def _error_of(way: Callable[[], object]) -> str:
    try:
        way()
    except SourceError as error:
        return str(error)
    return "no error"


# ---------------------------------------------------------------------- word vectors


def test_space_in_the_only_word(tmp_path: Path) -> None:
    """The key would be `new`, with values of 2.9e26."""
    path = tmp_path / "words.bin"
    path.write_bytes(b"1 3\nnew york " + f4(1, 2, 3) + b"\n")
    refused_in_every_way(path, tmp_path, "goes on after its last row: its header says 1 rows")
    assert qstore.list_tensors(path)[0].shape == (1, 3)  # only the header is looked at


@LINE_FEEDS
@pytest.mark.parametrize("suffix", ["", *PACK])
@pytest.mark.parametrize("rows", [0, 1, 2])
def test_binary_header_says_fewer(tmp_path: Path, end: bytes, suffix: str, rows: int) -> None:
    path = tmp_path / f"words.bin{suffix}"
    path.write_bytes(PACK.get(suffix, bytes)(binary_words(end=end, rows=rows)))
    skip = ("last rows",) if rows == 0 else ()
    refused_in_every_way(path, tmp_path, f"goes on after its last row: its header says {rows} rows", skip)


@pytest.mark.parametrize("suffix", ["", *PACK])
@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_text_header_says_fewer(
    tmp_path: Path, suffix: str, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the pieces end in which the file is read."""
    monkeypatch.setattr(text_reader, "_BLOCK_BYTES", block)
    path = tmp_path / f"words.txt{suffix}"
    path.write_bytes(PACK.get(suffix, bytes)(text_words(rows=rows)))
    refused_in_every_way(path, tmp_path, rf"its header says {rows} rows, found at least [{rows + 1}-3]")


@pytest.mark.parametrize("suffix", ["", *PACK])
@pytest.mark.parametrize("layout", [binary_words, text_words])
def test_header_says_more(tmp_path: Path, suffix: str, layout: Any) -> None:
    path = tmp_path / f"words{suffix}"
    path.write_bytes(PACK.get(suffix, bytes)(layout(rows=4)))
    refused_in_every_way(path, tmp_path, r"ends early|says 4 rows, found 3", ("against",))
    qstore.build(VALUES, tmp_path / "three.h5")
    with qstore.open(tmp_path / "three.h5") as store:
        assert qstore.verify_against(store, path).problems == ("the source has 4 rows, the store 3",)


@pytest.mark.parametrize("layout", [binary_words, text_words])
def test_line_feeds_at_the_end_are_nothing(tmp_path: Path, layout: Any) -> None:
    path = tmp_path / "words"
    for rest in (b"\n", b"\n" * (5 << 20)):
        path.write_bytes(layout() + rest)
        assert qstore.build(path, tmp_path / "a.h5", overwrite=True).rows == 3
    path.write_bytes(layout() + rest + b"x 1 2 3")
    with pytest.raises(SourceError, match=r"goes on after its last row|is blank"):
        qstore.build(path, tmp_path / "a.h5", overwrite=True)


def test_checksum_behind_the_last_row(tmp_path: Path) -> None:
    """That of gzip, which stands behind all of the content."""
    for layout in (binary_words, text_words):
        content = bytearray(gzip.compress(layout()))
        content[-6] ^= 1
        (tmp_path / "words.gz").write_bytes(content)
        refused_in_every_way(tmp_path / "words.gz", tmp_path, "is damaged: expected a gzip file")


def test_space_in_a_word_of_several(tmp_path: Path) -> None:
    """The rows after it fall into place again, so that the end fits: the next word tells."""
    path = tmp_path / "words.bin"
    rows = b"new york " + f4(1, 2, 3) + b"%sb " + f4(4, 5, 6) + b"%s"
    for end, found in ((b"", rb"'@\\x00\\x00@@b'"), (b"\n", rb"'@\\x00\\x00@@\\nb'")):
        path.write_bytes(b"2 3\n" + rows.replace(b"%s", end))
        words = f"the word of row 1 holds a NUL or a line feed: b{found.decode()}"
        refused_in_every_way(path, tmp_path, words, skip=("against",))
    # Line feeds tell without a NUL, too.
    path.write_bytes(b"2 3\nnew york " + f4(1.1, 2.2, 3.3) + b"\nb " + f4(4, 5, 6) + b"\n")
    with pytest.raises(SourceError, match="a word before it holds a space"):
        qstore.build(path, tmp_path / "a.h5", keys=False)


def test_width_of_a_header(tmp_path: Path) -> None:
    for layout in (binary_words, text_words):
        for width in (2, 4):
            path = tmp_path / "words"
            path.write_bytes(layout().replace(b"3 3\n", b"3 %d\n" % width, 1))
            with pytest.raises(SourceError):
                qstore.build(path, tmp_path / "a.h5", keys=False)


@pytest.mark.parametrize("key", ["a\0b", "\0", "new york", "a\nb", ""])
@pytest.mark.parametrize("name", ["words.bin", "words.vec"])
def test_nothing_is_exported_that_is_refused_here(tmp_path: Path, key: str, name: str) -> None:
    qstore.build(VALUES, tmp_path / "store.h5", keys=["a", key, "c"])
    with pytest.raises(qstore.ExportError, match="without white space and NUL"):
        qstore.export(tmp_path / "store.h5", tmp_path / name)
    qstore.build(VALUES, tmp_path / "store.h5", keys=[word.decode() for word in WORDS], overwrite=True)
    qstore.export(tmp_path / "store.h5", tmp_path / name)
    with qstore.open(tmp_path / "store.h5") as store, open_source(tmp_path / name) as source:
        assert np.array_equal(np.concatenate(list(source.chunks())), store[:])


# ------------------------------------------------------------------------- archives


def test_npz_checksum_is_compared_by_a_build(tmp_path: Path) -> None:
    values = np.random.default_rng(1).standard_normal((300, 16)).astype("f4")
    np.savez_compressed(tmp_path / "x.npz", w=values)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for mark, place in ((b"PK\1\2", 16), (b"PK\3\4", 14)):
        content[content.index(mark) + place] ^= 1  # the CRC of the member
    (tmp_path / "x.npz").write_bytes(content)
    ways = every_way(tmp_path / "x.npz", tmp_path)
    for name in ("build", "shards", "last rows"):
        with pytest.raises(SourceError, match="its CRC-32 differs"):
            ways[name]()
    qstore.build(values, tmp_path / "whole.h5")
    with qstore.open(tmp_path / "whole.h5") as store, pytest.raises(SourceError, match="its CRC-32 differs"):
        qstore.verify_against(store, tmp_path / "x.npz")
    assert not (tmp_path / "a.h5").exists()


def test_npz_of_no_rows(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", w=VALUES[:0])
    assert qstore.build(tmp_path / "x.npz", tmp_path / "a.h5").rows == 0


def test_npz_member_with_more_than_its_array(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", VALUES)
    content = (tmp_path / "w.npy").read_bytes()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("w.npy", content + b"more")
        refused(tmp_path / "x.npz", f"expected {len(content)} bytes", f"found {len(content) + 4}")


# ------------------------------------------------------------------ formats of rows


def test_npy_of_several_arrays(tmp_path: Path) -> None:
    """`np.save` into one open file, batch after batch: NumPy reads the first one and says nothing."""
    path = tmp_path / "batches.npy"
    with path.open("wb") as file:
        for part in (VALUES, VALUES + 1, VALUES + 2):
            np.save(file, part)
    refused(path, "holds several arrays one after the other", "np.load(open_file)", "np.load(path)")
    refused([path, path], "holds several arrays")
    parts = []
    with path.open("rb") as file:
        while file.tell() < path.stat().st_size:
            parts.append(np.load(file))
    assert qstore.build(parts, tmp_path / "a.h5").rows == 9
    assert qstore.build(np.load(path), tmp_path / "b.h5").rows == 3


@pytest.mark.parametrize("suffix", [".fvecs", ".ivecs", ".bvecs"])
def test_vecs(tmp_path: Path, suffix: str) -> None:
    item = {".fvecs": "<f4", ".ivecs": "<i4", ".bvecs": "u1"}[suffix]
    row = struct.pack("<i", 3) + np.array([1, 2, 3], item).tobytes()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(row * 3)
    with open_source(path) as source:
        assert source.rows == 3
    path.write_bytes(row * 3 + b"x")
    refused(path, "expected at least 1, and a file of whole rows")
    path.write_bytes(row * 2 + struct.pack("<i", 2) + row[4:])
    with pytest.raises(SourceError, match="row 2 has 2 columns: expected 3"):
        qstore.build(path, tmp_path / "a.h5")


def test_raw(tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(VALUES.tobytes() + b"x")
    with pytest.raises(SourceError, match="expected whole rows of 12 bytes"):
        qstore.sources.RawSource(tmp_path / "x.raw", "float32", 3)


# ---------------------------------------------------------------------------- GGUF


def gguf(tensors: int, infos: list[tuple[bytes, int, int]], data: bytes) -> bytes:
    """Tensors of shape (3, 4): name, type, place."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, tensors, 0)
    for name, kind, place in infos:
        head += struct.pack("<Q", len(name)) + name + struct.pack("<IQQIQ", 2, 4, 3, kind, place)
    return head + bytes(-len(head) % 32) + data


ROWS = np.arange(12, dtype="<f4").tobytes() + bytes(16)  # filled up to a multiple of 32


def test_gguf_header_says_fewer(tmp_path: Path) -> None:
    """The data would begin in the description of the second tensor."""
    path = tmp_path / "x.gguf"
    infos = [(b"a", 0, 0), (b"b", 0, 64)]
    path.write_bytes(gguf(2, infos, ROWS * 2))
    assert [info.name for info in qstore.list_tensors(path)] == ["a", "b"]
    path.write_bytes(gguf(1, infos, ROWS * 2))
    refused(path, "goes on behind its 1 tensors: expected at most", tensor="a")


def test_gguf_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for rest, fine in ((ROWS[:48], True), (ROWS[:49], True), (ROWS, True), (ROWS + b"\0", False)):
        path.write_bytes(gguf(1, [(b"a", 0, 0)], rest))
        if fine:
            with open_source(path) as source:
                assert source.rows == 3
        else:
            refused(path, "goes on behind its 1 tensors")


def test_gguf_hole(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(2, [(b"a", 0, 0), (b"b", 0, 96)], ROWS * 2 + bytes(32)))
    refused(path, "tensor 'b' expected data at byte", "there is a hole before it", tensor="a")
    # What a type of a later version takes is not known.
    path.write_bytes(gguf(2, [(b"a", 99, 0), (b"b", 0, 96)], ROWS * 2 + bytes(32)))
    with open_source(path, "b") as source:
        assert source.rows == 3
    path.write_bytes(gguf(2, [(b"b", 0, 0), (b"a", 99, 64)], ROWS * 3))
    with open_source(path, "b") as source:
        assert source.rows == 3


# --------------------------------------------------------------- HDF5, Parquet, torch


def test_hdf5_shape_larger_than_its_place(tmp_path: Path) -> None:
    """h5py reads what lies behind it, or zeros."""
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["w"] = VALUES
    content = path.read_bytes()
    shape = struct.pack("<QQ", 3, 3)  # twice: the most that it may become is the same
    assert content.count(shape) == 2
    for rows in (2, 4, 1000):
        path.write_bytes(content.replace(shape, struct.pack("<QQ", rows, 3)))
        # HDF5 itself sees some of it.
        assert re.search(
            rf"of shape \({rows}, 3\) expected {rows * 12} bytes, found 36|invalid dataset size",
            _error_of(lambda: open_source(path)),
        )


def test_parquet_counts(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(VALUES.reshape(-1)), 3)
    parquet.write_table(pyarrow.table({"v": lists}), path)
    content = path.read_bytes()
    mark = b"\x16%c\x19"  # num_rows of the file (each number doubled), then the list of row groups
    assert content.count(mark % 6) == 1
    for rows in (2, 4):
        path.write_bytes(content.replace(mark % 6, mark % (2 * rows)))
        refused(path, f"expected {rows} rows, found 3 in its row groups")


def test_safetensors_bytes_that_belong_to_nothing(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 3], "data_offsets": [0, 36]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + VALUES.tobytes() + b"more")
    refused(path, "has bytes that belong to no tensor")


# ------------------------------------------------------------------------- key files


def test_key_file_of_several_arrays(tmp_path: Path) -> None:
    path = tmp_path / "ids.npy"
    with path.open("wb") as file:
        np.save(file, np.arange(3))
        np.save(file, np.arange(3))
    with pytest.raises(SourceError, match=r"holds several arrays .* behind 3 keys"):
        qstore.build(VALUES, tmp_path / "a.h5", keys=path)


def test_key_file_with_a_name_twice(tmp_path: Path) -> None:
    """JSON parsers let the last one win: all rows would have a key, and row 0 another one than it had."""
    path = tmp_path / "vocab.json"
    path.write_text('{"a": 0, "b": 2, "a": 1, "c": 0}')
    with pytest.raises(SourceError, match="the name 'a' stands twice"):
        qstore.build(VALUES, tmp_path / "a.h5", keys=path)


def test_keys_as_many_as_rows(tmp_path: Path) -> None:
    for name, content in (("k.txt", b"a\nb\n"), ("k.json", b'["a", "b"]'), ("k.txt", b"a\nb\nc\nd\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            SourceError, match=r"there are \d keys, expected one for each of the source's 3 rows"
        ):
            qstore.build(VALUES, tmp_path / "a.h5", keys=tmp_path / name)
