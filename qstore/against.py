"""Does a store agree with a source? The source quantized again, every code compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .building import limited, row_range
from .key_supply import check_all_taken, given_keys, inline_keys
from .packed_keys import KeyBlock, KeyStream, packed
from .progress import Progress, rows_progress
from .sources import QuantizedSource, Source, open_source
from .store import Store

__all__ = ["AgainstReport", "verify_against"]

_SHOWN = 10

_Quantized = tuple[NDArray[np.uint8], NDArray[np.float64], KeyBlock | None]


@dataclass(frozen=True)
class AgainstReport:
    """Result of quantizing a source again and comparing every code and scale.

    Attributes
    ----------
    ok : bool
    rows : int
        Rows compared.
    differing_rows : int
        Rows with another code, scale or key.
    first_differing_row : int or None
    problems : tuple of str
        The same in words.
    """

    ok: bool
    rows: int
    differing_rows: int
    first_differing_row: int | None
    problems: tuple[str, ...]


def verify_against(
    store: Store,
    source: Any,
    *,
    tensor: str | None = None,
    keys: Any = None,
    rows: slice | tuple[int, int] | None = None,
    progress: Progress = None,
) -> AgainstReport:
    """Quantize `source` again and compare every code and every scale with the store, and every key.

    Parameters
    ----------
    store : Store
    source, tensor, keys, rows
        As for :func:`qstore.build`. Keys of the store are not looked at where the source has none and none
        are given, or with ``keys=False``.
    progress : bool or callable, optional
    """
    with open_source(source, tensor) as matrix:
        first, last = row_range(rows, matrix.rows)
        if matrix.dim != store.shape[1]:
            return _mismatch(0, f"the source has {matrix.dim} columns, the store {store.shape[1]}")
        if last is not None and last - first != len(store):
            return _mismatch(0, f"the source has {last - first} rows, the store {len(store)}")
        stream = given_keys(keys, matrix, first)
        keyed = stream is not None or (matrix.keyed and keys is None)
        if keyed and store.key_kind is None:
            return _mismatch(0, "the rows of the store have no keys")
        with rows_progress(progress, len(store)) as on_rows:
            report = _compare(store, _keyed(_quantized(matrix, first, last, keyed), stream), on_rows)
        check_all_taken(stream, first + report.rows, matrix, last is None)
        return report


def _quantized(matrix: Source, first: int, last: int | None, keyed: bool) -> Iterator[_Quantized]:
    """Codes, scales and the source's own keys of the rows, as a build makes them."""
    rows = None if last is None else last - first
    if isinstance(matrix, QuantizedSource):
        for codes, scales in matrix.coded_chunks(first, last):
            yield codes, scales, None
    elif keyed and matrix.keyed:
        for chunk, keys in inline_keys(matrix, first, rows):
            yield *kernels.quantize(chunk, nonfinite="zero"), packed(keys)
    else:
        for chunk in limited(matrix.chunks(first), rows):
            yield *kernels.quantize(chunk, nonfinite="zero"), None


def _keyed(chunks: Iterator[_Quantized], stream: KeyStream | None) -> Iterator[_Quantized]:
    """The chunks with the keys that were given, if any were."""
    for codes, scales, keys in chunks:
        yield codes, scales, keys if stream is None else stream.take(len(codes))


def _other_keys(one: KeyBlock, other: KeyBlock) -> NDArray[np.bool_]:
    """Which of as many keys differ."""
    if one.kind != other.kind:
        return np.ones(one.rows, np.bool_)
    if one.payload() == other.payload():
        return np.zeros(one.rows, np.bool_)
    return np.array([a != b for a, b in zip(one.each(), other.each(), strict=True)])


def _mismatch(rows: int, problem: str) -> AgainstReport:
    return AgainstReport(False, rows, 0, None, (problem,))


def _compare(store: Store, chunks: Iterator[_Quantized], on_rows: Callable[[int], object]) -> AgainstReport:
    done, differing = 0, 0
    shown: list[int] = []
    for codes, scales, keys in chunks:
        if done + len(codes) > len(store):
            return _mismatch(done, f"the source has more rows than the store's {len(store)}")
        bad = np.empty(len(codes), np.bool_)
        for part in store.parts(done, done + len(codes)):
            held = slice(part.first - done, part.first - done + len(part.codes))
            bad[held] = (codes[held] != part.codes).any(axis=1) | (scales[held] != part.scales)
        if keys is not None:
            bad |= _other_keys(keys, packed(store.key_of(slice(done, done + len(codes))), done))
        differing += int(np.count_nonzero(bad))
        if len(shown) < _SHOWN:
            shown.extend((np.flatnonzero(bad)[: _SHOWN - len(shown)] + done).tolist())
        done += len(codes)
        on_rows(len(codes))
    if done < len(store):
        return _mismatch(done, f"the source has {done} rows, the store {len(store)}")
    problems = (
        (f"{differing} rows differ, the first ones: {', '.join(map(str, shown))}",) if differing else ()
    )
    return AgainstReport(not differing, done, differing, shown[0] if shown else None, problems)
