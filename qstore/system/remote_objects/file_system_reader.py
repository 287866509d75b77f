"""Ranges through any file system of fsspec."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ...errors import ChangedError, RemoteError, RemoteNotFoundError
from ..extent import Extent
from ..urls import without_secrets
from .reader import HEAD_BYTES, Connect, Reader

__all__ = ["FileSystemReader"]

_IDENTITY = (
    *("size", "type", "ETag", "etag", "md5", "md5Hash", "checksum", "generation", "VersionId", "version_id"),
    *("LastModified", "last_modified", "updated", "mtime", "created", "ino"),
)
"""What file systems tell about an object that is different for another one of the same name."""


class FileSystemReader(Reader):
    """Reads by ``cat_ranges`` and checks what it may leave unchecked: lengths, and that it is one object.

    fsspec has no conditional reads. So the object is looked at again after each batch of ranges: if it is
    still the one that was opened, all of them came from it. That costs one request more.

    Parameters
    ----------
    name : str
        For messages.
    connect : callable
        Makes the file system.
    """

    def __init__(self, name: str, connect: Connect) -> None:
        self.name, self._connect = name, connect
        self._file_system, self._path = connect()
        self._identity = self._look()
        if self._identity.get("type") == "directory":
            raise RemoteError(f"{name} is a directory, expected an object")
        size = self._identity.get("size")
        if not isinstance(size, int):
            raise RemoteError(f"{name}: the size of the object is not known: it cannot be read in ranges")
        self.size = size
        told = {key: value for key, value in self._identity.items() if key not in ("size", "type")}
        self.version = ", ".join(f"{key} {value}" for key, value in told.items())
        self.head = self.fetch([Extent(0, min(size, HEAD_BYTES))])[0] if size else b""

    def fetch(self, extents: Sequence[Extent]) -> list[bytes]:
        """See :meth:`.Reader.fetch`."""
        paths = [self._path] * len(extents)
        starts, stops = [one.offset for one in extents], [one.stop for one in extents]
        try:
            bodies = self._file_system.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:  # file systems raise what their libraries raise
            raise self._failed(error) from error
        now = self._look()
        if now != self._identity:
            raise ChangedError(f"{self.name} has changed since it was opened: open it again")
        for body, extent in zip(bodies, extents, strict=True):
            if isinstance(body, Exception):
                raise self._failed(body) from body
            if len(body) != extent.size:
                asked = f"bytes {extent.offset} to {extent.stop - 1}"
                raise RemoteError(f"{self.name}: {len(body)} bytes came instead of {asked}")
        return [bytes(body) for body in bodies]

    def _look(self) -> dict[str, Any]:
        try:
            self._file_system.invalidate_cache(self._path)
            about = self._file_system.info(self._path)
        except Exception as error:
            raise self._failed(error) from error
        return {key: about[key] for key in _IDENTITY if key in about}

    def _failed(self, error: Exception) -> RemoteError:
        if isinstance(error, FileNotFoundError):
            failed: RemoteError = RemoteNotFoundError(f"{self.name}: there is no such object")
            failed.status = 404
            return failed
        failed = RemoteError(f"{self.name}: {type(error).__name__}: {without_secrets(str(error))}")
        failed.status = 403 if isinstance(error, PermissionError) else None
        return failed

    def reopened(self) -> Reader:
        """See :meth:`.Reader.reopened`."""
        again = copy.copy(self)
        again._file_system, again._path = self._connect()
        return again

    def close(self) -> None:
        """Nothing to do: the file system is fsspec's, which may share it."""
