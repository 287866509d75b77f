"""Key ↔ row on the mapped index of a store: texts or whole numbers, nothing of it taken for granted."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..errors import FormatError

__all__ = ["MISSING", "KeyIndex", "open_keys"]

MISSING = -1
Rows = NDArray[np.int64]


class KeyIndex(ABC):
    """The keys of a store. Any number of threads may use one.

    Attributes
    ----------
    kind : {"text", "integer"}
    path : str
        The store, for messages.
    """

    kind: Literal["text", "integer"]

    def __init__(self, path: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.path = path
        self._arrays = arrays

    @abstractmethod
    def rows_of(self, keys: Any) -> Rows:
        """The row of each key, :data:`MISSING` where there is none.

        Raises
        ------
        TypeError, ValueError
            They are no keys of this kind.
        FormatError
            The index is damaged where it was looked at.
        """

    @abstractmethod
    def keys_of(self, rows: Rows) -> list[str] | Rows:
        """Keys of rows, from 0 to N - 1 each; errors as for :meth:`rows_of`."""

    @abstractmethod
    def keys_between(self, first: int, last: int) -> list[str] | Rows:
        """Keys of the rows `first` to before `last`, read at once; errors as for :meth:`rows_of`."""

    def _damaged(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: the keys are damaged: {what}; qstore verify says more")


class TextKeys(KeyIndex):
    """Keys that are texts."""

    kind = "text"

    def rows_of(self, keys: Any) -> Rows:
        """Rows of a sequence of texts; see :meth:`KeyIndex.rows_of`."""
        texts = _texts(keys)
        out = np.empty(len(texts), np.int64)
        held = self._arrays
        try:
            bad = kernels.key_engine().find_texts(
                held["hashes"], held["rows"], held["offsets"], held["bytes"], texts, out
            )
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the key {error.object!r:.200} has half of a surrogate pair: it is no Unicode text"
            ) from None
        if bad >= 0:
            raise self._damaged(f"what belongs to the hash of {texts[bad]!r:.200} is no row, or has no text")
        return out

    def keys_of(self, rows: Rows) -> list[str]:
        """See :meth:`KeyIndex.keys_of`."""
        offsets, text = self._arrays["offsets"], self._arrays["bytes"]
        starts, stops = offsets[rows], offsets[rows + 1]
        self._check(starts, stops, rows)
        pairs = zip(starts.tolist(), stops.tolist(), rows.tolist(), strict=True)
        return [self._decoded(text[start:stop].tobytes(), row) for start, stop, row in pairs]

    def keys_between(self, first: int, last: int) -> list[str]:
        """See :meth:`KeyIndex.keys_between`."""
        bounds = self._arrays["offsets"][first : last + 1]
        self._check(bounds[:-1], bounds[1:], np.arange(first, last))
        raw = self._arrays["bytes"][bounds[0] : bounds[-1]].tobytes()
        places = (bounds - bounds[0]).tolist()
        return [
            self._decoded(raw[start:stop], first + number)
            for number, (start, stop) in enumerate(itertools.pairwise(places))
        ]

    def _check(self, starts: Rows, stops: Rows, rows: Rows) -> None:
        bad = (starts < 0) | (stops < starts) | (stops > len(self._arrays["bytes"]))
        if bad.any():
            raise self._damaged(f"the offsets of the text of row {rows[bad.argmax()]} lie")

    def _decoded(self, raw: bytes, row: int) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._damaged(f"the text of row {row} is not UTF-8") from None


class IntegerKeys(KeyIndex):
    """Keys that are whole numbers of 64 bits."""

    kind = "integer"

    def rows_of(self, keys: Any) -> Rows:
        """Rows of an array of whole numbers; see :meth:`KeyIndex.rows_of`."""
        ids = _ids(keys)
        out = np.empty(len(ids), np.int64)
        bad = kernels.key_engine().find_ids(self._arrays["sorted"], self._arrays["rows"], ids, out)
        if bad >= 0:
            raise self._damaged(f"what belongs to {ids[bad]} is no row")
        return out

    def keys_of(self, rows: Rows) -> Rows:
        """See :meth:`KeyIndex.keys_of`."""
        found: Rows = self._arrays["ids"][rows]
        return found

    def keys_between(self, first: int, last: int) -> Rows:
        """See :meth:`KeyIndex.keys_between`."""
        return np.array(self._arrays["ids"][first:last])


def open_keys(path: str, arrays: Mapping[str, NDArray[Any]]) -> KeyIndex | None:
    """The keys of the store at `path` whose datasets these are; None without any."""
    if not arrays:
        return None
    return TextKeys(path, arrays) if "hashes" in arrays else IntegerKeys(path, arrays)


def _texts(keys: Any) -> Sequence[str]:
    if isinstance(keys, (list, tuple)):
        return keys
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "UTO" and keys.ndim == 1:
        texts: list[str] = keys.tolist()
        return texts
    if isinstance(keys, (str, bytes)) or not hasattr(keys, "__iter__"):
        raise TypeError(f"expected a list of text keys, such as [{keys!r:.200}], found {type(keys).__name__}")
    if isinstance(keys, np.ndarray) and keys.size:
        raise TypeError(
            f"the keys of this store are texts, found an array {keys.dtype} of shape {keys.shape}"
        )
    return list(keys)


def _ids(keys: Any) -> Rows:
    try:
        ids = np.asarray(keys)
    except ValueError:  # ragged
        ids = np.empty(0, object)
    if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or _too_large(ids))):
        raise TypeError(
            f"the keys of this store are whole numbers: expected a list or array of integers of 64 bits, "
            f"found {keys!r:.200}"
        )
    return np.ascontiguousarray(ids, np.int64)


def _too_large(ids: NDArray[Any]) -> bool:
    return ids.dtype == np.uint64 and bool(ids.max() > np.iinfo(np.int64).max)
