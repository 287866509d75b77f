"""From the codes and scales of one mapped file to values: one row, a slice, scattered rows, NumPy's keys."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.quantization import scales_at
from ..format.layout import Shard
from ..system.paging import MANY_ROWS, SLOW_NS, Pager
from .backing import Backing
from .indexing import ALL, judged
from .mapped_file import MappedStore
from .parts import Part

if TYPE_CHECKING:
    from ..system.progress import Progress
    from .verify import VerifyReport

__all__ = ["LocalStore", "fill_slice", "gather", "read_slice", "unkeyed_rows"]

# Asked for before it is needed, beyond the part that is next: a disk works on many requests at a time.
_AHEAD_BYTES = 16 << 20
# Beside more than these, Python is nothing.
_FEW_VALUES = 1 << 18


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
            table.row(number, out)
        except OverflowError:  # more than 64 bits: NumPy has its own words for that
            judged(number, self.codes.shape)
        return out

    def read_slice(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_slice`."""
        return read_slice(self, rows, columns, dtype)

    def read_values(self, rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See :meth:`.Backing.read_values`."""
        codes, scales = self.row_arrays()
        kernels.dequantize_into(codes[rows, columns][:, None], scales_at(scales, rows), out[:, None])

    def gather(
        self, rows: NDArray[np.int64], columns: slice, out: NDArray[Any], threads: int | None = None
    ) -> None:
        """See :meth:`.Backing.gather`."""
        codes, scales = self.row_arrays()
        if columns is not ALL:
            codes = codes[:, columns]
        gather(self.pager, codes, scales, rows, out, threads)

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
        kernels.check_rows(held_codes, held_scales, rows)

        def work(start: int, stop: int) -> None:
            numbers = rows[start:stop]
            # "wrap" only saves NumPy a copy of the output: all numbers are in range.
            np.take(held_codes, numbers, axis=0, out=codes[start:stop], mode="wrap")
            scales[start:stop] = scales_at(held_scales, numbers)

        self.pager.scattered(rows, self.facts.rows, work)

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
        kernels.pool(*self.row_arrays(), rows, offsets, weights, mode, out, threads)

    def ask(self, rows: NDArray[np.int64]) -> bool:
        """See :meth:`.Backing.ask`."""
        self.row_arrays()
        try:
            self.pager.ask_scattered(rows, self.facts.rows)
        except ValueError:  # another thread has just closed it
            if not self.is_closed:
                raise
            raise self.closed() from None
        return True

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """See :meth:`.Backing.parts`."""
        if last > first:
            yield Part(first, self.view("codes")[first:last], self.view("scales")[first:last])

    def walk(self) -> Iterator[tuple[Part, Pager | None]]:
        """See :meth:`.Backing.walk`."""
        for part in self.parts(0, self.facts.rows):
            yield part, self.pager

    def scan(self, rows: int) -> Iterator[Part]:
        """See :meth:`.Backing.scan`: the pages to come are asked for in advance."""
        ahead = rows * max(1, _AHEAD_BYTES // (rows * self.facts.dim))
        asked = 0
        for part in super().scan(rows):
            wanted = min(self.facts.rows, part.first + rows + ahead)
            self.pager.ask(asked, wanted)
            asked = wanted
            yield part

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
        return self.path, {"resident_scales": self.resident_scales}


def unkeyed_rows(path: str) -> int:
    """How many rows of the store at `path` have no key, where the others have one."""
    with closing(LocalStore(path)) as store:
        return store.key_index().unkeyed_rows() if store.facts.key_kind else 0


def read_slice(mapping: MappedStore, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows at a constant distance."""
    out = kernels.fresh(mapping.view("codes")[rows, columns].shape, dtype)
    fill_slice(mapping, rows, columns, out)
    return out


def fill_slice(mapping: MappedStore, rows: slice, columns: slice, out: NDArray[Any]) -> None:
    """Fill `out` with rows at a constant distance."""
    codes, scales = mapping.view("codes")[rows, columns], mapping.view("scales")[rows]

    def work(start: int, stop: int) -> None:
        kernels.dequantize_into(codes[start:stop], scales[start:stop], out[start:stop])

    first, _, step = rows.indices(mapping.facts.rows)
    if step == 1 and len(codes) >= MANY_ROWS:
        mapping.pager.sequential(first, len(codes), work)
    else:
        work(0, len(codes))


def gather(
    pager: Pager,
    codes: NDArray[np.uint8],
    scales: kernels.RowScales,
    rows: NDArray[np.int64],
    out: NDArray[Any],
    threads: int | None = None,
) -> None:
    """Fill `out` with rows in any order; codes (some of the columns, or all) and scales are a mapping's."""
    if rows.size < MANY_ROWS and not pager.cold:
        begun = time.perf_counter_ns()
        kernels.gather(codes, scales, rows, out, threads)
        pager.note_few(rows.size, time.perf_counter_ns() - begun)
        return

    def work(start: int, stop: int) -> None:
        kernels.gather(codes, scales, rows[start:stop], out[start:stop], threads)

    kernels.check_rows(codes, scales, rows)  # all of them before any is written
    pager.scattered(rows, len(codes), work)
