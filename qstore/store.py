"""The reader: a store that is read like an array."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import indexing, kernels
from .arguments import as_row_numbers, as_weights, check_whole_out
from .errors import FormatError
from .mapping import MappedStore
from .products import multiply
from .progress import Progress
from .quantization import OUTPUT_TYPES
from .reading import gather, read_by_numpy, read_row, read_slice
from .scanning import Metric
from .searching import Part, search
from .verify import VerifyReport, verify_blocks

__all__ = ["Store", "open"]

_BLOCK_BYTES = 4 << 20


class Store:
    """An embedding matrix on disk, read like a NumPy array of shape (N, D).

    Made by :func:`qstore.open`. Indexing follows NumPy's rules and raises NumPy's exceptions; what it
    returns are fresh arrays of :attr:`dtype`. Values are ``(codes - 128) * scales`` in float64,
    rounded once to that dtype.

    Any number of threads and forked processes may use one store. Pickling sends the path and the
    content id. Rows stay readable when the file is replaced or unlinked; truncating it in place kills
    readers (SIGBUS), as it does with every memory map.
    """

    def __init__(self, mapping: MappedStore, dtype: np.dtype[Any]) -> None:
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
        return self._mapping.view("codes")

    @property
    def scales(self) -> NDArray[np.float64]:
        """The scales, shape (N,): a read-only view of the file."""
        return self._mapping.view("scales")

    @property
    def checksums(self) -> NDArray[np.uint32]:
        """CRC-32 of the codes and the scales of each block, shape (B, 2)."""
        return self._mapping.view("checksums")

    def __len__(self) -> int:
        return self._shape[0]

    def __repr__(self) -> str:
        return f"<qstore.Store {self.path}: {self._shape[0]} × {self._shape[1]}, read as {self._dtype}>"

    # Reading --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if type(key) is int:
            return read_row(self._mapping, key, indexing.ALL, self._dtype)
        selection = indexing.select(key, *self._shape)
        if selection is None:
            return read_by_numpy(self._mapping, key, self._dtype)
        rows, columns = selection
        if isinstance(rows, slice):
            return read_slice(self._mapping, rows, columns, self._dtype)
        if isinstance(rows, int):
            return read_row(self._mapping, rows, columns, self._dtype)
        codes, scales = self._mapping.row_arrays()
        if columns is not indexing.ALL:
            codes = codes[:, columns]
        out = np.empty((*rows.shape, codes.shape[1]), self._dtype)
        flat = out.reshape(rows.size, codes.shape[1])
        gather(self._mapping.pager, codes, scales, rows.reshape(-1), flat)
        return out

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
        codes, scales = self._mapping.row_arrays()
        numbers = as_row_numbers(rows)
        shape = (*numbers.shape, self._shape[1])
        if out is None:
            out = np.empty(shape, self._dtype)
        else:
            check_whole_out(out, shape, OUTPUT_TYPES)
        flat = out.reshape(numbers.size, self._shape[1])
        gather(self._mapping.pager, codes, scales, numbers.reshape(-1), flat, threads)
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
        codes, scales = self._mapping.row_arrays()
        numbers, starts = as_row_numbers(rows), as_row_numbers(offsets)
        if numbers.ndim != 1 or starts.ndim != 1:
            raise ValueError(f"rows and offsets have shapes {numbers.shape} and {starts.shape}, expected 1-D")
        factors = None if weights is None else as_weights(weights, numbers.size)
        shape = (starts.size, self._shape[1])
        if out is None:
            sums = np.empty(shape, np.float32 if self._dtype == np.float32 else np.float64)
        else:
            check_whole_out(out, shape, ("float32", "float64"))
            sums = out
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

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        metric: Metric = "cosine",
        *,
        rows: ArrayLike | slice | None = None,
        threads: int | None = None,
        progress: Progress = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the best rows for each query, exactly: no approximate index, no dequantized copy.

        A score is the real number that the metric gives for the query and the stored values
        ``(code - 128) * scale``, rounded once to float64:

        - ``"dot"``: the scalar product, best first the largest;
        - ``"cosine"``: that divided by both lengths, and 0 where one of them is 0; the largest first;
        - ``"l2"``: the *squared* Euclidean distance, as faiss has it; the smallest first.

        Equal scores come in the order of their row numbers. Engines and threads change no bit. A score too
        large for float64 is infinite.

        Parameters
        ----------
        queries : array_like of float, shape (D,) or (Q, D)
            Finite.
        k : int
            Rows to find for each query, at least 1.
        metric : {"cosine", "dot", "l2"}
        rows : array_like of int or bool, or slice, optional
            Look only at these: row numbers, a mask of shape (N,), or a slice. A row given twice counts once.
        threads : int, optional
            The number of processors by default.
        progress : bool or callable, optional
            True shows a bar on stderr; a callable gets (rows done, rows in all), where every 256 queries
            are a pass over the rows of their own.

        Returns
        -------
        scores : ndarray of float64, shape (Q, k), or (k,) for one query of shape (D,)
        rows : ndarray of int64, of the same shape
            Both have fewer columns where there are fewer rows than `k`.

        Raises
        ------
        ValueError
            Shape, type, k or metric do not fit, or a query is NaN or infinite somewhere.
        IndexError
            One of `rows` is out of range.
        FormatError
            A scale of the file is not finite.

        Examples
        --------
        >>> import os, tempfile, numpy as np, qstore
        >>> path = os.path.join(tempfile.mkdtemp(), "points.h5")
        >>> report = qstore.build(np.array([[127.0, 0], [0, 127], [127, 127]]), path)
        >>> with qstore.open(path) as store:
        ...     store.search([1.0, 0.0], k=2, metric="dot")
        (array([127., 127.]), array([0, 2]))
        """
        part = Part(0, self.codes, self.scales, self._mapping.pager)
        return search([part], self._shape, queries, k, metric, rows, threads, progress)

    def __matmul__(self, x: ArrayLike) -> NDArray[np.float64]:
        """``store @ x`` in float64, block by block, for finite x of shape (D,) or (D, m).

        ``scales * ((codes - 128) @ x)``, where the inner sums are exact before they are rounded, but for what
        x has below 2^-95 of the largest value of its column; threads change no bit. Large products are split
        over all processors.
        """
        return multiply(self.codes, self.scales, x)

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
    return Store(MappedStore(os.path.abspath(os.fsdecode(path)), resident_scales), np.dtype(np.float32))


def _reopen(path: str, content_id: str, dtype: str, resident_scales: bool) -> Store:
    store = open(path, resident_scales=resident_scales).astype(dtype)
    if store.content_id != content_id:
        store.close()
        raise FormatError(
            f"{path} has content {store.content_id}, expected {content_id}: the file has been replaced"
        )
    return store
