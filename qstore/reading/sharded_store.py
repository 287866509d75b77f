"""The data of a store in several files: every request is split by the files that its rows lie in."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.file_rows import UNKNOWN
from ..engine.part_kernels import by_part, copy_parts, gather_parts, touch_parts
from ..errors import ClosedError, NoViewError, QStoreError
from ..format import layout
from ..format.layout import Facts, Shard
from ..keys.lookup import KeyIndex
from ..keys.packed import KeyKind, said
from ..system.paging import Pager, Steps
from ..system.progress import Progress, rows_progress
from .backing import Backing
from .indexing import ALL
from .local_store import fill_slice, in_pieces, pool_copied
from .parts import Part
from .shard_files import MOST_MAPPED, ShardFiles
from .sharded_keys import ShardedKeys

if TYPE_CHECKING:
    from .verify import VerifyReport

__all__ = ["ShardedStore"]

# Codes of rows that are read beside the result, where it takes their shards in groups.
_COPIED_CODES = 1 << 20

_NO_KINDS: Mapping[str, KeyKind | None] = MappingProxyType({})
_Tables = tuple[NDArray[np.int64], int, tuple[NDArray[np.uint8], ...], tuple[kernels.RowScales, ...]]
"""First rows, rows in all, codes and scales, as :func:`.gather_parts` takes them."""


class ShardedStore(Backing):
    """Several files, whose rows follow one another.

    Parameters
    ----------
    path : str
        For messages and users.
    facts : Facts
        Of the whole.
    files : ShardFiles
    reopening : object
        What ``qstore.open`` takes to open this again.
    resident_scales : bool
    key_kinds : mapping of str to str or None
        Files that have keys of different kinds, and these; empty where all have the same.
    """

    def __init__(
        self,
        path: str,
        facts: Facts,
        files: ShardFiles,
        reopening: Any,
        resident_scales: bool,
        key_kinds: Mapping[str, KeyKind | None] = _NO_KINDS,
    ) -> None:
        self.path = path
        self.facts = facts
        self.shape = (facts.rows, facts.dim)
        self.shards: tuple[Shard, ...] = tuple(files.shards)
        self._files = files
        self._key_kinds = key_kinds
        options = {"resident_scales": resident_scales, "resident_bytes": files.resident.most}
        self._reopening = reopening, options
        self._firsts = [shard.first for shard in self.shards]
        self._first_rows = np.array(self._firsts, np.int64)
        self._pager = Steps(facts.rows, facts.dim, files.resident.bounded)

    # One by one -----------------------------------------------------------------------------------

    def read_row(self, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_row`."""
        self._check_open()
        if not -self.facts.rows <= number < self.facts.rows:
            raise IndexError(f"index {number} is out of bounds for axis 0 with size {self.facts.rows}")
        row = number % self.facts.rows
        shard = bisect_right(self._firsts, row) - 1
        return self._files.get(shard).read_row(row - self._firsts[shard], dtype)

    def read_slice(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """See :meth:`.Backing.read_slice`."""
        self._check_open()
        numbers = range(self.facts.rows)[rows]
        width = len(range(self.facts.dim)[columns])
        out = kernels.fresh((len(numbers), width), dtype)
        rising, filled = (numbers, out) if numbers.step > 0 else (numbers[::-1], out[::-1])
        done = 0
        while done < len(rising):
            shard = self._shard_of(rising[done])
            first = self._firsts[shard]
            count = len(range(rising[done], min(rising.stop, first + self.shards[shard].rows), rising.step))
            held = slice(rising[done] - first, rising[done + count - 1] - first + 1, rising.step)
            fill_slice(self._files.get(shard), held, columns, filled[done : done + count])
            done += count
        return out

    def read_values(self, rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See :meth:`.Backing.read_values`."""
        self._check_open()
        for shard, at, local in by_part(self._first_rows, self.facts.rows, rows):
            values = np.empty(len(at), out.dtype)
            self._files.get(shard).read_values(local, columns[at], values)
            out[at] = values

    # Scattered rows -------------------------------------------------------------------------------

    def gather(
        self, rows: NDArray[np.int64], columns: slice, out: NDArray[Any], threads: int | None = None
    ) -> None:
        """See :meth:`.Backing.gather`."""

        def through_maps(start: int, stop: int) -> None:
            numbers, to = rows[start:stop], out[start:stop]
            for at, tables in self._groups(numbers, columns):
                filled = to if at is ALL else np.empty((len(at), to.shape[1]), to.dtype)
                gather_parts(*tables, numbers[at], filled, threads)
                if at is not ALL:
                    to[at] = filled

        def read(start: int, stop: int) -> int:
            piece = np.empty((stop - start, out.shape[1]), np.uint8), np.empty(stop - start)
            missing = self._read(rows[start:stop], 0 if columns is ALL else columns.start, *piece)
            kernels.dequantize_into(*piece, out[start:stop], threads)
            return missing

        self._scattered(rows, out.shape[1], through_maps, read)

    def gather_codes(
        self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
    ) -> None:
        """See :meth:`.Backing.gather_codes`."""

        def through_maps(start: int, stop: int) -> None:
            numbers, to = rows[start:stop], (codes[start:stop], scales[start:stop])
            for at, tables in self._groups(numbers, ALL):
                filled = to if at is ALL else (np.empty_like(codes[at]), np.empty(len(at)))
                copy_parts(*tables, numbers[at], *filled)
                if at is not ALL:
                    to[0][at], to[1][at] = filled

        def read(start: int, stop: int) -> int:
            return self._read(rows[start:stop], 0, codes[start:stop], scales[start:stop])

        self._scattered(rows, self.facts.dim, through_maps, read)

    def _scattered(
        self,
        rows: NDArray[np.int64],
        dim: int,
        through_maps: Callable[[int, int], None],
        read: Callable[[int, int], int],
    ) -> None:
        """All rows by `through_maps` at once, or piece by piece while they may have to be waited for."""
        self._check_open()
        steps = self._pager
        if steps.cold:
            touch_parts(self._first_rows, self.facts.rows, rows)  # all of them before any is written
            in_pieces(steps, dim, through_maps, read)(0, rows.size)
        else:
            begun = time.perf_counter_ns()
            through_maps(0, rows.size)
            steps.note_few(rows.size, time.perf_counter_ns() - begun)

    def _read(
        self,
        rows: NDArray[np.int64],
        first_column: int,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
    ) -> int:
        """Fill `codes` and `scales` from the files; how many pieces were not in memory, or UNKNOWN."""
        pieces = list(by_part(self._first_rows, self.facts.rows, rows))
        if len(pieces) > 1 and not self._pager.found:
            for shard, _, local in pieces:
                self._files.get(shard).ask(local)
        missing = 0
        for shard, at, local in pieces:
            filled = np.empty((len(at), codes.shape[1]), np.uint8), np.empty(len(at))
            found = self._files.get(shard).file.read(local, first_column, *filled, self._pager.found)
            codes[at], scales[at] = filled
            missing = UNKNOWN if min(found, missing) < 0 else missing + found
        return missing

    def _groups(self, rows: NDArray[np.int64], columns: slice) -> Iterator[tuple[Any, _Tables]]:
        """Yield (places in `rows`, the parts they lie in), of few enough shards to be mapped at a time.

        All rows are checked before the first group. Mostly there is one, and its places are ``ALL``; of
        several, a piece at a time.
        """
        self._check_open()
        touched = np.flatnonzero(touch_parts(self._first_rows, self.facts.rows, rows))
        if len(touched) <= MOST_MAPPED:
            yield ALL, self._tables(touched, columns)
            return
        positive = np.where(rows < 0, rows + self.facts.rows, rows)
        parts = np.searchsorted(self._first_rows, positive, side="right") - 1
        order = np.argsort(parts, kind="stable")
        ordered = parts[order]
        step = max(1, _COPIED_CODES // self.facts.dim)
        for start in range(0, len(touched), MOST_MAPPED):
            group = touched[start : start + MOST_MAPPED]
            first, last = np.searchsorted(ordered, group[[0, -1]] + np.array([0, 1]))
            tables = self._tables(group, columns)
            for begin in range(first, last, step):
                yield order[begin : min(begin + step, last)], tables

    def _tables(self, shards: NDArray[np.intp], columns: slice) -> _Tables:
        get = self._files.get
        pairs = [get(shard).row_arrays() for shard in shards.tolist()]
        codes = tuple(codes if columns is ALL else codes[:, columns] for codes, _ in pairs)
        return self._first_rows[shards], self.facts.rows, codes, tuple(scales for _, scales in pairs)

    def ask(self, rows: NDArray[np.int64]) -> bool:
        """See :meth:`.Backing.ask`: shards that are not open would have to be looked at first."""
        self._check_open()
        touched = np.flatnonzero(touch_parts(self._first_rows, self.facts.rows, rows))
        if not all(map(self._files.is_open, touched.tolist())):
            return False
        for shard, _, local in by_part(self._first_rows, self.facts.rows, rows):
            self._files.get(shard).ask(local)
        return True

    def pool(
        self,
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[Any] | None,
        mode: Literal["sum", "mean"],
        out: NDArray[Any],
        threads: int | None = None,
    ) -> None:
        """See :meth:`.Backing.pool`.

        Bags are pooled from copies of their codes, so that each is added up in order by the one kernel.
        """
        self._check_open()
        touch_parts(self._first_rows, self.facts.rows, rows)
        pool_copied(self, rows, offsets, weights, mode, out, threads)

    # The whole ------------------------------------------------------------------------------------

    def parts(self, first: int, last: int) -> Iterator[Part]:
        """See :meth:`.Backing.parts`."""
        self._check_open()
        while first < last:
            shard = self._shard_of(first)
            start, stop = self._firsts[shard], self._firsts[shard] + self.shards[shard].rows
            # No name for the views: while this waits, they would keep the store from being closed.
            parts = self._files.get(shard).parts(first - start, min(last, stop) - start)
            yield from map(partial(_moved, start), parts)
            first = stop

    def walk(self) -> Iterator[tuple[Part, Pager | None]]:
        """See :meth:`.Backing.walk`."""
        self._check_open()
        for shard in range(len(self.shards)):
            for part, pager in self._files.get(shard).walk():
                yield part._replace(first=self._firsts[shard] + part.first), pager

    def scan(self, rows: int) -> Iterator[Part]:
        """See :meth:`.Backing.scan`."""
        self._check_open()
        for shard in range(len(self.shards)):
            for part in self._files.get(shard).scan(rows):
                yield part._replace(first=self._firsts[shard] + part.first)

    def key_index(self) -> KeyIndex:
        """See :meth:`.Backing.key_index`."""
        self._check_open()
        if self._key_kinds:
            kinds = ", ".join(f"{path} has {said(kind)}" for path, kind in self._key_kinds.items())
            raise IndexError(
                f"the files of {self.path} have keys of different kinds, expected one kind in all: {kinds}; "
                f"give row numbers, or open those with keys of one kind"
            )
        if self.facts.key_kind is None:
            raise IndexError(
                f"the rows of {self.path} have no keys, or not in all its shards: give row numbers"
            )
        return ShardedKeys(self.path, self.facts.key_kind, self._files)

    def _shard_of(self, row: int) -> int:
        return bisect_right(self._firsts, row) - 1

    def view(self, name: Literal["codes", "scales", "checksums"]) -> NDArray[Any]:
        """See :meth:`.Backing.view`: there is none."""
        self._check_open()
        raise NoViewError(
            f"{self.path} has {len(self.shards)} shards, so its {name} do not lie in one piece: "
            f"store.parts() gives codes and scales shard by shard, and qstore.open(store.shards[0].path) "
            f"opens one of them"
        )

    def verify(self, progress: Progress = None, threads: int | None = None) -> VerifyReport:
        """See :meth:`.Backing.verify`. Blocks are numbered through all shards; a bad shard is a problem."""
        from .verify import VerifyReport, with_key_counts

        self._check_open()
        blocks, keys_ok = 0, self.facts.key_kind is not None
        broken: list[int] = []
        problems: list[str] = []
        with rows_progress(progress, self.facts.rows) as on_rows:
            for number, shard in enumerate(self.shards):
                name = os.path.basename(shard.path)
                try:
                    file = self._files.get(number)
                    found = file.verify(threads=threads)
                except ClosedError:
                    raise
                except (QStoreError, OSError) as error:
                    problems.append(str(error))
                    keys_ok = False
                else:
                    keys_ok &= found.keys_ok is not False
                    broken.extend(blocks + block for block in found.broken_blocks)
                    problems.extend(f"shard {name}: {problem}" for problem in found.problems)
                    if shard.rows and self.facts.key_kind not in (None, file.facts.key_kind):
                        keys_ok = False
                        problems.append(
                            f"shard {name}: its keys are of kind {file.facts.key_kind}, expected "
                            f"{self.facts.key_kind} as the manifest says"
                        )
                blocks += layout.block_count(shard.rows, self.facts.dim)
                on_rows(shard.rows)
        report = VerifyReport(
            ok=not problems,
            rows=self.facts.rows,
            blocks=blocks,
            block_rows=layout.block_rows(self.facts.dim),
            broken_blocks=tuple(broken),
            keys_ok=keys_ok if self.facts.key_kind is not None else None,
            content_id_ok=not any("content id" in problem for problem in problems),
            problems=tuple(problems),
        )
        return with_key_counts(report, self._files.key_parts() if report.keys_ok else [])

    # Life -----------------------------------------------------------------------------------------

    def reopening(self) -> tuple[Any, dict[str, Any]]:
        """See :meth:`.Backing.reopening`."""
        return self._reopening

    def _check_open(self) -> None:
        try:
            self._files.check_open()
        except ClosedError:
            raise ClosedError(f"the store {self.path} is closed") from None

    @property
    def is_closed(self) -> bool:
        """See :meth:`.Backing.is_closed`."""
        return self._files.is_closed

    def close(self) -> None:
        """See :meth:`.Backing.close`."""
        self._files.close()


def _moved(rows: int, part: Part) -> Part:
    return part._replace(first=rows + part.first)
