"""The reader: opens, checks and maps a store, and dequantizes what is asked for."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import durable, indexing, kernels
from .errors import ClosedError, FormatError
from .inspection import inspect
from .paging import MANY_ROWS, Pager
from .progress import Progress
from .quantization import OUTPUT_TYPES, ZERO_POINT
from .verify import VerifyReport, verify_blocks

__all__ = ["Store", "open"]

_BLOCK_BYTES = 4 << 20


class _Mapping:
    """The mapped file: shared by every Store that views it."""

    def __init__(self, path: str, resident_scales: bool = False) -> None:
        self.path = path
        self.resident_scales = resident_scales
        fd = durable.open_regular(path)
        try:
            self.description = inspect(fd, path)
            size = os.fstat(fd).st_size
            # Two maps, as read-ahead is a property of the map: scattered reads do without, since reading
            # 32 pages or more for one wastes most of the disk's time; scans and users' views have it.
            self._map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            self._scattered_map = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
            self._scattered_map.madvise(mmap.MADV_RANDOM)
        finally:
            os.close(fd)
        places = self.description.extents
        scales_offset = None if resident_scales else places["scales"].offset
        self.pager = Pager(self._map, places["codes"].offset, self.description.dim, scales_offset)
        self._make_views()

    def _make_views(self) -> None:
        about = self.description
        self.codes = self.view("codes", np.dtype(np.uint8)).reshape(about.rows, about.dim)
        self.scales: NDArray[np.float64] = self.view("scales", np.dtype("<f8"))
        self.row_codes = self._view_in(self._scattered_map, "codes", self.codes.dtype).reshape(
            self.codes.shape
        )
        self.row_scales = self._view_in(self._scattered_map, "scales", self.scales.dtype)
        if self.resident_scales:
            self.scales = self.row_scales = np.array(self.scales)
            self.scales.flags.writeable = False
        # Costs nothing (no byte is copied) and lets NumPy index scales as if every value had its own.
        self.spread = np.broadcast_to(self.scales[:, None], self.codes.shape)

    def view(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Read-only array over the data of one dataset."""
        return self._view_in(self._map, name, dtype)

    def _view_in(self, mapped: mmap.mmap, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        offset, size = self.description.extents[name]
        return np.frombuffer(mapped, dtype, size // dtype.itemsize, offset) if size else np.empty(0, dtype)

    def close(self) -> None:
        if self._map.closed:
            return
        del self.codes, self.scales, self.spread, self.row_codes, self.row_scales
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


class Store:
    """An embedding matrix on disk, read like a NumPy array of shape (N, D).

    Made by :func:`qstore.open`. Indexing follows NumPy's rules and raises NumPy's exceptions; what it
    returns are fresh arrays of :attr:`dtype`. Values are ``(codes - 128) * scales`` in float64,
    rounded once to that dtype.

    Any number of threads and forked processes may use one store. Pickling sends the path and the
    content id. Rows stay readable when the file is replaced or unlinked; truncating it in place kills
    readers (SIGBUS), as it does with every memory map.
    """

    def __init__(self, mapping: _Mapping, dtype: np.dtype[Any]) -> None:
        self._mapping = mapping
        self._dtype = dtype
        self._shape = (mapping.description.rows, mapping.description.dim)

    # Facts ----------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Absolute path the store was opened at."""
        return self._mapping.path

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._shape

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def size(self) -> int:
        """Number of values."""
        return self._shape[0] * self._shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values that reads give: float32 unless :meth:`astype` said otherwise."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes the whole matrix would take as an array of :attr:`dtype`."""
        return self.size * self._dtype.itemsize

    @property
    def content_id(self) -> str:
        """32 hexadecimal digits that tell this content from any other."""
        return self._mapping.description.content_id

    @property
    def tensor(self) -> str:
        """Name of the tensor the store was built from; empty if it had none."""
        return self._mapping.description.tensor

    @property
    def source_dtype(self) -> str:
        """Element type the store was built from; empty if unknown."""
        return self._mapping.description.source_dtype

    @property
    def format_version(self) -> tuple[int, int]:
        """(major, minor) version of the file format."""
        return self._mapping.description.version

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes, shape (N, D): a read-only view of the file."""
        return self._view("codes")

    @property
    def scales(self) -> NDArray[np.float64]:
        """The scales, shape (N,): a read-only view of the file."""
        return self._view("scales")

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 of the codes and the scales of each block, shape (B, 2)."""
        self._view("codes")
        return self._mapping.view("checksums", np.dtype("<u4")).reshape(-1, 2)

    def _view(self, name: str) -> NDArray[Any]:
        try:
            view: NDArray[Any] = getattr(self._mapping, name)
        except AttributeError:
            raise ClosedError(f"the store {self.path} is closed") from None
        return view

    def __len__(self) -> int:
        return self._shape[0]

    def __repr__(self) -> str:
        return f"<qstore.Store {self.path}: {self._shape[0]} × {self._shape[1]}, read as {self._dtype}>"

    # Reading --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if type(key) is int:
            return self._row(key, indexing.ALL)
        selection = indexing.select(key, *self._shape)
        if selection is None:
            return self._elementwise(key)
        rows, columns = selection
        if isinstance(rows, slice):
            return self._slice(rows, columns)
        if isinstance(rows, int):
            return self._row(rows, columns)
        codes = self._view("row_codes")
        if columns is not indexing.ALL:
            codes = codes[:, columns]
        out = np.empty((*rows.shape, codes.shape[1]), self._dtype)
        self._gather(codes, rows.reshape(-1), out.reshape(rows.size, codes.shape[1]))
        return out

    def _row(self, number: int, columns: slice) -> NDArray[Any]:
        """One row with the least Python in the way."""
        try:
            codes, scales = self._mapping.row_codes, self._mapping.row_scales
        except AttributeError:
            codes, scales = self._view("row_codes"), self._view("row_scales")
        if columns is not indexing.ALL:
            codes = codes[:, columns]
        out = np.empty(codes.shape[1], self._dtype)
        try:
            kernels.gather_row(codes, scales, number, out)
        except OverflowError:  # more than 64 bits: NumPy has its own words for that
            return self._elementwise(number)
        return out

    def _slice(self, rows: slice, columns: slice) -> NDArray[Any]:
        codes, scales = self._view("codes")[rows, columns], self._view("scales")[rows]
        out = np.empty(codes.shape, self._dtype)

        def work(start: int, stop: int) -> None:
            kernels.dequantize_into(codes[start:stop], scales[start:stop], out[start:stop])

        first, _, step = rows.indices(self._shape[0])
        if step == 1 and len(codes) >= MANY_ROWS:
            self._mapping.pager.sequential(first, len(codes), work)
        else:
            work(0, len(codes))
        return out

    def _gather(
        self, codes: NDArray[np.uint8], rows: NDArray[np.int64], out: NDArray[Any], threads: int | None = None
    ) -> None:
        scales, pager = self._view("row_scales"), self._mapping.pager
        if rows.size < MANY_ROWS and not pager.cold:
            pager.few(rows.size, lambda: kernels.gather(codes, scales, rows, out, threads))
            return

        def work(start: int, stop: int) -> None:
            kernels.gather(codes, scales, rows[start:stop], out[start:stop], threads)

        kernels.check_rows(codes, scales, rows, out)  # all of them before any is written
        pager.scattered(rows, self._shape[0], work)

    def _elementwise(self, key: Any) -> NDArray[Any]:
        """Let NumPy index codes and scales alike: its rules and exceptions, whatever the key."""
        codes, scales = self._view("codes")[key], self._view("spread")[key]
        values = np.empty(np.shape(codes), np.float64)
        np.subtract(codes, float(ZERO_POINT), out=values)
        with np.errstate(over="ignore", under="ignore"):
            values *= scales
            result = values.astype(self._dtype)
        return result if isinstance(codes, np.ndarray) else result[()]

    def take(
        self, rows: ArrayLike, out: NDArray[Any] | None = None, threads: int | None = None
    ) -> NDArray[Any]:
        """Read rows in any order, as ``numpy.take(matrix, rows, axis=0)``.

        Parameters
        ----------
        rows : array_like of int
            Any shape; repeats and negative numbers are fine.
        out : ndarray, optional
            C-contiguous, shape ``rows.shape + (D,)``, float32, float64 or float16: filled and
            returned, nothing is allocated then.
        threads : int, optional
            For large requests; the number of processors by default.

        Raises
        ------
        IndexError
            A row is out of range.
        """
        codes = self._view("row_codes")
        numbers = _row_numbers(rows)
        shape = (*numbers.shape, self._shape[1])
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            _checked_out(out, shape, OUTPUT_TYPES)
        self._gather(codes, numbers.reshape(-1), out.reshape(numbers.size, self._shape[1]), threads)
        return out

    def pool(
        self,
        rows: ArrayLike,
        offsets: ArrayLike,
        weights: ArrayLike | None = None,
        mode: Literal["sum", "mean"] = "sum",
        out: NDArray[Any] | None = None,
        threads: int | None = None,
    ) -> NDArray[Any]:
        """Sum or average bags of rows, as an embedding bag, without making the rows.

        Added up in float64 in the order of `rows`: ``(weight * scale) * (code - 128)``, rounded once.

        Parameters
        ----------
        rows : array_like of int, shape (m,)
            The rows of all bags, one bag after the other; repeats and negative numbers are fine.
        offsets : array_like of int, shape (bags,)
            Where each bag begins in `rows`; begins with 0 and never falls. An empty bag gives 0.
        weights : array_like of float, shape (m,), optional
            Factor of each row.
        mode : {"sum", "mean"}
            A mean divides by the number of rows of the bag, whatever their weights.
        out : ndarray of float32 or float64, shape (bags, D), optional
            C-contiguous: filled and returned.
        threads : int, optional
            For large requests; the number of processors by default.

        Returns
        -------
        ndarray, shape (bags, D)
            Of :attr:`dtype`.

        Raises
        ------
        IndexError
            A row is out of range.
        ValueError
            Offsets, weights, mode or `out` do not fit.
        """
        codes, scales = self._view("row_codes"), self._view("row_scales")
        numbers, starts = _row_numbers(rows), _row_numbers(offsets)
        if numbers.ndim != 1 or starts.ndim != 1:
            raise ValueError(f"rows and offsets have shapes {numbers.shape} and {starts.shape}, expected 1-D")
        factors = None if weights is None else _weights(weights, numbers.size)
        shape = (starts.size, self._shape[1])
        if out is None:
            sums = np.empty(shape, np.float32 if self._dtype == np.float32 else np.float64)
        else:
            sums = _checked_out(out, shape, ("float32", "float64"))
        if mode not in ("sum", "mean"):
            raise ValueError(f'mode is {mode!r}, expected "sum" or "mean"')
        if starts.size:
            kernels.pool(codes, scales, numbers, starts, factors, mode, sums, threads)
        elif numbers.size:
            raise ValueError(f"there are {numbers.size} rows but no offsets: offsets must begin with 0")
        return sums if out is not None else sums.astype(self._dtype, copy=False)

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Walk the whole matrix in order: yields (first row, fresh array of shape (n, D)).

        Parameters
        ----------
        rows : int, optional
            Rows of one block; by default about 4 MiB of them.
        """
        step = max(1, _BLOCK_BYTES // (self._shape[1] * self._dtype.itemsize)) if rows is None else rows
        if step < 1:
            raise ValueError(f"rows is {rows}, expected at least 1")
        for start in range(0, self._shape[0], step):
            yield start, self[start : start + step]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for _, block in self.blocks():
            for row in block:
                yield row.copy()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError(
                "the values of a store are made on reading: an array without a copy is impossible"
            )
        if dtype is None or np.dtype(dtype) == self._dtype:
            return self[:]
        wanted = np.dtype(dtype)
        return self.astype(wanted)[:] if wanted.name in OUTPUT_TYPES else self[:].astype(wanted)

    def astype(self, dtype: DTypeLike) -> Store:
        """The same store, read as float32, float64 or float16. Shares the map: closing one closes both."""
        wanted = np.dtype(dtype).newbyteorder("=")
        if wanted.name not in OUTPUT_TYPES:
            raise ValueError(f"dtype is {wanted}, expected one of {', '.join(OUTPUT_TYPES)}")
        return type(self)(self._mapping, wanted)

    def verify(self, progress: Progress = None) -> VerifyReport:
        """Compare every block with its checksums; the structure was checked on opening.

        Parameters
        ----------
        progress : bool or callable, optional
            True shows a bar on stderr; a callable gets (rows done, rows in all).
        """
        return verify_blocks(self.codes, self.scales, self.checksums, self.content_id, progress)

    def __getitems__(self, rows: list[int]) -> NDArray[Any]:
        return self.take(rows)

    # Life -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Unmap the file. May be called twice.

        Raises
        ------
        BufferError
            Arrays made from :attr:`codes` or :attr:`scales` are still alive; the store stays open.
        """
        self._mapping.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.content_id, self._dtype.name, self._mapping.resident_scales)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return "qstore.Store", self.content_id, self._dtype.name


def _row_numbers(given: ArrayLike) -> NDArray[np.int64]:
    numbers = np.asarray(given)
    if numbers.size and numbers.dtype.kind not in "iu":
        raise IndexError(f"row numbers must be integers, found {numbers.dtype}")
    return np.ascontiguousarray(numbers, dtype=np.int64).reshape(numbers.shape)


def _weights(given: ArrayLike, count: int) -> NDArray[Any]:
    weights = np.asarray(given)
    if weights.shape != (count,) or weights.dtype.kind not in "fiu":
        raise ValueError(
            f"weights have shape {weights.shape} and dtype {weights.dtype}, expected {count} numbers"
        )
    return np.ascontiguousarray(weights, np.float32 if weights.dtype == np.float32 else np.float64)


def _checked_out(out: NDArray[Any], shape: tuple[int, ...], dtypes: tuple[str, ...]) -> NDArray[Any]:
    if out.shape != shape or str(out.dtype) not in dtypes or not out.flags.c_contiguous:
        raise ValueError(
            f"out has shape {out.shape} and dtype {out.dtype}, expected C-contiguous {shape} "
            f"and one of {', '.join(dtypes)}"
        )
    return out


def open(path: str | os.PathLike[str], *, resident_scales: bool = False) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : path-like
        A file that :func:`qstore.build` or :class:`qstore.Writer` made.
    resident_scales : bool
        Read all scales into private memory now, 8 bytes a row. A row that is not in memory then costs
        one page read instead of two; worth it for scattered reads of a file larger than RAM.

    Returns
    -------
    Store
        Reads give float32; see :meth:`Store.astype`.

    Raises
    ------
    FormatError, VersionError
        The file is not a valid store, or of a newer version.
    OSError
        The file is not there or cannot be read.
    """
    return Store(_Mapping(os.path.abspath(os.fsdecode(path)), resident_scales), np.dtype(np.float32))


def _reopen(path: str, content_id: str, dtype: str, resident_scales: bool) -> Store:
    store = open(path, resident_scales=resident_scales).astype(dtype)
    if store.content_id != content_id:
        store.close()
        raise FormatError(
            f"{path} has content {store.content_id}, expected {content_id}: the file has been replaced"
        )
    return store
