"""Key ↔ row on the mapped index of a store: texts or whole numbers, nothing of it taken for granted."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..errors import FormatError
from ..format.layout import NO_KEY
from .equal_keys import NO_KEY_HASH
from .given import beyond_int64

__all__ = ["MISSING", "KeyIndex", "key_index_of", "open_keys"]

MISSING = -1
_NO_KEY = NO_KEY.encode()
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
        """The row of each key of a list, tuple or array, :data:`MISSING` where there is none.

        Raises
        ------
        TypeError, ValueError
            They are no keys of this kind.
        FormatError
            The index is damaged where it was looked at.
        """

    def row_of(self, key: Any) -> int:
        """The row of one key; as :meth:`rows_of`."""
        return int(self.rows_of([key])[0])

    @abstractmethod
    def keys_of(self, rows: Rows) -> list[str | None] | Rows:
        """Keys of rows, from 0 to N - 1 each, None where one has none; errors as for :meth:`rows_of`."""

    @abstractmethod
    def keys_between(self, first: int, last: int) -> list[str | None] | Rows:
        """Keys of the rows `first` to before `last`, read at once; errors as for :meth:`rows_of`."""

    @abstractmethod
    def unkeyed_rows(self) -> int:
        """How many rows have no key."""

    def _damaged(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: the keys are damaged: {what}; qstore verify says more")


class TextKeys(KeyIndex):
    """Keys that are texts."""

    kind = "text"

    def __init__(self, path: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(path, arrays)
        engine = kernels.key_engine()
        self._finder = engine.TextFinder(*(arrays[name] for name in ("hashes", "rows", "offsets", "bytes")))

    def row_of(self, key: Any) -> int:
        """See :meth:`KeyIndex.row_of`: one text with the least Python in the way."""
        if type(key) is str and key != NO_KEY:
            with contextlib.suppress(UnicodeEncodeError):
                found: int = self._finder.find(key)
                if found >= MISSING:
                    return found
        return super().row_of(key)  # which says what is wrong

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
                f"the key {error.object!r:.200} has half of a surrogate pair: expected Unicode text"
            ) from None
        if bad >= 0:
            raise self._damaged(f"what belongs to the hash of {texts[bad]!r:.200} is no row, or has no text")
        if NO_KEY in texts:
            out[[text == NO_KEY for text in texts]] = MISSING
        return out

    def keys_of(self, rows: Rows) -> list[str | None]:
        """See :meth:`KeyIndex.keys_of`."""
        offsets, text = self._arrays["offsets"], self._arrays["bytes"]
        starts, stops = offsets[rows], offsets[rows + 1]
        self._check(starts, stops, rows)
        pairs = zip(starts.tolist(), stops.tolist(), rows.tolist(), strict=True)
        return [self._decoded(text[start:stop].tobytes(), row) for start, stop, row in pairs]

    def keys_between(self, first: int, last: int) -> list[str | None]:
        """See :meth:`KeyIndex.keys_between`."""
        bounds = self._arrays["offsets"][first : last + 1]
        self._check(bounds[:-1], bounds[1:], np.arange(first, last))
        raw = self._arrays["bytes"][bounds[0] : bounds[-1]].tobytes()
        places = (bounds - bounds[0]).tolist()
        return [
            self._decoded(raw[start:stop], first + number)
            for number, (start, stop) in enumerate(itertools.pairwise(places))
        ]

    def unkeyed_rows(self) -> int:
        """See :meth:`KeyIndex.unkeyed_rows`: as many as have the hash of no key."""
        wanted, hashes = np.uint64(NO_KEY_HASH), self._arrays["hashes"]
        return int(hashes.searchsorted(wanted, "right")) - int(hashes.searchsorted(wanted))

    def _check(self, starts: Rows, stops: Rows, rows: Rows) -> None:
        bad = (starts < 0) | (stops < starts) | (stops > len(self._arrays["bytes"]))
        if bad.any():
            raise self._damaged(f"the offsets of the text of row {rows[bad.argmax()]} lie")

    def _decoded(self, raw: bytes, row: int) -> str | None:
        if raw == _NO_KEY:
            return None
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._damaged(f"the text of row {row} is not UTF-8") from None


class IntegerKeys(KeyIndex):
    """Keys that are whole numbers of 64 bits."""

    kind = "integer"

    def rows_of(self, keys: Any) -> Rows:
        """Rows of an array of whole numbers; see :meth:`KeyIndex.rows_of`."""
        ids, beyond = _ids(keys)
        out = np.empty(len(ids), np.int64)
        bad = kernels.key_engine().find_ids(self._arrays["sorted"], self._arrays["rows"], ids, out)
        if bad >= 0:
            raise self._damaged(f"what belongs to {ids[bad]} is no row")
        out[beyond] = MISSING
        return out

    def keys_of(self, rows: Rows) -> Rows:
        """See :meth:`KeyIndex.keys_of`."""
        found: Rows = self._arrays["ids"][rows]
        return found

    def keys_between(self, first: int, last: int) -> Rows:
        """See :meth:`KeyIndex.keys_between`."""
        return np.array(self._arrays["ids"][first:last])

    def unkeyed_rows(self) -> int:
        """See :meth:`KeyIndex.unkeyed_rows`: none, as whole numbers have no room for it."""
        return 0


def open_keys(path: str, arrays: Mapping[str, NDArray[Any]]) -> KeyIndex | None:
    """The keys of the store at `path` whose datasets these are; None without any."""
    return key_index_of(path, arrays) if arrays else None


def key_index_of(path: str, arrays: Mapping[str, NDArray[Any]]) -> KeyIndex:
    """The same where there are some."""
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
            f"the keys of this store are texts: expected a list of them, found an array of {keys.dtype}, "
            f"shape {keys.shape}"
        )
    return list(keys)


def _ids(keys: Any) -> tuple[Rows, NDArray[np.bool_]]:
    """Whole numbers as int64, and which of them are none: these are in no store."""
    try:
        ids = np.asarray(keys)
    except (ValueError, TypeError, RuntimeError):  # ragged, or of what gives no array
        raise _no_ids(keys) from None
    if ids.ndim != 1:
        raise _no_ids(keys)
    if ids.dtype.kind in "iu":
        beyond = beyond_int64(ids)
        return np.ascontiguousarray(np.where(beyond, 0, ids) if beyond.any() else ids, np.int64), beyond
    # Beyond 64 bits, NumPy makes objects of whole numbers, or even floats.
    numbers = keys.tolist() if isinstance(keys, np.ndarray) else keys
    if not all(isinstance(number, (int, np.integer)) and not isinstance(number, bool) for number in numbers):
        raise _no_ids(keys)
    beyond = np.array([not -(1 << 63) <= number < 1 << 63 for number in numbers], np.bool_)
    return np.array(
        [0 if out else number for number, out in zip(numbers, beyond, strict=True)], np.int64
    ), beyond


def _no_ids(keys: Any) -> TypeError:
    return TypeError(
        f"the keys of this store are whole numbers: expected a list or array of integers, found {keys!r:.200}"
    )
