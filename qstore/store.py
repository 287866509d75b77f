"""The reader: a store that is read like an array."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .arrays.methods import ArrayMethods
from .engine import kernels
from .engine.arguments import as_dtype, as_pair, as_row_numbers, as_weights, whole_out
from .engine.narrowing import tell_infinite
from .engine.quantization import OUTPUT_TYPES
from .errors import ClosedError, FormatError
from .format.layout import Shard
from .opening import AHEAD_BYTES, CACHE_BYTES, RESIDENT_BYTES, newer_backing, open_backing, reopening
from .reading import indexing
from .reading.backing import Backing
from .reading.parts import Part
from .system.options import one_of, shown, whole_number

if TYPE_CHECKING:
    from concurrent.futures import Future

    from .analysis.stats import StoreStats
    from .engine.search_scan import Metric
    from .format.fidelity import Fidelity
    from .reading.stored_keys import StoredKeys
    from .reading.verify import VerifyReport
    from .system.progress import Progress

__all__ = ["Store", "StorePath", "as_store", "open", "opened"]

StorePath = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""What :func:`open` takes."""

Out = TypeVar("Out")


class Store(ArrayMethods):
    """An embedding matrix on disk, read like a NumPy array of shape (N, D).

    Made by :func:`qstore.open`. Indexing follows NumPy's rules and raises NumPy's exceptions; what it
    returns are fresh arrays of :attr:`dtype`. Values are ``(codes - 128) * scales`` in float64,
    rounded once to that dtype.

    Where rows have text keys, these index, too: ``store["queen"]``, ``store[["queen", "king"]]``; and
    ``"queen" in store`` tells whether there is such a row. Numbers always mean rows: :meth:`rows_of` finds
    keys that are numbers. Columns of words, such as a ``pandas.Series``, index like lists.

    Any number of threads and forked processes may use one store. Pickling sends the path and the
    content id. Rows stay readable when the file is replaced or unlinked; truncating it in place kills
    readers (SIGBUS), as it does with every memory map.
    """

    def __init__(self, backing: Backing, dtype: np.dtype[Any]) -> None:
        self._mapping = backing
        self._dtype = dtype

    # Facts ----------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Absolute path the store was opened at."""
        return self._mapping.path

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self._mapping.shape

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def size(self) -> int:
        """Number of values."""
        rows, dim = self.shape
        return rows * dim

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
        return self._mapping.facts.content_id

    @property
    def tensor(self) -> str:
        """Name of the tensor the store was built from; empty if it had none."""
        return self._mapping.facts.tensor

    @property
    def source_dtype(self) -> str:
        """Element type the store was built from; empty if unknown."""
        return self._mapping.facts.source_dtype

    @property
    def format_version(self) -> tuple[int, int]:
        """(major, minor) version of the file format."""
        return self._mapping.facts.version

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files of the store in the order of their rows; one where it is a single file."""
        return self._mapping.shards

    @property
    def key_kind(self) -> Literal["text", "integer"] | None:
        """What the keys of the rows are; None where rows have none."""
        return self._mapping.facts.key_kind

    @property
    def fidelity(self) -> Fidelity | None:
        """Errors against the source, measured when the store was built.

        Of the first rows of each checksum block, one in 64; None where the store was made from codes, or by
        a version that did not measure. :func:`qstore.verify_against` measures all rows.
        """
        from .format.fidelity import fidelity_of  # reading rows does without

        backing = self._mapping
        numbers = backing.fidelity_numbers()
        return None if numbers is None else fidelity_of(numbers, backing.shape[1])

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes, shape (N, D): a read-only view of the file.

        Raises
        ------
        NoViewError
            They do not lie in one piece: there are several files (which goes for :attr:`scales` and
            :attr:`checksums`, too), or they are behind a URL. See :meth:`parts`.
        """
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
        return self._mapping.shape[0]

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        rows, dim = self.shape
        return f"<qstore.Store {self.path}: {rows} × {dim}, read as {self._dtype}{closed}>"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks; nothing is read."""
        from html import escape

        rows, dim = self.shape
        held = rows * (dim + 8)
        facts = {
            "shape": f"{rows:,} × {dim:,}",
            "dtype": str(self._dtype),
            "size": f"{held:,} bytes of codes and scales; {self.nbytes:,} as {self._dtype}",
            "keys": self.key_kind or "none",
            "path": self.path,
        }
        lines = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in facts.items())
        return f"<table><caption>qstore.Store</caption>{lines}</table>"

    # Reading --------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Rows, columns and values by NumPy's rules; only the rows that are asked for are read.

        Parameters
        ----------
        key : int, slice, array_like of int or bool, None, Ellipsis, str, list of str, or a tuple of them
            Where rows have text keys, texts stand for rows.

        Returns
        -------
        ndarray
            Fresh, of :attr:`dtype` and of the shape that NumPy gives an array of shape (N, D) indexed so:
            (D,) for one row, (n, D) for a slice or n rows in any order. A single value is a NumPy scalar.

        Raises
        ------
        IndexError
            A row or column is out of range; keys of a type that is no index; texts where rows have no text
            keys.
        MissingKeyError
            A `KeyError`: no row has this text key.
        ClosedError
            The store is closed.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
        >>> _ = qstore.build(np.full((100, 8), 2.0), path)
        >>> store = qstore.open(path)
        >>> store[7].shape, store[[5, 3, 3, -1]].shape, store[10:20, :2].shape, store[7, 0]
        ((8,), (4, 8), (10, 2), np.float32(2.0))
        """
        backing = self._mapping
        if type(key) is int:
            return backing.read_row(key, self._dtype)
        if type(key) is str:
            return backing.read_row(backing.row_of(key), self._dtype)
        if type(key) is np.ndarray and (few := backing.read_few(key, self._dtype)) is not None:
            return few
        selection = indexing.select(key, *backing.shape)
        if selection is None:
            return self._read_any(backing, key)
        rows, columns = selection
        if isinstance(rows, slice):
            return backing.read_slice(rows, columns, self._dtype)
        if isinstance(rows, int):
            row = backing.read_row(rows, self._dtype)
            return row if columns is indexing.ALL else row[columns].copy()
        width = backing.shape[1] if columns is indexing.ALL else columns.stop - columns.start
        out = kernels.fresh((*rows.shape, width), self._dtype)
        backing.gather(rows.reshape(-1), columns, out.reshape(rows.size, width))
        return out

    def _read_any(self, backing: Backing, key: Any) -> NDArray[Any]:
        from .reading import any_key, rows_by_key  # single rows, slices and rows of an array do without

        if rows_by_key.is_named(key):
            return Store(backing, self._dtype)[rows_by_key.numbered(backing, key)]
        picked: NDArray[Any] = any_key.read(backing, key, self._dtype)
        return picked

    @overload
    def take(
        self,
        rows: ArrayLike,
        axis: int | None = 0,
        out: None = None,
        mode: Literal["raise", "wrap", "clip"] = "raise",
        threads: int | None = None,
    ) -> NDArray[Any]: ...

    @overload
    def take(
        self,
        rows: ArrayLike,
        axis: int | None = 0,
        *,
        out: Out,
        mode: Literal["raise", "wrap", "clip"] = "raise",
        threads: int | None = None,
    ) -> Out: ...

    def take(
        self,
        rows: ArrayLike,
        axis: int | None = 0,
        out: Any = None,
        mode: Literal["raise", "wrap", "clip"] = "raise",
        threads: int | None = None,
    ) -> Any:
        """Read rows in any order: what ``numpy.take(store, rows, axis=0)`` calls.

        Parameters
        ----------
        rows : array_like of int
            Any shape; repeats and negative numbers are fine.
        axis : int, optional
            0 for rows. 1 takes columns, None values of the matrix as one line.
        out : ndarray or CPU tensor of torch, optional
            C-contiguous, shape ``rows.shape + (D,)``, float32, float64 or float16: filled and
            returned, nothing is allocated then. A tensor may lie in pinned memory.
        mode : {"raise", "wrap", "clip"}
            What numbers out of range mean: an error, the rest of the division, the first or last row.
        threads : int, optional
            For large requests of rows; the number of processors by default.

        Returns
        -------
        ndarray or tensor, shape ``rows.shape + (D,)``
            `out` itself, or an array of :attr:`dtype`.

        Raises
        ------
        IndexError
            A row is out of range.
        ValueError, TypeError
            Another option does not fit.
        """
        backing = self._mapping
        plain = isinstance(axis, int) and axis == 0 and isinstance(mode, str) and mode == "raise"
        if plain and threads is None and type(rows) is np.ndarray:
            few = backing.read_few(rows, self._dtype, out)
            if few is not None:
                return tell_infinite(few) if few.itemsize == 2 else few
        numbers = as_row_numbers(rows)
        if not plain:
            from .reading import taking

            along = taking.along(axis)
            if along != 0:
                return taking.take(backing, numbers, along, mode, out, self._dtype)
            numbers = taking.in_range(numbers, mode, backing.shape[0], 0)
        shape = (*numbers.shape, backing.shape[1])
        if out is None:
            out = kernels.fresh(shape, self._dtype)
        flat = whole_out(out, shape, OUTPUT_TYPES).reshape(numbers.size, backing.shape[1])
        if np.may_share_memory(numbers, flat):  # they are read while it is written
            numbers = numbers.copy()
        backing.gather(numbers.reshape(-1), indexing.ALL, flat, threads)
        if flat.itemsize == 2:
            tell_infinite(flat)
        return out

    def take_async(self, rows: ArrayLike, out: Any = None) -> Future[Any]:
        """Begin to read rows in any order, on another thread: :meth:`take`, whose result comes later.

        Waits first while more than the `ahead_bytes` of :func:`open` would be under way; one request that
        is larger than that is read alone.

        Parameters
        ----------
        rows : array_like of int
            Any shape; repeats and negative numbers are fine. Copied.
        out : ndarray or CPU tensor of torch, optional
            As for :meth:`take`. It is being filled until the future is done.

        Returns
        -------
        concurrent.futures.Future
            Of what :meth:`take` returns: for ``future.result()``, or ``await asyncio.wrap_future(future)``.
            What cannot be read is its exception; ClosedError where the store was closed before it began.
            It belongs to this process: in a child that is forked meanwhile it never comes.

        Raises
        ------
        IndexError
            A row is out of range.
        ValueError
            `out` does not fit.
        ClosedError
            The store is closed.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
        >>> _ = qstore.build(127 * np.eye(3), path)
        >>> coming = qstore.open(path).take_async([2, 0])
        >>> coming.result()
        array([[  0.,   0., 127.],
               [127.,   0.,   0.]], dtype=float32)
        """
        backing, numbers = self._numbers_ahead(rows)
        shape = (*numbers.shape, backing.shape[1])
        memory = None if out is None else whole_out(out, shape, OUTPUT_TYPES)
        made = numbers.size * shape[-1] * (self._dtype if memory is None else memory.dtype).itemsize
        now = _of_type(backing, self._dtype)
        size = numbers.size * backing.ahead.row_bytes + made
        return backing.ahead.submit(size, lambda: now.take(numbers, out=out))

    def prefetch(self, rows: ArrayLike) -> int:
        """Have rows read into memory, so that reading them soon does not wait for the disk; returns at once.

        Pages of a file come into the page cache, rows behind a URL into the cache of `cache_bytes`. It is a
        hint: rows that find no room in the `ahead_bytes` of :func:`open` are left out, the first ones come
        first, and what goes wrong is told when the rows are read.

        Parameters
        ----------
        rows : array_like of int
            Any shape; repeats and negative numbers are fine. Copied.

        Returns
        -------
        int
            How many of them are being read, or are there.

        Raises
        ------
        IndexError
            A row is out of range.
        ClosedError
            The store is closed.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
        >>> _ = qstore.build(127 * np.eye(3), path)
        >>> qstore.open(path).prefetch([2, 0])
        2
        """
        backing, numbers = self._numbers_ahead(rows)
        return backing.prefetch(numbers.reshape(-1))

    def _numbers_ahead(self, rows: ArrayLike) -> tuple[Backing, NDArray[np.int64]]:
        """What is read now, and row numbers from 0 on: a copy, as they are read later."""
        from .reading import taking

        backing = self._open_backing()
        return backing, taking.in_range(as_row_numbers(rows), "raise", backing.shape[0], 0)

    def take_codes(
        self, rows: ArrayLike, out: tuple[NDArray[np.uint8], NDArray[np.float64]] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales of rows in any order: copies, nothing is computed.

        Parameters
        ----------
        rows : array_like of int
            Any shape; repeats and negative numbers are fine.
        out : tuple of ndarray, optional
            Codes (uint8, shape ``rows.shape + (D,)``) and scales (float64, shape ``rows.shape``),
            C-contiguous: filled and returned.

        Returns
        -------
        codes : ndarray of uint8, shape ``rows.shape + (D,)``
        scales : ndarray of float64, shape ``rows.shape``

        Raises
        ------
        IndexError
            A row is out of range.
        """
        backing, numbers = self._mapping, as_row_numbers(rows)
        shape = (*numbers.shape, backing.shape[1])
        codes, scales = (
            (np.empty(shape, np.uint8), np.empty(numbers.shape)) if out is None else as_pair("out", out)
        )
        flat = whole_out(codes, shape, ("uint8",)).reshape(numbers.size, backing.shape[1])
        flat_scales = whole_out(scales, numbers.shape, ("float64",)).reshape(-1)
        backing.gather_codes(numbers.reshape(-1), flat, flat_scales)
        return codes, scales

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
        numbers, starts = as_row_numbers(rows), as_row_numbers(offsets)
        if numbers.ndim != 1 or starts.ndim != 1:
            raise ValueError(f"rows and offsets have shapes {numbers.shape} and {starts.shape}, expected 1-D")
        factors = None if weights is None else as_weights(weights, numbers.size)
        backing = self._mapping
        shape = (starts.size, backing.shape[1])
        if out is None:
            sums = kernels.fresh(shape, np.float32 if self._dtype == np.float32 else np.float64)
        else:
            sums = whole_out(out, shape, ("float32", "float64"))
        one_of("mode", mode, ("sum", "mean"))
        if starts.size:
            backing.pool(numbers, starts, factors, mode, sums, threads)
        elif numbers.size:
            raise ValueError(f"there are {numbers.size:,} rows but no offsets: offsets must begin with 0")
        return sums if out is not None else sums.astype(self._dtype, copy=False)

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        """Walk the whole matrix in order.

        Parameters
        ----------
        rows : int, optional
            Rows of one block; by default about 4 MiB of them.

        Yields
        ------
        first : int
            Number of the first row of the block.
        block : ndarray, shape (n, D)
            Fresh, of :attr:`dtype`.
        """
        step = self._step() if rows is None else whole_number("rows", rows)
        yield from self._mapping.blocks(step, self._dtype)

    def parts(self, first: int = 0, last: int | None = None) -> Iterator[Part]:
        """Walk the codes and scales as they lie, in order: for work on the whole matrix without its values.

        Parameters
        ----------
        first, last : int
            Only the rows `first` to before `last`, counted from 0; by default all.

        Yields
        ------
        Part
            ``(first, codes, scales)``: number of the first row, codes of shape (n, D) and scales of shape
            (n,), as read-only views. A store of one file is one part.
        """
        backing = self._mapping
        start, stop, _ = slice(first, last).indices(backing.shape[0])
        return backing.parts(start, stop)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for _, block in self.blocks():
            for row in block:
                yield row.copy()

    def astype(self, dtype: DTypeLike, copy: bool = True) -> Store:
        """The same store, read as float32, float64 or float16, always from the codes, and never copied.

        Parameters
        ----------
        dtype : {"float32", "float64", "float16"}
            Or what NumPy takes for one of them. float64 has every value as it is stored; the others are that,
            rounded once. float16 holds up to 65,504: larger values are infinite in it, as the standard has
            it, and whatever reads some gives a RuntimeWarning, as NumPy does.
        copy : bool, optional
            What libraries give; changes nothing.

        Returns
        -------
        Store
            Of the same shape, and of no class derived from it, even where this store is of one. It shares
            the map: closing one closes both. It stays with it when this store is :meth:`reload`-ed.

        Raises
        ------
        ValueError
            Any other type.

        Examples
        --------
        >>> import os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
        >>> _ = qstore.build([[1.0, 0.1]], path)
        >>> qstore.open(path).astype("float64")[0]
        array([1.       , 0.1023622])
        """
        advice = ': np.asarray(store, "{}") makes an array of other types'
        wanted = as_dtype(dtype, OUTPUT_TYPES, advice, any_order=True)
        return _of_type(self._mapping, wanted)

    def verify(self, progress: Progress = None, *, threads: int | None = None) -> VerifyReport:
        """Compare every block with its checksums, and check the keys; the structure was checked on opening.

        Parameters
        ----------
        progress : bool or callable, optional
            True shows a bar on stderr; a callable gets (rows done, rows in all).
        threads : int, optional
            By default `QSTORE_THREADS`, or one a processor.

        Returns
        -------
        VerifyReport
            Blocks that are broken are named there: they are no errors.
        """
        return self._mapping.verify(progress, threads)

    def stats(self, *, threads: int | None = None, progress: Progress = None) -> StoreStats:
        """Norms, scales, codes, columns, duplicate rows and outlier columns, in one pass over the codes.

        Memory stays bounded, and the figures do not depend on the threads.

        Parameters
        ----------
        threads : int, optional
            The number of processors by default.
        progress : bool or callable, optional
            True shows a bar on stderr; a callable gets (rows done, rows in all).

        Returns
        -------
        StoreStats

        Examples
        --------
        >>> import os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "store.h5")
        >>> _ = qstore.build([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]], path)
        >>> found = qstore.open(path).stats()
        >>> found.zero_rows, found.duplicates.examples, round(found.norms.maximum, 2)
        (1, ((0, 2, 2),), 5.0)
        """
        from .analysis.stats import part_rows, survey_parts  # reading rows does without

        now = self._as_it_is()
        rows, dim = now.shape
        walk = now._mapping.scan(part_rows(dim))
        fidelity = None
        with contextlib.suppress(FormatError):  # damaged: the rows may be whole
            fidelity = now.fidelity
        return survey_parts(
            walk, rows, dim, now._quantized_row, fidelity=fidelity, threads=threads, progress=progress
        )

    def _quantized_row(self, row: int) -> tuple[NDArray[np.uint8], float]:
        codes, scales = self.take_codes([row])
        return codes[0], float(scales[0])

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        metric: Metric = "cosine",
        *,
        rows: ArrayLike | slice | None = None,
        exclude: ArrayLike | None = None,
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
        rows : array_like of int or bool, slice or (start, stop), optional
            Look only at these: a list or array of row numbers, a mask of shape (N,), or a range. A row given
            twice counts once.
        exclude : int or array_like of int, shape (Q,), optional
            One row for each query that is not to be found for it, such as the one it was taken from:
            ``store.search(store[rows], exclude=rows)`` gives the neighbours of rows.
        threads : int, optional
            The number of processors by default.
        progress : bool or callable, optional
            True shows a bar on stderr; a callable gets (rows done, rows in all), where every 256 queries
            are a pass over the rows of their own.

        Returns
        -------
        scores : ndarray of float64, shape (Q, k), or (k,) for one query of shape (D,)
        rows : ndarray of int64, of the same shape
            Both have fewer columns where there are fewer rows than `k` (with `exclude`: for any query).

        Raises
        ------
        TypeError
            `queries` is a text.
        ValueError
            Shape, type, k or metric do not fit, or a query is NaN or infinite somewhere.
        IndexError
            One of `rows` or of `exclude` is out of range.
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
        from .analysis.search import PartsOf, search  # reading rows does without

        backing = self._mapping
        return search(PartsOf(backing), backing.shape, queries, k, metric, rows, exclude, threads, progress)

    def __getitems__(self, rows: list[int]) -> NDArray[Any]:
        return self.take(rows)

    # Keys -----------------------------------------------------------------------------------------

    def rows_of(self, keys: Any, default: int | None = None) -> NDArray[np.int64]:
        """Find rows by their keys, in the file as it is mapped: nothing is loaded, all processes share it.

        Behind a URL, all keys are fetched the first time, and kept: 24 bytes a row and the texts.

        Parameters
        ----------
        keys : sequence of str, or array_like of int, shape (n,)
            As :attr:`key_kind` says; columns of pandas, polars and pyarrow, too. Whole numbers may be of any
            type and size: those that do not fit 64 bits with sign are in no store.
        default : int, optional
            Stands for the row of a key that is not there. Give a number that is no row, such as -1, and do
            not index with it.

        Returns
        -------
        ndarray of int64, shape (n,)

        Raises
        ------
        MissingKeyError
            A `KeyError`: some keys are not there, and there is no `default`.
        IndexError
            The rows of this store have no keys.
        TypeError, ValueError
            Keys of another kind; text with half of a surrogate pair.
        FormatError
            The index is damaged, where it was looked at.

        Examples
        --------
        >>> import os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "words.h5")
        >>> _ = qstore.build([[1.0, 0.5], [2.0, -2.0]], path, keys=["king", "queen"])
        >>> store = qstore.open(path)
        >>> store.rows_of(["queen", "pawn", "king"], default=-1)
        array([ 1, -1,  0])
        >>> store["queen"], "pawn" in store, store.key_of(0)
        (array([ 2., -2.], dtype=float32), False, 'king')
        """
        from .reading.rows_by_key import rows_of  # row numbers do without

        return rows_of(self._mapping, keys, default)

    def keys(self) -> StoredKeys:
        """The keys of all rows in order, as a sequence that reads them when they are asked for.

        Returns
        -------
        Sequence of str or int, of length N
            None where a row has no key. Iterating reads some at a time; a slice or an array of row numbers
            gives what :meth:`key_of` gives; ``in`` looks a key up.

        Raises
        ------
        IndexError
            The rows of this store have no keys.

        Examples
        --------
        >>> import os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "words.h5")
        >>> _ = qstore.build([[1.0], [2.0], [3.0]], path, keys=["king", "queen", "pawn"])
        >>> store = qstore.open(path)
        >>> list(store.keys()), store.keys()[-1], "rook" in store.keys()
        (['king', 'queen', 'pawn'], 'pawn', False)
        """
        from .reading.stored_keys import StoredKeys  # row numbers do without

        return StoredKeys(self._mapping)

    def get(self, key: Any, default: Any = None) -> Any:
        """The row of a key, whole numbers too, or `default` where there is none.

        Parameters
        ----------
        key : str or int
            As :attr:`key_kind` says. ``store[7]`` is row 7, ``store.get(7)`` the row whose key is 7.
        default : object, optional

        Returns
        -------
        ndarray of :attr:`dtype`, shape (D,), or `default`

        Raises
        ------
        IndexError, TypeError, ValueError
            As for :meth:`rows_of`.

        Examples
        --------
        >>> import os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
        >>> _ = qstore.build([[1.0, 0.5], [2.0, -2.0]], path, keys=[907, 35])
        >>> store = qstore.open(path)
        >>> store.get(35), store.get(36)
        (array([ 2., -2.], dtype=float32), None)
        """
        now = self._as_it_is()
        row = now._mapping.key_index().row_of(key)
        return default if row < 0 else now[row]

    def key_of(self, row: Any) -> Any:
        """Key of a row, or keys of several.

        Parameters
        ----------
        row : int, slice or array_like of int, shape (n,)
            Negative numbers count from the end.

        Returns
        -------
        str or int, or list of str or ndarray of int64 of length n
            None in the place of a str where a row has no key.

        Raises
        ------
        IndexError
            A row is out of range, or the rows of this store have no keys.
        FormatError
            The keys are damaged, where they were looked at.
        """
        from .reading.rows_by_key import key_of  # row numbers do without

        return key_of(self._mapping, row)

    def __contains__(self, key: Any) -> bool:
        if not isinstance(key, str):
            raise TypeError(
                f"`in` looks for a text key, found {shown(key)}: expected one; rows_of finds keys of any kind"
            )
        return self._mapping.key_index().row_of(key) >= 0

    # Life -----------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the store is closed: reads raise ClosedError then."""
        return self._mapping.is_closed

    def replaced(self) -> bool:
        """Whether another store is now where this one was opened: a newer version, say.

        This one stays readable, as it was. What is there now is opened and closed again, without its rows:
        less than a millisecond for a file, a few requests for a URL.

        Returns
        -------
        bool
            Whether its content is another, by the content ids: the same, published again, is no other.

        Raises
        ------
        FormatError, VersionError, ShardError, RemoteError, OSError
            As for :func:`qstore.open`: what is there now is no store, or nothing is there.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "words.h5")
        >>> _ = qstore.build(np.eye(3), path)
        >>> store = qstore.open(path)
        >>> before = store.replaced()
        >>> _ = qstore.build(np.eye(4), path, overwrite=True)
        >>> before, store.replaced(), len(store)
        (False, True, 3)
        """
        what, options = reopening(self._mapping)
        with open(what, **{**options, "resident_scales": False}) as now:
            return now.content_id != self.content_id

    def reload(self) -> bool:
        """Read from now on what is now where this store was opened: a newer version, say.

        Asked once a second it costs nothing: one `stat` of the file, of the manifest or of each of several
        files tells that nothing has changed; behind a URL it is a few requests. What is new is opened with
        the options of :func:`open`, and takes the place of the old in one step, for all threads: what is
        being read, or under way by :meth:`take_async`, is read from the old to its end. Shape, keys and all
        other facts are those of the new one then. Arrays made from :attr:`codes` and other views stay
        valid, and stores made by :meth:`astype` stay with the old one until they are asked to reload. The
        old file is let go when nothing of it is in use any more.

        Returns
        -------
        bool
            Whether the content is another, by the content ids.

        Raises
        ------
        FormatError, VersionError, ShardError, RemoteError, OSError
            As for :func:`open`: what is there now is no store, or nothing is there. The old one is read on.
        ClosedError
            The store is closed.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "words.h5")
        >>> _ = qstore.build(np.eye(3), path)
        >>> store = qstore.open(path)
        >>> before = store.reload()
        >>> _ = qstore.build(np.eye(4), path, overwrite=True)
        >>> before, store.reload(), store.reload(), store.shape
        (False, True, False, (4, 4))
        """
        backing = self._open_backing()
        now = newer_backing(backing)
        if now is None:
            return False
        self._mapping = now
        return now.facts.content_id != backing.facts.content_id

    def _open_backing(self) -> Backing:
        backing = self._mapping
        if backing.is_closed:
            raise ClosedError(f"the store {backing.path} is closed")
        return backing

    def _as_it_is(self) -> Store:
        """This store, read to the end as it is now, also where it is reloaded meanwhile."""
        return _of_type(self._mapping, self._dtype)

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
        backing = self._mapping
        return _reopen, (*reopening(backing), backing.facts.content_id, self._dtype.name)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return "qstore.Store", self.content_id, self._dtype.name


class _HalfStore(Store):
    """A store that is read as float16: whatever reads infinities says so. The others need not look."""

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return tell_infinite(super().__getitem__(key))

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, NDArray[Any]]]:
        for first, block in super().blocks(rows):
            yield first, tell_infinite(block)


def _of_type(backing: Backing, dtype: np.dtype[Any]) -> Store:
    return (_HalfStore if dtype.itemsize == 2 else Store)(backing, dtype)


def open(
    path: StorePath,
    *,
    resident_scales: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    cache_bytes: int = CACHE_BYTES,
    ahead_bytes: int = AHEAD_BYTES,
    resident_bytes: int | Literal["auto"] | None = RESIDENT_BYTES,
) -> Store:
    """Open a store for reading.

    Parameters
    ----------
    path : path-like, or list of path-like
        A file that :func:`qstore.build` or :class:`qstore.Writer` made. Or several, read as one store whose
        rows follow one another: the directory of a manifest (:func:`qstore.publish_shards`), a list of
        files, or a pattern of names such as ``"part-*.h5"``, in natural order (``part-9`` before
        ``part-10``). With a manifest, all files are looked at now and each is opened and checked when it
        is first read; of a list or pattern, all headers are read now. A key that two files have stands for
        the row in the first of them; :meth:`Store.verify` tells. Or the URL of a file: ``https://``,
        ``s3://`` or whatever fsspec knows, which is read in ranges, see docs/scale.md.
    resident_scales : bool
        Hold all scales in private memory: 2 bytes a row where no more than 65,536 of them are different,
        as of matrices of 16-bit or 8-bit floats, else 8 (behind a URL always). A row that is not in memory
        then costs one page read (behind a URL: one request) instead of two; worth it for scattered reads of
        a file larger than RAM. More than a million are read in the background: rows that are asked for
        meanwhile are read with the scales in the file.
    storage_options : mapping, optional
        With a URL: options of fsspec's file system, such as ``{"headers": {"Authorization": "…"}}``.
    cache_bytes : int
        With a URL: most memory for rows that were read lately.
    ahead_bytes : int
        Most bytes under way by :meth:`Store.prefetch` and :meth:`Store.take_async`: of what is read (whole
        pages of a file) and of results that are not there yet. By default pages of codes and scales of
        65,536 rows.
    resident_bytes : int, "auto" or None
        The most of the files that stays mapped in this process, of all shards together: by default half of
        the memory that the process may use, and 1 GiB at least; None for any number. A store that fits is
        read through the map. Of a larger one, most scattered rows are copied out of the page cache instead,
        which takes longer than a mapped row and less than mapping it, and ranges are given back behind the
        reader; the page cache keeps all of it. What arrays made from :attr:`Store.codes` and
        :meth:`Store.parts` map does not count before the next such read.

    Returns
    -------
    Store
        Reads give float32; see :meth:`Store.astype`.

    Raises
    ------
    FormatError, VersionError
        The file is not a valid store, or of a newer version.
    ShardError
        A file of several is missing, or not the one that was published.
    MissingExtraError
        A URL needs libraries that are not installed.
    RemoteError
        What is behind a URL cannot be read, or a URL is in a list; an OSError too.
    OSError
        The file is not there or cannot be read.
    """
    backing = open_backing(path, resident_scales, storage_options, cache_bytes, ahead_bytes, resident_bytes)
    return Store(backing, np.dtype(np.float32))


def as_store(given: Any) -> Store:
    """`given`; TypeError unless it is an open store."""
    if isinstance(given, Store):
        return given
    raise TypeError(f"found {shown(given)}, expected a store, as qstore.open(path) gives it")


@contextlib.contextmanager
def opened(store: Store | StorePath) -> Iterator[Store]:
    """A store as it is, or open as long as this lasts: for what takes either."""
    if isinstance(store, Store):
        yield store._as_it_is()
    else:
        with open(store) as found:
            yield found


def _reopen(what: Any, options: dict[str, Any], content_id: str, dtype: str) -> Store:
    store = open(what, **options).astype(dtype)
    if store.content_id != content_id:
        store.close()
        raise FormatError(
            f"{store.path} has content {store.content_id}, expected {content_id}: the file has been replaced"
        )
    return store
