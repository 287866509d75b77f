"""What differs between two stores: rows that changed and how far, keys that came, went and moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.distribution import Distribution, Spread
from ..format import layout
from ..reading.parts import coded_rows
from ..store import Store, StorePath, opened
from ..system.options import whole_number
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.threads import in_order

__all__ = ["DriftedRow", "KeyChanges", "StoreComparison", "compare"]

_EXAMPLES = 5
_NOWHERE = -1


@dataclass(frozen=True, repr=False)
class DriftedRow(Reported):
    """A row of `a` and what became of it in `b`.

    Attributes
    ----------
    key : str or int or None
        None where rows were matched by their numbers, as those without a key always are.
    row_a, row_b : int
    drift : float
        Norm of the difference by the norm of the row in `a`; infinite where that is a row of zeros.
    cosine : float
        Of the angle between them; NaN where the row in `a` is one of zeros, 0 where that in `b` is.
    """

    key: str | int | None
    row_a: int
    row_b: int
    drift: float
    cosine: float


@dataclass(frozen=True, repr=False)
class KeyChanges(Reported):
    """How the keys of `b` differ from those of `a`.

    Attributes
    ----------
    added, removed, moved : int
        Keys only in `b`, only in `a`, and in both but at another row. A key of several rows counts for each
        of them: the first ones belong together, the second ones, and so on.
    added_examples, removed_examples, moved_examples : tuple of str or int
        The first ones.
    """

    added: int
    removed: int
    moved: int
    added_examples: tuple[str | int, ...]
    removed_examples: tuple[str | int, ...]
    moved_examples: tuple[str | int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class StoreComparison(Reported):
    """What :func:`qstore.compare` found.

    Attributes
    ----------
    equal : bool
        The same shape, codes, scales and keys.
    shape_a, shape_b : tuple of int
    rows_compared : int
        Rows of `a` that have a counterpart in `b`: by key where both have keys of one kind, else by number.
        Rows without a key have one where the same row of `b` has no key, either.
    rows_changed : int
        Those whose codes or scale differ.
    drift : Distribution
        Of the rows that changed: see :class:`DriftedRow`. Rows that were zeros are left out where they
        stayed so.
    angles : Distribution
        The same for 1 - cosine.
    most_drifted : tuple of DriftedRow
        The k rows of the largest drift, the largest first; of equal ones the first rows.
    keys : KeyChanges or None
        None where rows were not matched by keys.
    differences : tuple of str
        What differs, in words.
    """

    equal: bool
    shape_a: tuple[int, int]
    shape_b: tuple[int, int]
    rows_compared: int
    rows_changed: int
    drift: Distribution
    angles: Distribution
    most_drifted: tuple[DriftedRow, ...]
    keys: KeyChanges | None
    differences: tuple[str, ...]


def compare(
    a: Store | StorePath,
    b: Store | StorePath,
    *,
    k: int = 10,
    threads: int | None = None,
    progress: Progress = None,
) -> StoreComparison:
    """Compare two stores row by row, in bounded memory.

    Differences are those of the float64 values, computed exactly as they are read.

    Parameters
    ----------
    a, b : Store or path-like, shapes (N, D) and (M, E)
        Rows are compared by their keys where both stores have keys of one kind, else by their numbers. With
        another number of columns, none are; with another number of rows, those that both have. What is
        opened here is closed again.
    k : int
        How many of the rows that drifted most to name.
    threads : int, optional
        By default the number of processors.
    progress : bool or callable, optional
        True shows a bar on stderr; a callable gets (rows done, rows in all).

    Returns
    -------
    StoreComparison

    Raises
    ------
    ValueError
        `k` is negative.
    FormatError, OSError
        A path is that of no store, or of none that can be read.

    Examples
    --------
    >>> import os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> before, after = os.path.join(folder, "before.h5"), os.path.join(folder, "after.h5")
    >>> _ = qstore.build([[3.0, 4.0], [1.0, 0.0]], before)
    >>> _ = qstore.build([[3.0, 4.0], [1.5, 0.0]], after)
    >>> found = compare(before, after)
    >>> found.equal, found.rows_changed, found.most_drifted[0].row_a, found.most_drifted[0].drift
    (False, 1, 1, 0.5)
    """
    k = whole_number("k", k, 0)
    with opened(a) as first, opened(b) as second:
        return _compare(first, second, k, threads, progress)


def _compare(a: Store, b: Store, k: int, threads: int | None, progress: Progress) -> StoreComparison:
    keyed = a.key_kind is not None and a.key_kind == b.key_kind
    same_width = a.shape[1] == b.shape[1]
    rows = len(a) if keyed else min(len(a), len(b))
    step = layout.block_rows(a.shape[1])
    found = _Drifts(k)
    matching = _Matching(a, b, threads) if keyed else None
    with rows_progress(progress, rows) as on_rows:
        starts = range(0, rows, step)
        for block in in_order(
            lambda start: _compare_block(a, b, start, min(start + step, rows), matching, same_width),
            starts,
            threads,
        ):
            found.add(block)
            on_rows(len(block.rows_b))
    keys = None if matching is None else found.key_changes(matching.added(threads))
    differences = tuple(_differences(a, b, found, keys))
    return StoreComparison(
        equal=not differences,
        shape_a=a.shape,
        shape_b=b.shape,
        rows_compared=found.compared,
        rows_changed=found.changed,
        drift=found.drift.report(),
        angles=found.angles.report(),
        most_drifted=found.most_drifted(a if keyed else None),
        keys=keys,
        differences=differences,
    )


class _Block(NamedTuple):
    """Some rows of `a`: where they are in `b`, which of them changed, and how far those drifted."""

    first_row: int
    rows_b: NDArray[np.int64]
    keys: Any
    compared: int
    changed: NDArray[np.int64]
    drift: NDArray[np.float64]
    angles: NDArray[np.float64]


def _compare_block(
    a: Store, b: Store, start: int, stop: int, matching: _Matching | None, same_width: bool
) -> _Block:
    keys = None if matching is None else a.key_of(slice(start, stop))
    rows_b = np.arange(start, stop) if matching is None else matching.in_b(keys, start)
    if not same_width:
        nothing = np.empty(0)
        return _Block(start, rows_b, keys, 0, np.empty(0, np.int64), nothing, nothing)
    there = np.flatnonzero(rows_b != _NOWHERE)
    partners = rows_b[there]
    codes, scales = coded_rows(a.parts(start, stop))
    if there.size == stop - start and (np.diff(partners) == 1).all() and partners.size:
        codes_b, scales_b = coded_rows(b.parts(int(partners[0]), int(partners[-1]) + 1))
    else:
        codes, scales = codes[there], scales[there]
        codes_b, scales_b = b.take_codes(partners)
    differing = np.flatnonzero((codes != codes_b).any(axis=1) | (scales != scales_b))
    before = kernels.dequantize(codes[differing], scales[differing], "float64")
    errors = kernels.row_errors(before, codes_b[differing], scales_b[differing])
    return _Block(start, rows_b, keys, there.size, there[differing], errors[:, 3], errors[:, 4])


class _Matching:
    """Which rows of two stores with keys of one kind belong together.

    By key, the first rows of each, the second ones and so on; a row without a key and the same row, where
    that has none, either.
    """

    def __init__(self, a: Store, b: Store, threads: int | None) -> None:
        self._a, self._b = a, b
        self._repeats_a, self._repeats_b = _Repeats.of(a, threads), _Repeats.of(b, threads)

    def in_b(self, keys: Any, start: int) -> NDArray[np.int64]:
        """The row in `b` for each row of `a` from `start` on, whose keys these are."""
        return _partners(self._b, self._repeats_b, self._repeats_a, keys, start)

    def added(self, threads: int | None) -> tuple[int, list[Any]]:
        """How many rows with a key only `b` has, and the keys of the first of them."""
        count, examples = 0, list[Any]()
        for keys, places in in_order(self._absent, _starts(self._b), threads):
            count += places.size
            _extend(examples, keys, places)
        return count, examples

    def _absent(self, start: int) -> tuple[Any, NDArray[np.int64]]:
        keys = _keys_from(self._b, start)
        rows = _partners(self._a, self._repeats_a, self._repeats_b, keys, start)
        return keys, _keyed(np.flatnonzero(rows == _NOWHERE), keys)


class _Repeats:
    """Rows of a store whose key one before has.

    Parameters
    ----------
    firsts, rows : ndarray of int64
        The first row of the key of each, and the rows themselves in ascending order.
    """

    def __init__(self, firsts: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        order = np.argsort(firsts, kind="stable")
        self._firsts, self._by_key, self._rows = firsts[order], rows[order], rows
        self._before = np.empty(len(rows), np.int64)
        self._before[order] = np.arange(len(rows)) - np.searchsorted(self._firsts, self._firsts)

    @classmethod
    def of(cls, store: Store, threads: int | None) -> _Repeats:
        """Those of a store."""

        def found(start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
            firsts, _ = _rows_of(store, _keys_from(store, start))
            places = np.flatnonzero((firsts != _NOWHERE) & (firsts < start + np.arange(len(firsts))))
            return firsts[places], places + start

        none = np.empty(0, np.int64)
        pairs = [(none, none), *in_order(found, _starts(store), threads)]
        return cls(np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))

    def between(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The repeats among some rows: their places there, and how many repeats of that key come before."""
        held = slice(*np.searchsorted(self._rows, [start, stop]))
        return self._rows[held] - start, self._before[held]

    def nth(self, firsts: NDArray[np.int64], before: NDArray[np.int64]) -> NDArray[np.int64]:
        """The repeat of the key of each of `firsts` that so many come before; nowhere if there are fewer."""
        places = np.searchsorted(self._firsts, firsts) + before
        there = places < np.searchsorted(self._firsts, firsts, "right")
        found = np.full(len(firsts), _NOWHERE, np.int64)
        found[there] = self._by_key[places[there]]
        return found


def _partners(
    other: Store, others_repeats: _Repeats, own_repeats: _Repeats, keys: Any, start: int
) -> NDArray[np.int64]:
    """The row of `other` for each row from `start` on, whose keys these are."""
    rows, bare = _rows_of(other, keys)
    again, before = own_repeats.between(start, start + len(rows))
    rows[again] = others_repeats.nth(rows[again], before)
    same = bare[bare + start < len(other)]
    none = [key is None for key in other.key_of(same + start)]
    rows[same[none]] = same[none] + start
    return rows


def _starts(store: Store) -> range:
    return range(0, len(store), layout.block_rows(store.shape[1]))


def _keys_from(store: Store, start: int) -> Any:
    """The keys of a block."""
    return store.key_of(slice(start, min(start + layout.block_rows(store.shape[1]), len(store))))


def _keyed(places: NDArray[np.int64], keys: Any) -> NDArray[np.int64]:
    return places[[keys[place] is not None for place in places.tolist()]]


def _rows_of(store: Store, keys: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The row of each key, and the places of those that are None: they are nowhere."""
    if isinstance(keys, np.ndarray) or None not in keys:
        return store.rows_of(keys, default=_NOWHERE), np.empty(0, np.int64)
    none = np.array([key is None for key in keys])
    rows = np.full(len(keys), _NOWHERE, np.int64)
    rows[~none] = store.rows_of([key for key in keys if key is not None], default=_NOWHERE)
    return rows, np.flatnonzero(none)


class _Drifts:
    """What all blocks give together. One thread uses it."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.compared = self.changed = self._moved = self._removed = 0
        self.drift, self.angles = Spread(), Spread()
        self._worst = np.zeros((0, 4))
        self._moved_examples: list[Any] = []
        self._removed_examples: list[Any] = []

    def add(self, block: _Block) -> None:
        """The next block."""
        self.compared += block.compared
        self.changed += block.changed.size
        self.drift.add(block.drift)
        self.angles.add(block.angles)
        rows = block.first_row + block.changed
        found = np.stack([rows, block.rows_b[block.changed], block.drift, block.angles], axis=1)
        found = np.concatenate([self._worst, found[block.drift > 0]])
        self._worst = found[np.argsort(-found[:, 2], kind="stable")[: self._k]]
        if block.keys is not None:
            self._add_keys(block)

    def _add_keys(self, block: _Block) -> None:
        own = block.first_row + np.arange(block.rows_b.size)
        removed = _keyed(np.flatnonzero(block.rows_b == _NOWHERE), block.keys)
        moved = np.flatnonzero((block.rows_b != own) & (block.rows_b != _NOWHERE))
        self._removed += removed.size
        self._moved += moved.size
        _extend(self._removed_examples, block.keys, removed)
        _extend(self._moved_examples, block.keys, moved)

    def key_changes(self, added: tuple[int, list[Any]]) -> KeyChanges:
        """With what is only in `b`."""
        return KeyChanges(
            added=added[0],
            removed=self._removed,
            moved=self._moved,
            added_examples=tuple(added[1]),
            removed_examples=tuple(self._removed_examples),
            moved_examples=tuple(self._moved_examples),
        )

    def most_drifted(self, keyed: Store | None) -> tuple[DriftedRow, ...]:
        """The k rows, with their keys where they have some."""
        return tuple(
            DriftedRow(
                key=None if keyed is None else keyed.key_of(int(row)),
                row_a=int(row),
                row_b=int(row_b),
                drift=drift,
                cosine=1 - angle,
            )
            for row, row_b, drift, angle in self._worst.tolist()
        )


def _extend(examples: list[Any], keys: Any, places: NDArray[np.int64]) -> None:
    for place in places[: _EXAMPLES - len(examples)].tolist():
        key = keys[place]
        examples.append(key if isinstance(key, str) else int(key))


def _differences(a: Store, b: Store, found: _Drifts, keys: KeyChanges | None) -> Iterator[str]:
    if a.shape[1] != b.shape[1]:
        yield f"{a.shape[1]} columns against {b.shape[1]}: no rows were compared"
    if len(a) != len(b):
        matched = "" if keys is not None else f": the first {min(len(a), len(b)):,} were compared"
        yield f"{len(a):,} rows against {len(b):,}{matched}"
    if found.changed:
        yield f"{found.changed:,} of {found.compared:,} rows changed"
    if a.key_kind != b.key_kind:
        yield f"keys: {a.key_kind or 'none'} against {b.key_kind or 'none'}; rows were matched by number"
    if keys is not None and (keys.added or keys.removed or keys.moved):
        yield f"keys: {keys.added:,} added, {keys.removed:,} removed, {keys.moved:,} moved"
