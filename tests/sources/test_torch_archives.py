"""The zip archives of torch checkpoints: large ones, damaged ones, and views that leave their storage."""

from __future__ import annotations

import random
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import files_open_in, matrix_of, refused, same
from torch_files import (
    ORDERED_DICT,
    RESAVE,
    body,
    checkpoint,
    columns_of_wider,
    contiguous,
    make_view,
    rebuild,
    state,
    storage,
    tensor,
)

from qstore.errors import SourceError
from qstore.sources import RowSource, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def test_large_archives_have_larger_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    values = matrix_of("float32")
    path = make_view(contiguous)(tmp_path, values)
    assert b"PK\x06\x06" in path.read_bytes()
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), values)


def test_torch_writes_more_than_4_gigabytes(tmp_path: Path) -> None:
    """The offsets of such a file, without its data: a member that begins behind 4 GiB."""
    values = matrix_of("float32")
    path = make_view(contiguous)(tmp_path, values)
    content, shift = path.read_bytes(), 5 << 30
    start = content.index(b"PK\x01\x02")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    directory = b""
    for info in infos:
        extra = struct.pack("<HHQ", 1, 8, info.header_offset + (shift if "data/1" in info.filename else 0))
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, info.CRC, info.file_size, info.file_size,
            len(info.filename), len(extra), 0, 0, 0, 0, 0xFFFFFFFF,
        ) + info.filename.encode() + extra  # fmt: skip
    moved = next(info.header_offset for info in infos if "data/1" in info.filename)
    with open(path, "r+b") as file:
        file.truncate(start)
        file.seek(moved + shift)
        file.write(content[moved:start])
        end = file.tell()
        file.write(directory)
        record = end + len(directory)
        file.write(
            struct.pack(
                "<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, len(infos), len(infos), len(directory), end
            )
        )
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, record, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), values)


BAD_VIEWS: list[tuple[Any, Any, Any, str]] = [
    (0, (2, 3), (3, 1), "leaves its storage: expected at most 16 bytes, found 24"),
    (1, (2, 2), (2, 1), "leaves its storage: expected at most 16 bytes, found 20"),
    (2**62, (2, 2), (2, 1), "leaves its storage"),
    (0, (2**62, 4), (4, 1), "leaves its storage"),
    (0, (2**62, 2**62), (1, 1), "leaves its storage"),
    (0, (2, 2), (2**62, 1), "leaves its storage"),
    (0, (2, 2), (2, 2**62), "leaves its storage"),
    (-1, (2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (-2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (-2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (2, -1), "rebuilds a tensor from other values"),
    (2**63, (0, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (2**64, 0), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (2,), "rebuilds a tensor from other values"),
    (0, [2, 2], (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2.0), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, True), (2, 1), "rebuilds a tensor from other values"),
    (None, (2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (1,) * 65, (1,) * 65, "rebuilds a tensor from other values"),
]


@pytest.mark.parametrize(("offset", "shape", "strides", "words"), BAD_VIEWS)
def test_views_stay_in_their_storage(
    tmp_path: Path, offset: Any, shape: Any, strides: Any, words: str
) -> None:
    data = state(w=rebuild(storage("0", 4), offset, shape, strides))
    refused(checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)}), words)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (storage("1", 4), "expected its data in member '1', found no such member"),
        (storage("../data.pkl", 4), "found no such member"),
        (storage("0", 5), "expected 20 bytes of data, found 16"),
        (storage("0", 2**62), f"expected {2**64} bytes of data, found 16"),
        (storage("0", 4, "DoubleStorage"), "expected 32 bytes of data, found 16"),
        (storage("0", -4), "persistent id of another kind"),
        (storage("0", 2**63), "persistent id of another kind"),
        (storage("0", 16, "UntypedStorage", "torch.storage"), "rebuilds a tensor from other values"),
        (storage("0", 4, "float32"), "persistent id of another kind"),
        (body(4), "rebuilds a tensor from other values"),
    ],
)
def test_storages_are_what_the_pickle_says(tmp_path: Path, held: bytes, words: str) -> None:
    data = state(w=rebuild(held, 0, (2, 2), (2, 1)))
    refused(checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)}), words)


def test_wrong_numbers_of_arguments(tmp_path: Path) -> None:
    held, hooks = storage("0", 4), b"\x89" + ORDERED_DICT
    view = held + body(0) + body((2, 2)) + body((2, 1))
    for name, arguments in {
        "_rebuild_tensor_v2": view + b"NNNN",
        "_rebuild_tensor_v3": view + hooks + b"N",
        "_rebuild_qtensor": view + body((1, 2, 3, 4)) + hooks,
        "_rebuild_parameter": body(1) + hooks,
        "_rebuild_parameter_with_state": b"",
    }.items():
        data = b"\x80\x02" + f"ctorch._utils\n{name}\n(".encode() + arguments + b"tR."
        path = checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)})
        refused(path, "rebuilds something from other arguments than torch's")


def test_big_endian_refused(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values}, byteorder=b"big")
    refused(path, "expected little-endian data, found b'big'")


def test_compressed_members_refused(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(
        tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values}, method=zipfile.ZIP_DEFLATED
    )
    refused(path, "without compression", "with method 8", RESAVE)


def test_archives_without_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for names in (["a/other"], ["data.pkl"], ["a/b/data.pkl"], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        refused(path, "is no torch checkpoint: expected one member NAME/data.pkl")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data.pkl", b"\x80\x02].")
    refused(path, "the name 'a/data.pkl' stands twice")


def changed(content: bytes, find: bytes, skip: int, new: bytes) -> bytes:
    """`content` with some bytes replaced, `skip` bytes after the last place of `find`."""
    place = content.rindex(find) + skip
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("find", "skip", "new", "words"),
    [
        (b"PK\5\6", 0, b"XX", "no whole zip archive"),
        (b"PK\5\6", 4, b"\1", "one part of a zip archive"),
        (b"PK\5\6", 10, b"\xff\xff", "one part of a zip archive"),
        (b"PK\5\6", 8, b"\xff\xff\xff\xff", "is malformed"),
        (b"PK\5\6", 8, b"\2\0\2\0", "is malformed"),
        (b"PK\5\6", 12, b"\xff\xff\xff\x7f", "2147483647"),
        (b"PK\5\6", 16, b"\xff\xff\xff\xff", "expected its zip directory to end at"),
        (b"PK\5\6", 20, b"\1", "no whole zip archive"),
        (b"PK\1\2", 0, b"XX", "is malformed"),
        (b"PK\1\2", 8, b"\1", "is encrypted"),
        (b"PK\1\2", 10, b"\x08", "without compression"),
        (b"PK\1\2", 20, b"\xff\xff\xff\x0f", "is malformed"),
        (b"PK\1\2", 28, b"\xff\xff", "is malformed"),
        (b"PK\1\2", 34, b"\1", "is malformed"),
        (b"PK\1\2", 42, b"\xff\xff\xff\x7f", "expected a local header before byte"),
        (b"PK\1\2", 42, b"\1\0\0\0", "expected its local header at byte 1, found another"),
        (b"PK\3\4", 0, b"XX", "is no zip checkpoint"),
        (b"PK\3\4", 8, b"\x08", "found another: the archive is damaged"),
        (b"PK\3\4", 30, b"b", "found another: the archive is damaged"),
        (b"PK\3\4", 28, b"\xff\xff", "the archive is damaged"),
    ],
)
def test_damaged_directories(tmp_path: Path, find: bytes, skip: int, new: bytes, words: str) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    path.write_bytes(changed(path.read_bytes(), find, skip, new))
    refused(path, words)


def test_directory_limits(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    content = checkpoint(path, b"\x80\x02}.").read_bytes()
    path.write_bytes(changed(content, b"PK\5\6", 12, struct.pack("<I", (64 << 20) + 1)))
    refused(path, "expected a zip directory of at most 262144 members and 67108864 bytes")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(100_000_001))
    refused(path, "expected at most 100000000 bytes")


def test_bytes_in_front(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02}.")
    path.write_bytes(b"PK\3\4" + path.read_bytes())
    refused(path, "has bytes in front")


def test_damage_never_escapes(tmp_path: Path) -> None:
    """Bits flipped all over: an answer or a SourceError, and nothing else."""
    path = make_view(columns_of_wider)(tmp_path, matrix_of("float32", 6))
    whole = path.read_bytes()
    draw = random.Random(4)
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            list_tensors(path)
            with open_source(path, "z.weight") as source:
                assert isinstance(source, RowSource)
                source.read(0, min(source.rows, 100))
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 50
