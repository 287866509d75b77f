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
        Keys only in `b`, only in `a`, and in both but at another row.
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
    with rows_progress(progress, rows) as on_rows:
        starts = range(0, rows, step)
        for block in in_order(
            lambda start: _compare_block(a, b, start, min(start + step, rows), keyed, same_width),
            starts,
            threads,
        ):
            found.add(block)
            on_rows(len(block.rows_b))
    keys = found.key_changes(_added(a, b, threads)) if keyed else None
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


def _compare_block(a: Store, b: Store, start: int, stop: int, keyed: bool, same_width: bool) -> _Block:
    keys = a.key_of(slice(start, stop)) if keyed else None
    rows_b = _partners(b, keys, start) if keyed else np.arange(start, stop)
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


def _partners(b: Store, keys: Any, start: int) -> NDArray[np.int64]:
    """The row in `b` of each key of the rows from `start` on; the row itself where neither has a key."""
    rows, bare = _rows_of(b, keys)
    same = bare[bare + start < len(b)]
    none = [key is None for key in b.key_of(same + start)]
    rows[same[none]] = same[none] + start
    return rows


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
        removed = np.flatnonzero(block.rows_b == _NOWHERE)
        removed = removed[[block.keys[place] is not None for place in removed.tolist()]]
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


def _added(a: Store, b: Store, threads: int | None) -> tuple[int, list[Any]]:
    """How many keys only `b` has, and the first of them."""
    step = layout.block_rows(b.shape[1])
    count, examples = 0, list[Any]()

    def absent(start: int) -> tuple[Any, NDArray[np.int64]]:
        keys = b.key_of(slice(start, min(start + step, len(b))))
        rows, none = _rows_of(a, keys)
        rows[none] = 0
        return keys, np.flatnonzero(rows == _NOWHERE)

    for keys, places in in_order(absent, range(0, len(b), step), threads):
        count += places.size
        _extend(examples, keys, places)
    return count, examples


def _differences(a: Store, b: Store, found: _Drifts, keys: KeyChanges | None) -> Iterator[str]:
    if a.shape[1] != b.shape[1]:
        yield f"{a.shape[1]} columns against {b.shape[1]}: no rows were compared"
    if len(a) != len(b):
        matched = "" if keys is not None else f": the first {min(len(a), len(b))} were compared"
        yield f"{len(a)} rows against {len(b)}{matched}"
    if found.changed:
        yield f"{found.changed} of {found.compared} rows changed"
    if a.key_kind != b.key_kind:
        yield f"keys: {a.key_kind or 'none'} against {b.key_kind or 'none'}; rows were matched by number"
    if keys is not None and (keys.added or keys.removed or keys.moved):
        yield f"keys: {keys.added} added, {keys.removed} removed, {keys.moved} moved"
