"""The operating system's part: open, lock, allocate, write all, sync, replace. POSIX; Linux first."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from ..errors import BusyError, OutputError
from .options import check_path

if TYPE_CHECKING:
    from pathlib import Path  # 8 ms that reading rows does not need

__all__ = [
    "allocate",
    "alone_in",
    "atomic_output",
    "check_room",
    "free_bytes",
    "free_path",
    "lock_file",
    "open_direct",
    "open_regular",
    "output_errors",
    "publish",
    "read_exactly",
    "same_file",
    "sync_data",
    "sync_directory",
    "write_all",
    "write_pieces",
]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_NO_FALLOCATE = {errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` inside the block into an `OutputError` that names the output."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)) + _room_in_words(error, path)
        advice = {
            errno.ENOSPC: "; free some space and run the same command again",
            errno.EDQUOT: "; the quota is used up",
            errno.EFBIG: "; the file size limit is reached (ulimit -f)",
            errno.ENOENT: "; create its directory first",
        }.get(error.errno or 0, "")
        raise OutputError(error.errno, f"cannot write {path}: {reason}{advice}", str(path)) from error


class _NoRoom(OSError):
    """The disk has no room for so many bytes more."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.needed, self.free = needed, free


def _room_in_words(error: OSError, path: Path) -> str:
    if isinstance(error, _NoRoom):
        return f": {error.needed:,} bytes are needed, {error.free:,} are free"
    if error.errno == errno.ENOSPC and (free := free_bytes(path.parent)) is not None:
        return f": {free:,} bytes are free"
    return ""


def free_bytes(directory: Path) -> int | None:
    """Bytes that are free where the directory is, or is to be made; None where that cannot be told."""
    while not directory.is_dir() and directory != directory.parent:
        directory = directory.parent
    try:
        status = os.statvfs(directory)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_room(path: Path, size: int, *held: Path) -> None:
    """Raise the error of :func:`allocate` if the disk has no room for `size` bytes at `path`.

    What the files `held` take, where they are there, counts as free.
    """
    free = free_bytes(path.parent)
    needed = size - sum(os.stat(one).st_blocks * 512 for one in held if one.is_file())
    if free is not None and needed > free:
        raise _NoRoom(needed, free)


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """Open a regular file for reading and return its descriptor.

    ``O_NONBLOCK`` keeps a FIFO from hanging the open; anything but a regular file is an `OSError`, and
    without `follow` a link is none.
    """
    check_path(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"is {kind}", os.fspath(path))
    return fd


def lock_file(path: Path) -> int:
    """Open `path` read-write, creating it, and hold an exclusive lock on it until it is closed.

    A writer that opened the file before another one published it (renamed it away) and locks it after
    would hold the published file: the inode is therefore compared with the path's once locked.
    """
    check_path(path)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _lock(fd, path)
            if same_file(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory, once others that do have let go of it."""
    check_path(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in {*_NO_LOCKS, errno.EBADF}:  # EBADF: NFS locks only what is open for writing
                raise
            warnings.warn(
                f"{directory} has no lock: make sure that only one process publishes in it",
                RuntimeWarning,
                stacklevel=4,
            )
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            errno.EAGAIN,
            f"another process, or another writer of this one, is writing {path}; wait for it, or choose "
            f"another output",
            str(path),
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"{path.parent} has no file locks: make sure that only one process writes {path}",
            RuntimeWarning,
            stacklevel=2,
        )


def open_direct(fd: int) -> int | None:
    """Open the file of `fd` once more, to write around the page cache; None where the system cannot.

    What is written must begin and end at multiples of the disk's blocks, in memory and in the file: else
    writing raises EINVAL.
    """
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:  # no /proc, or a file system that has no such way
        return None


def same_file(fd: int, path: Path) -> bool:
    """Is the open file the one of this name?"""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), found)


def allocate(fd: int, size: int) -> None:
    """Reserve disk space for the first `size` bytes, so that a full disk is an error now.

    The raw system call: glibc's ``posix_fallocate`` would write every page where the file system
    cannot reserve. There, the free space is compared instead.
    """
    if size <= 0:
        return
    status = os.fstatvfs(fd)  # now: a reservation that fails may leave nothing free for a while
    missing, free = size - os.fstat(fd).st_blocks * 512, status.f_bavail * status.f_frsize
    try:
        reserved = _fallocate(fd, size)
    except OSError as error:
        raise _NoRoom(missing, free) if error.errno == errno.ENOSPC else error from None
    if not reserved and missing > free:
        raise _NoRoom(missing, free)


def _fallocate(fd: int, size: int) -> bool:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "fallocate"):
        return False
    call = libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    while call(fd, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code in _NO_FALLOCATE:
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a short write is continued, not ignored."""
    view = memoryview(data).cast("B")
    while view.nbytes:
        written = os.pwrite(fd, view, offset)
        if written == 0:
            raise OSError(errno.EIO, "the file takes no more bytes")
        view = view[written:]
        offset += written


def write_pieces(fd: int, pieces: Sequence[memoryview], offset: int) -> None:
    """Write a few pieces of bytes one behind the other, in one call where the system takes them whole."""
    left = list(pieces)
    while left:
        written = os.pwritev(fd, left, offset)
        if written == 0:
            raise OSError(errno.EIO, "the file takes no more bytes")
        offset += written
        while left and written >= left[0].nbytes:
            written -= left.pop(0).nbytes
        if left:
            left[0] = left[0][written:]


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset`; fewer only where the file ends."""
    pieces = []
    while size:
        piece = os.pread(fd, size, offset)
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def sync_data(fd: int) -> None:
    """Make what was written durable, with the file's size but not its times."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def publish(partial: Path, final: Path) -> None:
    """Give a finished and synced file its final name, durably, replacing what had that name."""
    os.replace(partial, final)
    sync_directory(final.parent)


@contextlib.contextmanager
def atomic_output(path: Path, least_size: int = 0) -> Iterator[BinaryIO]:
    """Give a file to write to: when the block ends well it gets the name `path`, replacing what is there.

    When it does not, nothing is left behind. Disk space for `least_size` bytes is reserved at once.
    """
    # A name of its own: what another process writes, or left behind when it was killed, is not touched.
    partial = path.with_name(f"{path.name}.{os.urandom(4).hex()}.tmp")
    file = partial.open("x+b")
    try:
        with file:
            allocate(file.fileno(), least_size)
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(partial, path)
    except BaseException:
        free_path(partial)
        raise


def free_path(path: Path) -> None:
    """Remove a file if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
