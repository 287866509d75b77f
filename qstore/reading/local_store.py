"""From the codes and scales of one mapped file to values: one row, a slice, scattered rows, NumPy's keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels, quantization
from ..engine.quantization import scales_at
from ..format.layout import Shard, block_rows
from ..system.paging import MANY_ROWS, SLOW_NS, Pager, Steps
from ..system.threads import in_parts
from .backing import Backing
from .indexing import ALL, judged
from .mapped_file import MappedStore
from .parts import Part
from .row_file import RowFile

if TYPE_CHECKING:
    from ..system.progress import Progress
    from .verify import VerifyReport

__all__ = ["LocalStore", "fill_slice", "in_pieces", "pool_copied", "read_slice", "unkeyed_rows"]

# Asked for before it is needed, beyond the part that is next: a disk works on many requests at a time.
_AHEAD_BYTES = 16 << 20
# Beside more than these, Python is nothing.
_FEW_VALUES = 1 << 18
# Codes that are read side by side before they become values: they stay in the caches of one core.
_PIECE_BYTES, _PIECE_ROWS = 256 << 10, 1024
# A scattered row that is read without the map takes as long as so many values.
_READ_VALUES = 1024
# Codes that are copied side by side to be pooled.
_POOLED_BYTES = 1 << 20


class LocalStore(MappedStore, Backing):
    """The data of a store that is one file of this machine."""

    @property
    def shards(self) -> tuple[Shard, ...]:  # type: ignore[override]
        """One: the file itself."""
        return (Shard(self.path, 0, self.facts.rows, self.facts.content_id),)

    def read_row(self, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_row`: one row with the least Python in the way."""
        try:
            table = self.table
        except AttributeError:
            raise self.closed() from None
        out = np.empty(self.facts.dim, dtype)
        try:
            if self.resident.bounded and -self.facts.rows <= number < self.facts.rows:
                self.gather(np.array([number], np.int64), ALL, out[None])
            else:
                table.row(number, out)
        except OverflowError:  # more than 64 bits
            judged(number, self.codes.shape)
        return out

    def read_slice(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_slice`."""
        return read_slice(self, rows, columns, dtype)

    def read_values(self, rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See :meth:`.Backing.read_values`."""
        codes, scales = self.row_arrays()
        if self.resident.bounded:
            picked, factors = self._file().read_values(rows, columns)
        else:
            picked, factors = codes[rows, columns], scales_at(scales, rows)
        kernels.dequantize_into(picked[:, None], factors, out[:, None])

    def gather(
        self, rows: NDArray[np.int64], columns: slice, out: NDArray[Any], threads: int | None = None
    ) -> None:
        """See :meth:`.Backing.gather`."""
        codes, scales = self.row_arrays()
        file, pager, first = self._file(), self.pager, 0
        if columns is not ALL:
            codes, first = codes[:, columns], columns.start

        def through_map(start: int, stop: int) -> None:
            kernels.gather(codes, scales, rows[start:stop], out[start:stop], 1)

        def read(start: int, stop: int) -> int:
            part = np.empty((stop - start, out.shape[1]), np.uint8), np.empty(stop - start)
            missing = file.read(rows[start:stop], first, *part, pager.found)
            kernels.dequantize_into(*part, out[start:stop], 1)
            return missing

        if pager.cold or rows.size >= MANY_ROWS:
            kernels.check_rows(codes, scales, rows)  # all of them before any is written
            values = rows.size * _READ_VALUES if pager.cold else out.size
            in_parts(in_pieces(pager, out.shape[1], through_map, read), rows.size, values, threads)
        else:
            begun = time.perf_counter_ns()
            kernels.gather(codes, scales, rows, out, threads)
            pager.note_few(rows.size, time.perf_counter_ns() - begun)

    def read_few(self, rows: NDArray[Any], dtype: np.dtype[Any], out: Any = None) -> NDArray[Any] | None:
        """See :meth:`.Backing.read_few`."""
        if self.pager.cold or rows.size * self.facts.dim > _FEW_VALUES:
            return None
        if out is None:
            out = np.empty((*rows.shape, self.facts.dim), dtype)
        try:
            spent = self.table.take(rows, out)
        except AttributeError:  # closed
            return None
        if spent > SLOW_NS:
            self.pager.note_few(rows.size, spent)
        return None if spent < 0 else out

    def gather_codes(
        self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
    ) -> None:
        """See :meth:`.Backing.gather_codes`."""
        held_codes, held_scales = self.row_arrays()
        file, pager = self._file(), self.pager

        def through_map(start: int, stop: int) -> None:
            numbers = rows[start:stop]
            # "wrap" only saves NumPy a copy of the output: all numbers are in range.
            np.take(held_codes, numbers, axis=0, out=codes[start:stop], mode="wrap")
            scales[start:stop] = scales_at(held_scales, numbers)

        def read(start: int, stop: int) -> int:
            piece = slice(start, stop)
            return file.read(rows[piece], 0, codes[piece], scales[piece], pager.found)

        kernels.check_rows(held_codes, held_scales, rows)
        in_pieces(pager, self.facts.dim, through_map, read)(0, rows.size)

    def pool(
        self,
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[Any] | None,
        mode: Literal["sum", "mean"],
        out: NDArray[Any],
        threads: int | None = None,
    ) -> None:
        """See :meth:`.Backing.pool`."""
        if self.pager.cold:
            kernels.check_rows(*self.row_arrays(), rows)  # all of them before any bag is written
            pool_copied(self, rows, offsets, weights, mode, out, threads)
        else:
            kernels.pool(*self.row_arrays(), rows, offsets, weights, mode, out, threads)

    def _file(self) -> RowFile:
        try:
            return self.file
        except AttributeError:
            raise self.closed() from None

    def ask(self, rows: NDArray[np.int64]) -> bool:
        """See :meth:`.Backing.ask`."""
        self._file().ask(rows)
        return True

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """See :meth:`.Backing.parts`."""
        block = block_rows(self.facts.dim)
        step = self.pager.range_rows(max(last - first, block))
        while first < last:
            # Whole blocks: some who walk through parts need them, or are to give the same bits every time.
            whole = max(first + step, first + block) // block * block
            stop = min(last, whole) if step < last - first else last
            # No name for the views: while this waits, they would keep the store from being closed.
            yield Part(first, self.view("codes")[first:stop], self.view("scales")[first:stop])
            self.pager.note(stop - first)
            first = stop

    def walk(self) -> Iterator[tuple[Part, Pager | None]]:
        """See :meth:`.Backing.walk`."""
        if self.facts.rows:
            yield Part(0, self.view("codes"), self.view("scales")), self.pager

    def scan(self, rows: int) -> Iterator[Part]:
        """See :meth:`.Backing.scan`: the pages to come are asked for in advance."""
        ahead = rows * max(1, _AHEAD_BYTES // (rows * self.facts.dim))
        asked = 0
        for first in range(0, self.facts.rows, rows):
            wanted, stop = min(self.facts.rows, first + rows + ahead), min(self.facts.rows, first + rows)
            self.pager.ask(asked, wanted)
            asked = wanted
            yield Part(first, self.view("codes")[first:stop], self.view("scales")[first:stop])
            self.pager.note(stop - first)

    def verify(self, progress: Progress = None, threads: int | None = None) -> VerifyReport:
        """See :meth:`.Backing.verify`."""
        from .verify import verify_parts  # a fifth of what importing a reader takes

        rows, dim = self.facts.rows, self.facts.dim
        return verify_parts(
            self.parts(0, rows),
            rows,
            dim,
            self.view("checksums"),
            self.facts.content_id,
            progress,
            self.scanned_keys(),
            self.fidelity_numbers(),
            threads,
        )

    def reopening(self) -> tuple[Any, dict[str, Any]]:
        """See :meth:`.Backing.reopening`."""
        return self.path, {"resident_scales": self.resident_scales, "resident_bytes": self.resident.most}


def unkeyed_rows(path: str) -> int:
    """How many rows of the store at `path` have no key, where the others have one."""
    with closing(LocalStore(path)) as store:
        return store.key_index().unkeyed_rows() if store.facts.key_kind else 0


def read_slice(mapping: LocalStore, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows at a constant distance."""
    out = kernels.fresh(mapping.view("codes")[rows, columns].shape, dtype)
    fill_slice(mapping, rows, columns, out)
    return out


def fill_slice(mapping: LocalStore, rows: slice, columns: slice, out: NDArray[Any]) -> None:
    """Fill `out` with rows at a constant distance."""
    codes, scales = mapping.view("codes")[rows, columns], mapping.view("scales")[rows]

    def work(start: int, stop: int) -> None:
        kernels.dequantize_into(codes[start:stop], scales[start:stop], out[start:stop])

    first, _, step = rows.indices(mapping.facts.rows)
    if mapping.resident.bounded and step != 1:
        mapping.gather(np.arange(*rows.indices(mapping.facts.rows), dtype=np.int64), columns, out)
    elif step == 1 and len(codes) >= MANY_ROWS:
        mapping.pager.sequential(first, len(codes), work)
    else:
        work(0, len(codes))
        mapping.pager.note(len(codes))


def in_pieces(
    steps: Steps, dim: int, through_map: Callable[[int, int], object], read: Callable[[int, int], int]
) -> Callable[[int, int], None]:
    """How to go through scattered rows of `dim` bytes piece by piece: ``go(start, stop)``.

    Where rows are expected in memory that is ``through_map(start, stop)``, elsewhere ``read(start, stop)``,
    which tells how many were not there.
    """
    most = max(1, min(_PIECE_ROWS, _PIECE_BYTES // max(dim, 1)))

    def go(start: int, stop: int) -> None:
        while start < stop:
            cold = steps.cold
            end = min(stop, start + (most if cold else 8 * most))
            begun = time.perf_counter_ns()
            if cold:
                missing = read(start, end)
                steps.note_read(end - start, missing, time.perf_counter_ns() - begun)
            else:
                through_map(start, end)
                steps.note_few(end - start, time.perf_counter_ns() - begun)
            start = end

    return go


def pool_copied(
    backing: Backing,
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    weights: NDArray[Any] | None,
    mode: Literal["sum", "mean"],
    out: NDArray[Any],
    threads: int | None,
) -> None:
    """As :meth:`.Backing.pool`, from copies of the codes: each bag is added up in order by the one kernel."""
    dim = backing.facts.dim
    ends = offsets + quantization.bag_lengths(offsets, rows.size)
    most = max(1, _POOLED_BYTES // max(dim, 1))
    bag = 0
    while bag < offsets.size:
        first = int(offsets[bag])
        stop = max(bag + 1, int(np.searchsorted(ends, first + most, side="right")))
        last = int(ends[stop - 1])
        codes, scales = np.empty((last - first, dim), np.uint8), np.empty(last - first)
        backing.gather_codes(rows[first:last], codes, scales)
        factors = None if weights is None else weights[first:last]
        numbers, bags = np.arange(last - first), offsets[bag:stop] - first
        kernels.pool(codes, scales, numbers, bags, factors, mode, out[bag:stop], threads)
        bag = stop
