"""A store as a lazy array of Dask, whose tasks open the store where they run."""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..format.layout import block_rows
from ..store import Store
from ..store import open as open_store
from ..system.options import shown
from .library import array, tokenize

__all__ = ["StoreRows", "from_store"]

# A chunk has so many checksum blocks (1 MiB of codes each) by default: 96 MiB of float32.
_CHUNK_BYTES = 96 << 20

# Stores that a process keeps open for tasks to come: one of 10,000 shards takes half a second to open.
_KEPT_OPEN = 8


def from_store(
    store: Store | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    chunks: Any = None,
    dtype: DTypeLike = "float32",
) -> array.Array:
    """A store as a lazy Dask array: nothing is read before something is computed.

    Tasks carry the path and the content id, never rows: each process opens the store once and reads what it
    needs of it. A slice of the array reads only its rows; a list of rows reads the chunks they are in, so
    :meth:`Store.take` is for those.

    Parameters
    ----------
    store : Store, or what :func:`qstore.open` takes
    chunks : int, tuple or str, optional
        An int is rows of whole length; else as in :func:`dask.array.from_array`. By default chunks are whole
        checksum blocks of whole rows, about 96 MiB of values.
    dtype : {"float32", "float64", "float16"}
        Of the values.

    Returns
    -------
    dask.array.Array, shape (N, D)
        Its name is made of the content, the type and the chunks: the same ones give the same name.

    Raises
    ------
    MissingExtraError
        Dask is not installed.
    FormatError
        When tasks run: what is at the path has another content by then.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> _ = qstore.build(127 * np.eye(3, dtype=np.float32), path)
    >>> from_store(path).sum(axis=0).compute()
    array([127., 127., 127.], dtype=float32)
    """
    opened = (store if isinstance(store, Store) else open_store(store)).astype(dtype)
    wanted = (
        _default_chunks(opened) if chunks is None else (chunks, -1) if isinstance(chunks, int) else chunks
    )
    try:
        sizes = array.core.normalize_chunks(wanted, opened.shape, dtype=opened.dtype)
    except (ArithmeticError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"chunks is {shown(chunks)}, expected what dask.array.from_array takes: {str(error)[:200]}"
        ) from None
    # In line: each task is a piece of this and a slice, and Dask merges later slices into it.
    return array.from_array(
        StoreRows.of(opened),
        chunks=sizes,
        name=f"qstore-{tokenize(opened, sizes)}",
        meta=np.empty((0, 0), opened.dtype),
        inline_array=True,
    )


def _default_chunks(store: Store) -> tuple[int, int]:
    blocks = max(1, _CHUNK_BYTES // (block_rows(store.shape[1]) * store.shape[1] * store.dtype.itemsize))
    return blocks * block_rows(store.shape[1]), -1


@functools.lru_cache(_KEPT_OPEN)
def _arrived(pickled: bytes) -> Store:
    """A store that came by its path, opened once a process; FormatError if it has another content here."""
    store: Store = pickle.loads(pickled)
    return store


class StoreRows:
    """What Dask slices: a store here, and elsewhere its path, opened by the first task that reads.

    Parameters
    ----------
    pickled : bytes
        The store, pickled: its path and its content id.
    shape : tuple of int
    dtype : dtype
    store : Store, optional
        The open store, in the process that has it.
    """

    ndim = 2

    def __init__(
        self, pickled: bytes, shape: tuple[int, int], dtype: np.dtype[Any], store: Store | None = None
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self._pickled = pickled
        self._store = store

    @classmethod
    def of(cls, store: Store) -> StoreRows:
        """An open store, to be handed to tasks."""
        return cls(pickle.dumps(store), store.shape, store.dtype, store)

    @property
    def store(self) -> Store:
        """The store, opened where this is."""
        return self._store or _arrived(self._pickled)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return self.store[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._pickled, self.shape, self.dtype)
