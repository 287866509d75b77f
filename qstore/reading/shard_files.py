"""The files of a sharded store: opened and checked when they are first read, a bounded number mapped."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ..engine.file_rows import WINDOW_BYTES
from ..errors import ClosedError, FormatError, ShardError, VersionError
from ..format.inspection import inspect_file
from ..format.layout import Facts, Shard
from ..format.manifest import Manifest
from ..keys.repeats import KeyFile
from ..system.paging import Resident
from ..system.stand_ins import HEAD_BYTES, pointer
from .local_store import LocalStore

__all__ = ["MOST_MAPPED", "ShardFiles", "check_files"]

MOST_MAPPED = 100
"""Shards mapped at a time. Each holds three descriptors, two of them for maps: a process may have 1,024."""

_SHOWN = 3

_Identity = tuple[int, int, int, int]


class ShardFiles:
    """Opens shards by number and keeps the last used ones mapped. Any number of threads may use one.

    What is thrown out stays mapped while somebody reads from it. There is no lock, so that a fork cannot
    inherit a held one: single operations on a dict are atomic, and two threads that open one shard at the
    same time do no harm.

    Parameters
    ----------
    shards : sequence of Shard
    dim : int
        Columns that each must have.
    resident_scales : bool
        As for one file; only of those that are mapped.
    resident_bytes : int or None
        How much of all of them may stay mapped; None for any number.
    follow : bool
        Whether their paths may be links.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        dim: int,
        resident_scales: bool,
        follow: bool,
        resident_bytes: int | None = None,
    ) -> None:
        self.shards = shards
        self._dim = dim
        size = sum(shard.rows for shard in shards) * (dim + 8)
        self.resident = Resident(resident_bytes, size, WINDOW_BYTES)
        self._resident_scales = resident_scales
        self._follow = follow
        self._open: dict[int, LocalStore] = {}
        self._used: dict[int, int] = {}
        self._clock = itertools.count()
        # What was checked before need not be again while the file is the same: 20 us to map, not 400.
        self._known: dict[int, tuple[_Identity, Facts]] = {}
        self._closed = False

    def get(self, number: int) -> LocalStore:
        """A shard, open.

        Raises
        ------
        ShardError
            It is missing, or not what it was when the store was published.
        ClosedError
        """
        found = self._open.get(number)
        if found is None:
            found = self._opened(number)
        self._used[number] = next(self._clock)
        return found

    def is_open(self, number: int) -> bool:
        """Whether :meth:`get` would give this shard at once."""
        return number in self._open

    def key_parts(self) -> list[KeyFile]:
        """The keys of those that have rows; each shard is opened when its keys are asked for."""
        return [
            KeyFile(shard.path, shard.first, shard.rows, partial(self._scanned_keys, number))
            for number, shard in enumerate(self.shards)
            if shard.rows
        ]

    def _scanned_keys(self, number: int) -> dict[str, NDArray[Any]]:
        return self.get(number).scanned_keys()

    @property
    def is_closed(self) -> bool:
        """Whether all is unmapped."""
        return self._closed

    def check_open(self) -> None:
        """ClosedError if it is closed."""
        if self._closed:
            raise ClosedError("the store is closed")

    def _opened(self, number: int) -> LocalStore:
        self.check_open()
        shard = self.shards[number]

        def describe(fd: int, path: str) -> Facts:
            return self._describe(number, fd, path)

        try:
            found = LocalStore(
                shard.path,
                self._resident_scales,
                resident=self.resident,
                describe=describe,
                follow=self._follow,
            )
        except (VersionError, ShardError):
            raise
        except FormatError as error:
            raise ShardError(f"shard number {number} is broken: {error}") from None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.ENOTDIR):
                raise
            raise ShardError(
                f"shard number {number} is missing: expected a file {shard.path}, found "
                f"{'none' if error.errno == errno.ENOENT else 'something else'}"
            ) from None
        self._used[number] = next(self._clock)
        self._open[number] = found
        if len(self._open) > MOST_MAPPED:
            self._throw_out()
        return found

    def _describe(self, number: int, fd: int, path: str) -> Facts:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._known.get(number)
        if known is not None and known[0] == identity:
            return known[1]
        description = inspect_file(fd, path)
        check_shard(self.shards[number], self._dim, description)
        self._known[number] = identity, description
        return description

    def _throw_out(self) -> None:
        """Let the quarter go that was not used for the longest time."""
        oldest = sorted(self._open, key=lambda number: self._used.get(number, -1))
        for number in oldest[: max(1, MOST_MAPPED // 4)]:
            self._open.pop(number, None)

    def close(self) -> None:
        """Unmap all; BufferError if arrays of them are in use, and all can be read on then."""
        self._closed = True
        for number, found in list(self._open.items()):
            try:
                found.close()
            except BufferError:
                self._closed = False
                raise
            self._open.pop(number, None)


def check_shard(shard: Shard, dim: int, found: Facts) -> None:
    """ShardError unless an open file is the shard that was published."""
    if found.dim != dim:
        raise ShardError(f"{shard.path} has {found.dim} columns, expected {dim} as the other shards have")
    if (found.rows, found.content_id) != (shard.rows, shard.content_id):
        raise ShardError(
            f"{shard.path} holds {found.rows:,} rows with content {found.content_id}, expected "
            f"{shard.rows:,} with {shard.content_id}: the file has been replaced; restore it, or publish "
            f"the shards anew"
        )


def check_files(directory: str, manifest: Manifest) -> None:
    """ShardError unless all files are there with the sizes they should have; none is opened.

    One look at the directory and one at each entry, which is 20 ms for 10,000.
    """
    expected = {
        os.path.basename(shard.path): size
        for shard, size in zip(manifest.shards, manifest.sizes, strict=True)
    }
    wrong = []
    with os.scandir(directory) as entries:
        for entry in entries:
            size = expected.get(entry.name)
            if size is None:
                continue
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode) and status.st_size == size:
                del expected[entry.name]
            else:
                wrong.append(f"{entry.name} (expected {size} bytes, found {_what_is(entry.path, status)})")
    missing = [name for name in expected if not any(text.startswith(f"{name} (") for text in wrong)]
    wrong.extend(f"{name} (missing)" for name in missing)
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ShardError(
            f"{directory}: the files are not those of the manifest: {', '.join(wrong[:_SHOWN])}{more}; "
            f"restore them: one that another program has rewritten is made what it was by qstore build; or "
            f"publish what is left anew (overwrite=True, qstore append --force), in which all rows behind a "
            f"missing file have other numbers"
        )


def _what_is(path: str, status: os.stat_result) -> str:
    """What lies in the place of a shard."""
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    with open(path, "rb") as file:
        return pointer(file.read(HEAD_BYTES)) or f"{status.st_size} bytes"
