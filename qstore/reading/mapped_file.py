"""A store's file, opened, checked and mapped: its datasets as arrays, until it is closed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.file_rows import WINDOW_BYTES
from ..errors import ClosedError
from ..format.inspection import inspect_file
from ..format.layout import TYPES, Facts
from ..keys.lookup import KeyIndex, open_keys
from ..system import durable_files
from ..system.paging import Pager, Resident
from .resident_scales import load_scales
from .row_file import Held, RowFile

__all__ = ["MappedStore"]

_VIEWS = (
    "table", "file", "codes", "scales", "checksums", "row_codes", "row_scales", "keys", "fidelity",
)  # fmt: skip


class MappedStore:
    """The mapped file: shared by every Store that views it. Any number of threads may read it.

    Parameters
    ----------
    path : str
        Absolute path of the store.
    resident_scales : bool
        Read all scales into private memory, in the background where they are many: then no page of the file
        is touched for them.
    resident : Resident, int or None
        How much may stay mapped: shared with other files, or bytes, or any number.
    describe : callable
        (descriptor, path) → the facts of the open file, checked.
    follow : bool
        Whether the path may be a link.

    Attributes
    ----------
    facts : Facts
        What the checked metadata says.
    shape : tuple of int
        (rows, columns).
    resident : Resident
    pager : Pager
    codes, scales, checksums : ndarray
        Read-only views of the datasets.
    row_codes, row_scales : ndarray
        The same for reads of scattered rows; scales may be packed.
    table : Table
        The same for reads of single rows.
    file : RowFile
        The same for reads that map nothing, or only what they may.
    fidelity : ndarray of float64, or None
        What the build measured; None where it did not.
    keys : KeyIndex or None
        None where rows have no keys.

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

    def __init__(
        self,
        path: str,
        resident_scales: bool = False,
        *,
        resident: Resident | int | None = None,
        describe: Callable[[int, str], Facts] = inspect_file,
        follow: bool = True,
    ) -> None:
        self.path = path
        self.resident_scales = resident_scales
        fd = durable_files.open_regular(path, follow=follow)
        try:
            self.facts = describe(fd, path)
            self.shape = (self.facts.rows, self.facts.dim)
            size = os.fstat(fd).st_size
            # Two maps, as read-ahead is a property of the map: scattered reads do without, since reading
            # 32 pages or more for one wastes most of the disk's time; scans and users' views have it.
            self._map = _mapped(fd, size, path)
            self._scattered_map = self._map
            with contextlib.suppress(OSError):  # the address space has room for one
                self._scattered_map = _mapped(fd, size, path)
                self._scattered_map.madvise(mmap.MADV_RANDOM)
            scales_fd = os.dup(fd) if resident_scales else None
        except BaseException:
            os.close(fd)
            raise
        self.resident = resident if isinstance(resident, Resident) else Resident(resident, size, WINDOW_BYTES)
        for held in (self._map, self._scattered_map):
            self.resident.watch(held)
        places, facts = self.facts.extents, self.facts
        codes_offset, first = places["codes"].offset, places["scales"].offset
        scales_offset = None if resident_scales else first
        scales = range(first, first + (0 if resident_scales else 8 * facts.rows))
        self._held = Held(fd, size, scales, self.resident.left if self.resident.bounded else None)
        self.pager = Pager(self._map, codes_offset, facts.rows, facts.dim, scales_offset, self.resident)
        self._closing = False
        self.row_scales: kernels.RowScales
        self._private_scales: kernels.RowScales | None = None
        self._make_views()
        if scales_fd is not None:
            load_scales(scales_fd, places["scales"].offset, self.facts.rows, self._take_up)

    def _take_up(self, scales: kernels.RowScales) -> None:
        """Read scattered rows with these scales from now on; called by any thread, also after closing."""
        self._private_scales = scales
        with contextlib.suppress(AttributeError, ValueError):  # closed
            table, file = kernels.table(self.row_codes, scales), self._row_file(scales)
            self.row_scales, self.table, self.file = scales, table, file
        if self._closing:
            self._drop_views()

    def _drop_views(self) -> None:
        for name in _VIEWS:
            self.__dict__.pop(name, None)

    def _make_views(self) -> None:
        shape = (self.facts.rows, self.facts.dim)
        self.codes: NDArray[np.uint8] = self._array(self._map, "codes").reshape(shape)
        self.scales: NDArray[np.float64] = self._array(self._map, "scales")
        self.checksums: NDArray[np.uint32] = self._array(self._map, "checksums").reshape(-1, 2)
        self.row_codes: NDArray[np.uint8] = self._array(self._scattered_map, "codes").reshape(shape)
        self.row_scales = self._array(self._scattered_map, "scales")
        if self._private_scales is not None:
            self.row_scales = self._private_scales
        self.table = kernels.table(self.row_codes, self.row_scales)
        self.file = self._row_file(self._private_scales)
        measured = "fidelity" in self.facts.extents
        self.fidelity: NDArray[np.float64] | None = self._array(self._map, "fidelity") if measured else None
        self.keys: KeyIndex | None = open_keys(self.path, self._key_arrays(self._scattered_map))

    def _row_file(self, scales: kernels.RowScales | None) -> RowFile:
        """Reads scales from the file where there are no others."""
        places, mapped = self.facts.extents, np.frombuffer(self._scattered_map, np.uint8)
        held_or_offset = places["scales"].offset if scales is None else scales
        return RowFile(self._held, *self.shape, places["codes"].offset, held_or_offset, mapped)

    def _key_arrays(self, mapped: mmap.mmap) -> dict[str, NDArray[Any]]:
        names = [name for name in self.facts.extents if name.startswith("keys/")]
        return {name.removeprefix("keys/"): self._array(mapped, name) for name in names}

    def _array(self, mapped: mmap.mmap, name: str) -> NDArray[Any]:
        """Read-only array over the data of one dataset."""
        offset, size = self.facts.extents[name]
        dtype = np.dtype(TYPES[name])
        return np.frombuffer(mapped, dtype, size // dtype.itemsize, offset) if size else np.empty(0, dtype)

    def row_arrays(self) -> tuple[NDArray[np.uint8], kernels.RowScales]:
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

    def view(self, name: Literal["codes", "scales", "checksums"]) -> NDArray[Any]:
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

    def fidelity_numbers(self) -> NDArray[np.float64] | None:
        """What the build measured; None where it did not.

        Raises
        ------
        ClosedError
            The file is closed.
        """
        try:
            return self.fidelity
        except AttributeError:
            raise self.closed() from None

    def key_index(self) -> KeyIndex:
        """The keys.

        Raises
        ------
        IndexError
            There are none.
        ClosedError
            The file is closed.
        """
        try:
            keys = self.keys
        except AttributeError:
            raise self.closed() from None
        self.resident.note(0)
        if keys is None:
            raise IndexError(f"the rows of {self.path} have no keys: they are found by number only")
        return keys

    def scanned_keys(self) -> dict[str, NDArray[Any]]:
        """The datasets of the keys by name, to be read from front to back; none where there are no keys."""
        self.view("codes")
        return self._key_arrays(self._map)

    def closed(self) -> ClosedError:
        """The error of reads of a closed file."""
        return ClosedError(f"the store {self.path} is closed")

    @property
    def is_closed(self) -> bool:
        """Whether the file is unmapped."""
        return self._map.closed

    def close(self) -> None:
        """Unmap the file. May be called twice.

        Raises
        ------
        BufferError
            Views are still alive elsewhere; the file stays open.
        """
        if self._map.closed:
            return
        self._closing = True
        self._drop_views()
        try:
            self._map.close()
        except BufferError:
            self._closing = False
            self._make_views()
            raise BufferError(
                f"{self.path} cannot be closed while arrays made from store.codes or store.scales are alive; "
                "delete them first (rows read from the store are copies and do not matter)"
            ) from None
        # A read under way in another thread may still hold the others; they go when that ends.
        del self._held
        with contextlib.suppress(BufferError):
            self._scattered_map.close()


def _mapped(fd: int, size: int, path: str) -> mmap.mmap:
    """A read-only map of a file.

    It is private, which changes nothing for those who only read: file systems in user space that bypass the
    page cache (FUSE with direct I/O, as sshfs and mergerfs may be mounted) refuse shared ones.
    """
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise OSError(error.errno, f"cannot be mapped: {os.strerror(error.errno or 0)}", path) from None
        import resource  # not for those whose stores are mapped

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        most = "" if limit == resource.RLIM_INFINITY else f" of {limit:,} bytes (ulimit -v)"
        raise OSError(
            errno.ENOMEM,
            f"its {size:,} bytes do not fit the address space{most}: expected room to map it",
            path,
        ) from None
