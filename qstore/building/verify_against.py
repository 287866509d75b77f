"""Does a store agree with a source? The source quantized again, all compared, every error measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..engine.row_errors import ROW_FIGURES, row_errors
from ..format import layout
from ..format.fidelity import Fidelity, FidelityTotals
from ..keys.packed import KeyBlock, packed
from ..keys.stream import KeyStream
from ..keys.supply import MissingKeys, check_all_taken, given_keys, inline_keys
from ..reading.parts import coded_rows
from ..sources import QuantizedSource, RowSource, Source, open_source
from ..sources.row_ranges import limited, row_range
from ..store import Store
from ..system.progress import Progress, rows_progress
from ..system.threads import in_order
from ..writing.findings import Findings
from .one import check_coding

__all__ = ["AgainstReport", "compared_with", "verify_against"]

_SHOWN = 10


@dataclass(frozen=True)
class AgainstReport:
    """Result of quantizing a source again and comparing every code and scale.

    Attributes
    ----------
    ok : bool
    rows : int
        Rows compared.
    differing_rows : int
        Rows with another code or scale, or another key where keys were compared.
    first_differing_row : int or None
    problems : tuple of str
        The same in words.
    fidelity : Fidelity or None
        Errors of what the store reads against what the source holds, over all rows. None where the shapes
        differ, or where the source is quantized itself or was stored as it is.
    keys_compared : bool
        Whether every key was compared, too.
    nonfinite : NonFiniteValues
        Values of the source that are NaN or infinite. They were compared as 0, and have no error.
    """

    ok: bool
    rows: int
    differing_rows: int
    first_differing_row: int | None
    problems: tuple[str, ...]
    fidelity: Fidelity | None = None
    keys_compared: bool = False
    nonfinite: NonFiniteValues = field(default_factory=NonFiniteValues)


def verify_against(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    scale: str | None = None,
    as_stored: bool = False,
    keys: Any = None,
    key_encoding: str | None = None,
    rows: slice | tuple[int, int] | None = None,
    missing_keys: MissingKeys = "error",
    progress: Progress = None,
    step: float | None = None,
    zero_point: int = 0,
) -> AgainstReport:
    """Quantize `source` again, compare every code, scale and key, and measure the errors of what is read.

    Parameters
    ----------
    store : Store
    source, tensor, scale, as_stored, keys, key_encoding, rows, missing_keys, step, zero_point
        As for :func:`qstore.build`, and as they were there. Keys of the store are not looked at where the
        source has none and none are given, or with ``keys=False``.
    progress : bool or callable, optional
    """
    coding = Coding(step, zero_point)
    return compared_with(
        store,
        source,
        tensor=tensor,
        scale=scale,
        as_stored=as_stored,
        keys=keys,
        key_encoding=key_encoding,
        rows=rows,
        missing_keys=missing_keys,
        progress=progress,
        coding=coding,
    )[0]


def compared_with(
    store: Store,
    source: Any,
    *,
    tensor: str | None,
    scale: str | None,
    as_stored: bool,
    keys: Any,
    key_encoding: str | None,
    rows: slice | tuple[int, int] | None,
    missing_keys: MissingKeys,
    progress: Progress,
    coding: Coding,
) -> tuple[AgainstReport, Findings]:
    """What :func:`verify_against` reports, and what a build of all of that source would have found."""
    findings = Findings(store.shape[1])
    with open_source(source, tensor, scale, as_stored) as matrix:
        check_coding(matrix, coding)
        first, last = row_range(rows, matrix.rows)
        if matrix.dim != store.shape[1]:
            found = f"the source has {matrix.dim} columns, the store {store.shape[1]}"
            return _mismatch(0, found), findings
        if last is not None and last - first != len(store):
            return _mismatch(0, f"the source has {last - first} rows, the store {len(store)}"), findings
        stream = given_keys(keys, matrix, first, last, key_encoding, missing_keys)
        carried = matrix.keyed and keys is None
        if (carried or stream is not None) and store.key_kind is None:
            return _mismatch(0, "the rows of the store have no keys"), findings
        comparison = _Comparison(store, matrix, coding)
        with rows_progress(progress, len(store)) as on_rows:
            report = _compare(store, comparison.parts(first, last, carried), stream, findings, on_rows)
        check_all_taken(stream, first + report.rows, last, matrix)
        return report, findings


class _Compared(NamedTuple):
    """What became of some rows, and the keys that the source itself has for them."""

    differs: NDArray[np.bool_]
    codes: NDArray[np.uint8]
    scales: NDArray[np.float64]
    held_scales: NDArray[np.float64]
    figures: NDArray[np.float64] | None = None
    nonfinite: NonFiniteValues = NonFiniteValues()
    keys: KeyBlock | None = None


class _TooLong(Exception):
    """The source has more rows than the store."""


class _Comparison:
    """Rows of a source, coded again, beside those of a store."""

    def __init__(self, store: Store, matrix: Source, coding: Coding) -> None:
        self._store, self._matrix, self._coding = store, matrix, coding

    def parts(self, first: int, last: int | None, carried: bool) -> Iterator[_Compared]:
        """Compare all rows, in order: whole checksum blocks by several threads where the source allows it.

        `carried`: with the keys that the source carries.
        """
        matrix, done, rows = self._matrix, 0, None if last is None else last - first
        if isinstance(matrix, QuantizedSource):
            for codes, scales in matrix.coded_chunks(first, last):
                yield self._of_codes(done, codes, scales)
                done += len(codes)
        elif carried:
            for chunk, keys in inline_keys(matrix, first, rows):
                if len(chunk):
                    yield self._of_values(done, chunk)._replace(keys=packed(keys))
                done += len(chunk)
        elif isinstance(matrix, RowSource):
            yield from self._of_blocks(matrix, first)
        else:
            for chunk in limited(matrix.chunks(first), rows):
                if len(chunk):
                    yield self._of_values(done, chunk)
                done += len(chunk)

    def _of_blocks(self, matrix: RowSource, first: int) -> Iterator[_Compared]:
        rows, step = len(self._store), layout.block_rows(self._store.shape[1])

        def compare(row: int) -> _Compared:
            return self._of_values(row, matrix.read(first + row, first + min(row + step, rows)))

        return in_order(compare, range(0, rows, step), None)

    def _of_values(self, row: int, values: NDArray[Any]) -> _Compared:
        held = row, row + len(values)
        if held[1] > len(self._store):
            raise _TooLong
        codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
        nonfinite = self._coding.encode(values, codes, scales, "zero", row)
        found = self._of_codes(row, codes, scales)._replace(nonfinite=nonfinite)
        if not self._coding.rounds:
            return found
        return found._replace(figures=row_errors(values, *coded_rows(self._store.parts(*held))))

    def _of_codes(self, row: int, codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> _Compared:
        if row + len(codes) > len(self._store):
            raise _TooLong
        held_codes, held_scales = coded_rows(self._store.parts(row, row + len(codes)))
        differs = (codes != held_codes).any(axis=1) | (scales != held_scales)
        # A copy: a view that an error holds on to would keep the store from closing.
        return _Compared(differs, codes, scales, held_scales.copy())


def _other_keys(one: KeyBlock, other: KeyBlock) -> NDArray[np.bool_]:
    """Which of as many keys differ."""
    if one.kind != other.kind:
        return np.ones(one.rows, np.bool_)
    if one.payload() == other.payload():
        return np.zeros(one.rows, np.bool_)
    return np.array([a != b for a, b in zip(one.each(), other.each(), strict=True)])


def _mismatch(rows: int, problem: str) -> AgainstReport:
    return AgainstReport(False, rows, 0, None, (problem,))


def _compare(
    store: Store,
    parts: Iterator[_Compared],
    stream: KeyStream | None,
    findings: Findings,
    on_rows: Callable[[int], object],
) -> AgainstReport:
    done, differing, measured, keyed = 0, 0, True, False
    shown: list[int] = []
    steps: set[float] = set()
    errors = _BlockErrors(store)
    try:
        for part in parts:
            bad = part.differs
            keys = part.keys if stream is None else stream.take(len(bad))
            if keys is not None:
                keyed = True
                bad = bad | _other_keys(keys, packed(store.key_of(slice(done, done + len(bad))), done))
            differing += int(np.count_nonzero(bad))
            if len(shown) < _SHOWN:
                shown.extend((np.flatnonzero(bad)[: _SHOWN - len(shown)] + done).tolist())
            if part.figures is None:
                measured = False
            else:
                errors.add(part.figures)
            findings.add(done, part.codes, part.scales, part.figures, part.nonfinite)
            if len(steps) < 2:
                steps.update(np.unique(part.held_scales).tolist())
            done += len(bad)
            on_rows(len(bad))
    except _TooLong:
        return _mismatch(done, f"the source has more rows than the store's {len(store)}")
    if done < len(store):
        return _mismatch(done, f"the source has {done} rows, the store {len(store)}")
    problems = []
    if differing:
        problems.append(f"{differing} rows differ, the first ones: {', '.join(map(str, shown))}")
    if differing and measured and len(steps) == 1:
        problems.append(
            f"all scales of the store are {steps.pop()}: if it was built with a step (step=, --step), give "
            f"that here, too"
        )
    return AgainstReport(
        ok=not differing,
        rows=done,
        differing_rows=differing,
        first_differing_row=shown[0] if shown else None,
        problems=tuple(problems),
        fidelity=errors.report() if measured else None,
        keys_compared=keyed,
        nonfinite=findings.nonfinite,
    )


class _BlockErrors:
    """Gathers the errors of rows that come in any pieces, so that they are summed within checksum blocks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._step = layout.block_rows(store.shape[1])
        self._totals = FidelityTotals(store.shape[1])
        self._waiting = np.empty((0, ROW_FIGURES))

    def add(self, figures: NDArray[np.float64]) -> None:
        """The rows that follow."""
        self._waiting = np.concatenate([self._waiting, figures])
        while len(self._waiting) >= self._step:
            self._add_block(self._step)

    def _add_block(self, count: int) -> None:
        row = self._totals.rows
        block, self._waiting = self._waiting[:count], self._waiting[count:]
        self._totals.add_block(row, block, coded_rows(self._store.parts(row, row + count))[1])

    def report(self) -> Fidelity:
        """What all rows give together."""
        if len(self._waiting):
            self._add_block(len(self._waiting))
        return self._totals.report()
