"""Pieces written one behind the other, in aligned windows."""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from qstore.system import write_windows
from qstore.system.write_windows import WindowedWriter

WINDOW = 64


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_windows, "_WINDOW", WINDOW)


@pytest.mark.parametrize("offset", [0, 12, WINDOW - 1, WINDOW])
@pytest.mark.parametrize("sizes", [[1], [5] * 40, [WINDOW] * 3, [200, 1, 200], [63, 2, 0, 7, 500]])
def test_all_is_written_in_whole_windows(tmp_path: Path, offset: int, sizes: list[int]) -> None:
    data = np.random.default_rng(0).integers(0, 256, sum(sizes), np.uint8)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    writer = WindowedWriter(fd, offset)
    start = 0
    for size in sizes:
        writer.add(data[start : start + size].data)
        start += size
        assert writer.end == offset + start
        assert writer.written == max(offset, writer.end // WINDOW * WINDOW)
        assert os.fstat(fd).st_size == (writer.written if writer.written > offset else 0)
    writer.flush()
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == bytes(offset) + data.tobytes()


def test_what_could_not_be_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.arange(150, dtype=np.uint8)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    writer = WindowedWriter(fd, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", lambda *_: 0)
        with pytest.raises(OSError, match="takes no more"):
            writer.add(data.data)
    assert writer.written == 0
    writer.flush()
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == data.tobytes()


@pytest.mark.parametrize("offset", [0, 12, WINDOW])
@pytest.mark.parametrize("takes", [-1, 0, 1])
def test_whole_windows_go_around_the_cache(
    tmp_path: Path, offset: int, takes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file system takes none, or no more."""
    direct, cached = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT), os.open(tmp_path / "f", os.O_RDWR)
    written, left, pwrite = [], [takes], os.pwrite

    def refusing(fd: int, data: memoryview, position: int) -> int:
        if fd != direct:
            return pwrite(fd, data, position)
        if not left[0]:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        left[0] -= 1
        written.append((position, data.nbytes))
        return pwrite(fd, data, position)

    monkeypatch.setattr(os, "pwrite", refusing)
    data = np.random.default_rng(0).integers(0, 256, 10 * WINDOW + 7, np.uint8)
    writer = WindowedWriter(cached, offset, direct)
    for piece in np.array_split(data, 17):
        writer.add(piece.data)
    assert writer.written <= writer.end // WINDOW * WINDOW
    writer.flush()
    assert writer.written == writer.end
    writer.close()
    os.close(direct)
    os.close(cached)
    assert (tmp_path / "f").read_bytes() == bytes(offset) + data.tobytes()
    first = -(-offset // WINDOW)
    whole = [(number * WINDOW, WINDOW) for number in range(first, (offset + len(data)) // WINDOW)]
    assert sorted(written) == whole if takes < 0 else len(written) <= takes


def test_another_error_is_raised(tmp_path: Path) -> None:
    cached = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    unwritable = os.open(tmp_path / "f", os.O_RDONLY)
    writer = WindowedWriter(cached, 0, unwritable)
    with contextlib.suppress(OSError):  # it may have come to light already
        writer.add(memoryview(bytes(WINDOW)))
    for _ in range(2):  # it is not forgotten
        with pytest.raises(OSError, match="Bad file"):
            writer.flush()
    assert writer.written == 0
    writer.close()
    os.close(unwritable)
    os.close(cached)
