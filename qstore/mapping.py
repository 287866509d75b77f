"""A store's file, opened, checked and mapped: its datasets as arrays, until it is closed."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import durable, kernels
from .errors import ClosedError
from .inspection import inspect
from .layout import Facts
from .paging import Pager

__all__ = ["MappedStore"]


class MappedStore:
    """The mapped file: shared by every Store that views it. Any number of threads may read it.

    Parameters
    ----------
    path : str
        Absolute path of the store.
    resident_scales : bool
        Read all scales into private memory now.

    Attributes
    ----------
    facts, description : Description
        What the checked metadata says.
    pager : Pager
    codes, scales, checksums : ndarray
        Read-only views of the datasets.
    row_codes, row_scales : ndarray
        The same for reads of scattered rows.
    table : Table
        The same for reads of single rows.
    spread : ndarray of float64, shape (N, D)
        The scales, as if every value had its own.

    Raises
    ------
    FormatError, VersionError
        The file is not a valid store, or of a newer version.
    OSError
        The file is not there or cannot be read.

    Notes
    -----
    The arrays are attributes, and gone once the file is closed: reading one row, where nanoseconds count,
    takes them as they are; :meth:`row_arrays` and :meth:`view` say what is wrong when one is missing.
    """

    def __init__(self, path: str, resident_scales: bool = False) -> None:
        self.path = path
        self.resident_scales = resident_scales
        fd = durable.open_regular(path)
        try:
            size = os.fstat(fd).st_size
            self.description = inspect(functools.partial(os.pread, fd), size, path)
            # Two maps, as read-ahead is a property of the map: scattered reads do without, since reading
            # 32 pages or more for one wastes most of the disk's time; scans and users' views have it.
            self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            self._scattered_map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            self._scattered_map.madvise(mmap.MADV_RANDOM)
        finally:
            os.close(fd)
        self.facts: Facts = self.description
        places = self.description.extents
        scales_offset = None if resident_scales else places["scales"].offset
        self.pager = Pager(self._map, places["codes"].offset, self.description.dim, scales_offset)
        self._make_views()

    def _make_views(self) -> None:
        shape = (self.description.rows, self.description.dim)
        self.codes: NDArray[np.uint8] = self._array(self._map, "codes", "u1").reshape(shape)
        self.scales: NDArray[np.float64] = self._array(self._map, "scales", "<f8")
        self.checksums: NDArray[np.uint32] = self._array(self._map, "checksums", "<u4").reshape(-1, 2)
        self.row_codes: NDArray[np.uint8] = self._array(self._scattered_map, "codes", "u1").reshape(shape)
        self.row_scales: NDArray[np.float64] = self._array(self._scattered_map, "scales", "<f8")
        if self.resident_scales:
            self.scales = self.row_scales = np.array(self.scales)
            self.scales.flags.writeable = False
        self.table = kernels.table(self.row_codes, self.row_scales)
        # Costs nothing (no byte is copied) and lets NumPy index scales as if every value had its own.
        self.spread = np.broadcast_to(self.scales[:, None], shape)

    def _array(self, mapped: mmap.mmap, name: str, kind: str) -> NDArray[Any]:
        """Read-only array over the data of one dataset."""
        offset, size = self.description.extents[name]
        dtype = np.dtype(kind)
        return np.frombuffer(mapped, dtype, size // dtype.itemsize, offset) if size else np.empty(0, dtype)

    def row_arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales for reads of scattered rows.

        Raises
        ------
        ClosedError
            The file is closed.
        """
        try:
            return self.row_codes, self.row_scales
        except AttributeError:
            raise self.closed() from None

    def view(self, name: Literal["codes", "scales", "checksums", "spread"]) -> NDArray[Any]:
        """One of the other arrays.

        Raises
        ------
        ClosedError
            The file is closed.
        """
        try:
            view: NDArray[Any] = getattr(self, name)
        except AttributeError:
            raise self.closed() from None
        return view

    def closed(self) -> ClosedError:
        """The error of reads of a closed file."""
        return ClosedError(f"the store {self.path} is closed")

    def close(self) -> None:
        """Unmap the file. May be called twice.

        Raises
        ------
        BufferError
            Views are still alive elsewhere; the file stays open.
        """
        if self._map.closed:
            return
        del self.table, self.codes, self.scales, self.checksums, self.row_codes, self.row_scales, self.spread
        try:
            self._map.close()
        except BufferError:
            self._make_views()
            raise BufferError(
                f"{self.path} cannot be closed while arrays made from store.codes or store.scales are alive; "
                "delete them first (rows read from the store are copies and do not matter)"
            ) from None
        # A read under way in another thread may still hold this one; it goes when that ends.
        with contextlib.suppress(BufferError):
            self._scattered_map.close()
