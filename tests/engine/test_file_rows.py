"""Rows read from a file without a map: the same bytes on each engine, however the system reads them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, native
from numpy.typing import NDArray

from qstore.engine.file_rows import UNKNOWN, WINDOW_BYTES, Piece, Window, how, read_rows

ROWS, DIM, OFFSET = 3001, 37, 4099


@pytest.fixture
def data() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, OFFSET + ROWS * DIM, dtype=np.uint8)


@pytest.fixture
def fd(tmp_path: Path, data: NDArray[np.uint8]) -> Iterator[int]:
    (tmp_path / "x").write_bytes(data.tobytes())
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    yield fd
    os.close(fd)


def drop(fd: int) -> None:
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def two_pieces(count: int) -> tuple[Piece, Piece]:
    return (
        Piece(OFFSET + 3, DIM, 20, np.zeros((count, 20), np.uint8)),
        Piece(OFFSET, 8, 8, np.zeros((count, 8), np.uint8)),
    )


@pytest.mark.parametrize("count", [0, 1, 16, 511, 512, 5000])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_bytes_of_the_file(
    fd: int, data: NDArray[np.uint8], engine: str, count: int, dropped: bool
) -> None:
    rows = np.random.default_rng(count).integers(-ROWS, ROWS, count)
    one, other = two_pieces(count)
    if dropped:
        drop(fd)
    missing = read_rows(fd, rows, ROWS, (one, other))
    assert UNKNOWN <= missing <= 2 * count
    whole = data[OFFSET:].reshape(ROWS, DIM)
    np.testing.assert_array_equal(one.out, whole[rows, 3:23])
    np.testing.assert_array_equal(other.out, data[OFFSET : OFFSET + 8 * ROWS].reshape(-1, 8)[rows])
    assert read_rows(fd, rows, ROWS, (one, other)) in (0, UNKNOWN)


def test_no_columns(fd: int, engine: str) -> None:
    assert read_rows(fd, np.arange(5), ROWS, (Piece(OFFSET, DIM, 0, np.empty((5, 0), np.uint8)),)) <= 0


def test_pages_that_are_only_asked_for(fd: int, engine: str) -> None:
    drop(fd)
    rows = np.arange(0, ROWS, 7)
    assert read_rows(fd, rows, ROWS, (Piece(OFFSET, DIM, DIM, None),)) in (0, UNKNOWN)


@pytest.mark.parametrize("row", [ROWS, -ROWS - 1, 2**62, -(2**63)])
def test_rows_out_of_range(fd: int, engine: str, row: int) -> None:
    with pytest.raises(IndexError, match="row number 1 is out of range"):
        read_rows(fd, np.array([0, row]), ROWS, two_pieces(2))
    with pytest.raises(IndexError, match="row number 0 is out of range"):
        read_rows(fd, np.array([0]), 0, two_pieces(1))


def test_a_file_that_is_cut_off(tmp_path: Path, fd: int, engine: str) -> None:
    os.truncate(tmp_path / "x", OFFSET + 100)
    with pytest.raises(OSError, match=os.strerror(errno.EIO) if "C" in engine else "cut off") as caught:
        read_rows(fd, np.array([0, 7]), ROWS, two_pieces(2)[:1])
    assert caught.value.errno == errno.EIO


def test_a_file_system_that_does_not_tell_what_is_in_memory(engine: str) -> None:
    """procfs is one."""
    fd = os.open("/proc/version", os.O_RDONLY)
    try:
        out = np.zeros((3, 4), np.uint8)
        assert read_rows(fd, np.array([1, 0, 1]), 2, (Piece(0, 4, 4, out),)) == UNKNOWN
        text = Path("/proc/version").read_bytes()
        assert out.tobytes() == text[4:8] + text[:4] + text[4:8]
    finally:
        os.close(fd)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM])
def test_a_system_that_forbids_to_ask(
    fd: int, data: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made = os.preadv

    def refused(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(number, "not here")
        return made(fd, buffers, offset)

    monkeypatch.setattr("qstore.engine.kernels._native", None)
    monkeypatch.setattr(os, "preadv", refused)
    one = Piece(OFFSET, DIM, DIM, np.zeros((3, DIM), np.uint8))
    assert read_rows(fd, np.array([5, -1, 5]), ROWS, (one,)) == UNKNOWN
    np.testing.assert_array_equal(one.out, data[OFFSET:].reshape(ROWS, DIM)[[5, -1, 5]])
    assert how() == "posix_fadvise, pread"
    monkeypatch.delattr(os, "posix_fadvise")
    assert read_rows(fd, np.array([5]), ROWS, (one._replace(out=np.zeros((1, DIM), np.uint8)),)) == UNKNOWN
    assert how() == "pread"


@pytest.mark.parametrize("left", [0, 1, 3, 100])
def test_windows_of_the_map(tmp_path: Path, engine: str, left: int) -> None:
    """What is read through the map comes from it, and from as many windows as may be."""
    size = 8 * WINDOW_BYTES + 12345
    mapped = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    (tmp_path / "x").write_bytes(bytes(size))
    taken, remaining = np.zeros(9, np.uint8), np.array([left])
    rows = np.random.default_rng(2).integers(0, size // 100, 2000)
    one = Piece(0, 100, 100, np.full((2000, 100), 7, np.uint8))
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        read_rows(fd, rows, size // 100, (one,), Window(mapped, taken, remaining))
    finally:
        os.close(fd)
    assert one.out is not None
    from_map: NDArray[np.bool_] = np.any(one.out, axis=1)
    whole = mapped[: size // 100 * 100].reshape(-1, 100)
    np.testing.assert_array_equal(one.out[from_map], whole[rows[from_map]])
    used = 0 if engine == "NumPy" else min(left, 9)
    assert taken.sum() == used
    assert remaining[0] == left - used
    inside = taken[rows * 100 // WINDOW_BYTES] & taken[(rows * 100 + 99) // WINDOW_BYTES]
    assert not np.any(from_map & (inside == 0))


@NEEDS_EXTENSION
def test_arguments_that_do_not_fit(fd: int) -> None:
    out, rows = np.zeros((2, 8), np.uint8), np.array([0, 1])
    good = (fd, rows, ROWS, ((0, 8, 8, out),), None, None, None)
    window = np.zeros(100, np.uint8), np.zeros(1, np.uint8), np.zeros(1, np.int64)
    for place, bad in (
        (0, "fd"),
        (1, rows.astype(np.int32)),
        (2, -1),
        (3, []),
        (3, ()),
        (3, ((0, 8, 8, out),) * 3),
        (3, ((-1, 8, 8, out),)),
        (3, ((0, 2**60, 8, out),)),
        (3, ((0, 8, 9, out),)),
        (3, ((0, 8, 8, out[:1]),)),
        (3, ((0, 8, 8, out.astype(np.int8)),)),
        (4, window[0]),
    ):
        with pytest.raises((TypeError, ValueError)):
            native.read_rows(*good[:place], bad, *good[place + 1 :])
    for bad_window in (
        (window[0], window[1][:0], window[2]),
        (window[0], window[1], np.zeros(2, np.int64)),
        (window[0][::2], window[1], window[2]),
    ):
        with pytest.raises(ValueError, match="must"):
            native.read_rows(*good[:4], *bad_window)
    with pytest.raises(TypeError, match="takes 7 arguments"):
        native.read_rows(fd)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        native.read_rows(1 << 20, *good[1:])
