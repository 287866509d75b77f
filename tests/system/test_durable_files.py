"""The operating system's part, fault by fault."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qstore.errors import BusyError, OutputError
from qstore.system import durable_files


def failing(code: int) -> Any:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole_write(fd, bytes(data)[:3], offset))
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    durable_files.write_all(fd, b"0123456789", 5)
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == bytes(5) + b"0123456789"


def test_writes_that_write_nothing_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(OSError, match="takes no more"):
        durable_files.write_all(-1, b"x", 0)


@pytest.mark.parametrize("most", [1, 3, 4, 7, 100])
def test_short_writes_of_pieces_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    whole_write = os.pwrite

    def short_write(fd: int, pieces: list[memoryview], offset: int) -> int:
        return whole_write(fd, b"".join(pieces)[:most], offset)

    monkeypatch.setattr(os, "pwritev", short_write)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    durable_files.write_pieces(fd, [memoryview(b"0123"), memoryview(b"456"), memoryview(b"789")], 5)
    os.close(fd)
    assert (tmp_path / "f").read_bytes() == bytes(5) + b"0123456789"


def test_pieces_that_are_not_taken_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, offset: 0)
    with pytest.raises(OSError, match="takes no more"):
        durable_files.write_pieces(-1, [memoryview(b"x")], 0)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"0123456789")
    whole_read = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: whole_read(fd, min(size, 3), offset))
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    assert durable_files.read_exactly(fd, 6, 2) == b"234567"
    assert durable_files.read_exactly(fd, 100, 2) == b"23456789"
    os.close(fd)


def test_open_regular_refuses_everything_else_at_once(tmp_path: Path, no_leaks: None) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/null")):
        with pytest.raises(OSError, match=r"is a directory|not a regular file"):
            durable_files.open_regular(path)
    with pytest.raises(FileNotFoundError):
        durable_files.open_regular(tmp_path / "missing")


def test_a_locked_file_is_busy(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "f"
    held = durable_files.lock_file(path)
    with pytest.raises(BusyError, match="another process, or another writer of this one, is writing"):
        durable_files.lock_file(path)
    os.close(held)
    os.close(durable_files.lock_file(path))


def test_a_file_renamed_before_it_was_locked_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first writer publishes between the second one's open and lock."""
    path = tmp_path / "x.partial"
    path.write_bytes(b"published")
    real_lock = fcntl.flock
    renamed: list[bool] = []

    def lock_late(fd: int, how: int) -> None:
        if not renamed:
            os.replace(path, tmp_path / "x")
            renamed.append(True)
        real_lock(fd, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    fd = durable_files.lock_file(path)
    os.write(fd, b"second")
    os.close(fd)
    assert (tmp_path / "x").read_bytes() == b"published"
    assert path.read_bytes() == b"second"


def test_no_locks_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with pytest.warns(RuntimeWarning, match="no file locks"):
        os.close(durable_files.lock_file(tmp_path / "f"))
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        durable_files.lock_file(tmp_path / "f")


def test_allocate_reserves_blocks(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    durable_files.allocate(fd, 0)
    durable_files.allocate(fd, 1 << 20)
    assert os.fstat(fd).st_blocks * 512 >= 1 << 20
    with pytest.raises(OSError, match=r"No space|too large"):
        durable_files.allocate(fd, 1 << 50)
    os.close(fd)


def test_allocate_without_support_compares_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable_files, "_fallocate", lambda fd, size: False)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    durable_files.allocate(fd, 1 << 20)
    assert os.fstat(fd).st_blocks == 0
    with pytest.raises(OSError, match="No space"):
        durable_files.allocate(fd, 1 << 60)
    os.close(fd)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit"),
        (errno.EIO, "cannot write"),
    ],
)
def test_output_errors_keep_the_number_and_name_the_file(code: int, advice: str) -> None:
    with (
        pytest.raises(OutputError, match=advice) as caught,
        durable_files.output_errors(Path("/some/store.h5")),
    ):
        raise OSError(code, os.strerror(code))
    assert caught.value.errno == code
    assert caught.value.filename == "/some/store.h5"
    assert "/some/store.h5" in str(caught.value)


def test_publish_replaces(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    durable_files.publish(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new"
    assert not (tmp_path / "new").exists()
    durable_files.free_path(tmp_path / "old")
    durable_files.free_path(tmp_path / "old")


def test_file_size_limit_is_an_output_error(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys, numpy, qstore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))\n"
        "try: qstore.build(numpy.ones((5000, 64)), sys.argv[1])\n"
        "except qstore.OutputError as error: print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.h5")], capture_output=True, text=True, check=True
    )
    assert "file size limit" in run.stdout
    assert os.listdir(tmp_path) == []
