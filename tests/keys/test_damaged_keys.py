"""Damaged keys: an index that lies is found when it is used, or by verify."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keyed_stores import keyed

import qstore
from qstore.format.checksums import crc32
from qstore.opening import describe_file


def places(path: Path) -> dict[str, int]:
    return {name: at.offset for name, at in describe_file(str(path)).extents.items()}


def patched(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("row", [-1, 3, 1 << 62, -(1 << 63)])
@pytest.mark.parametrize("kind", ["text", "integer"])
def test_rows_out_of_range(engine: str, tmp_path: Path, kind: str, row: int) -> None:
    keys: list[Any] = ["a", "b", "c"] if kind == "text" else [1, 2, 3]
    path = tmp_path / "store.h5"
    keyed(path, keys).close()
    patched(path, places(path)["keys/rows"], struct.pack("<q", row) * 3)
    with qstore.open(path) as store:
        with pytest.raises(qstore.FormatError, match=r"the keys are damaged: .* is no row"):
            store.rows_of(keys)
        with pytest.raises(qstore.FormatError, match=r"the keys are damaged: .* is no row"):
            store.get(keys[0])
        assert store.rows_of(["?"] if kind == "text" else [7], default=-1).tolist() == [-1]
        report = store.verify()
    assert not report.keys_ok
    assert "/keys/rows differs from its checksum" in report.problems


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 1, 2, 1 << 40],
        [0, -1, 2, 3],
        [0, 3, 2, 3],
        [-(1 << 63), 1, 2, 3],
        [0, 1, 2, -(1 << 63)],
        [4, 4, 4, 4],
    ],
)
def test_offsets_that_lie(engine: str, tmp_path: Path, offsets: list[int]) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["a", "b", "c"]).close()
    patched(path, places(path)["keys/offsets"], struct.pack("<4q", *offsets))
    with qstore.open(path) as store:
        for ask in (
            lambda: store.key_of(slice(None)),
            lambda: store.key_of([2, 1, 0]),
            lambda: store.rows_of(["a", "b", "c"]),
        ):
            with pytest.raises(qstore.FormatError, match="the keys are damaged"):
                ask()
        assert any("/keys/offsets" in problem for problem in store.verify().problems)


def test_texts_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["é", "b", "cd"]).close()
    patched(path, places(path)["keys/bytes"], b"\xc3(")
    with qstore.open(path) as store:
        for row in (0, slice(None), [1, 0]):
            with pytest.raises(qstore.FormatError, match="the text of row 0 is not UTF-8"):
                store.key_of(row)
        assert store.key_of([1, 2]) == ["b", "cd"]
        assert "/keys/bytes is not UTF-8 somewhere in rows 0 to 2" in store.verify().problems


def test_an_offset_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["é", "b"]).close()
    patched(path, places(path)["keys/offsets"], struct.pack("<3q", 0, 1, 3))
    with qstore.open(path) as store:
        with pytest.raises(qstore.FormatError, match="not UTF-8"):
            store.key_of(0)
        assert any("is not UTF-8" in problem for problem in store.verify().problems)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_an_index_in_any_order_is_searched_in_bounds(engine: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.h5"
    keys: Any = [f"w{row}" for row in range(5000)] if kind == "text" else np.arange(5000)
    keyed(path, keys, dim=1).close()
    name = "keys/hashes" if kind == "text" else "keys/sorted"
    generator = np.random.default_rng(9)
    for fill in (
        generator.integers(0, 1 << 64, 5000, np.uint64),
        np.zeros(5000, np.uint64),
        np.full(5000, (1 << 64) - 1, np.uint64),
        np.arange(5000, dtype=np.uint64)[::-1] << np.uint64(51),
    ):
        patched(path, places(path)[name], fill.tobytes())
        with qstore.open(path) as store:
            found = store.rows_of(keys, default=-1)
            assert ((found >= -1) & (found < 5000)).all()
            assert not store.verify().ok


def test_verify_finds_an_index_that_is_of_other_keys(tmp_path: Path) -> None:
    """In order, with its checksums and content id, and yet wrong: rows of two keys exchanged."""
    path = tmp_path / "store.h5"
    keyed(path, [10, 20]).close()
    content, at = bytearray(path.read_bytes()), places(path)
    rows = struct.pack("<2q", 1, 0)
    content[at["keys/rows"] : at["keys/rows"] + 16] = rows
    crc = crc32(np.frombuffer(rows, np.uint8))
    content[at["keys/checksums"] + 8 : at["keys/checksums"] + 12] = struct.pack("<I", crc)
    path.write_bytes(content)
    with qstore.open(path) as store:
        assert store.verify().problems == (
            "/keys: the index does not hold each row once, with the hash or number of its key",
            "the content id does not belong to the checksums",
        )


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_a_flipped_bit_is_found_by_verify(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.h5"
    keys: list[Any] = [f"w{row}" for row in range(300)] if kind == "text" else list(range(300))
    keyed(path, keys).close()
    good = path.read_bytes()
    extents = describe_file(str(path)).extents
    for name, extent in extents.items():
        if name.startswith("keys/"):
            content = bytearray(good)
            content[extent.offset + extent.size // 2] ^= 4
            path.write_bytes(content)
            with qstore.open(path) as store:
                report = store.verify()
            assert not report.ok, name
            assert report.keys_ok is False, name
