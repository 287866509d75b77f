"""Quantizes the rows of a source: whole blocks by several threads, parts of one on the caller's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..engine import kernels
from ..engine.arguments import as_quantized, check_nonfinite
from ..engine.coding import Coding
from ..engine.nonfinite import NonFiniteValues
from ..engine.row_errors import ROW_FIGURES
from ..errors import SourceError
from ..format.checksums import crc32
from ..format.layout import sampled_rows
from .journal import BlockRecord

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["EncodedBlock", "Encoder", "ReadCodes", "ReadRows", "record_of"]

ReadRows = Callable[[int, int], NDArray[Any]]
"""Gives the rows from a first to before a last one as a 2-D array; called from several threads."""

ReadCodes = Callable[[int, int], tuple[NDArray[np.uint8], NDArray[np.float64]]]
"""The same of codes and scales, which are there already."""

EncodedBlock = tuple[NDArray[np.uint8], BlockRecord]
"""The codes of a block, and its record."""

# Source values quantized in one call: with float32, 1 MiB, so that what was just read is still in cache.
_PIECE_VALUES = 1 << 18


class Encoder:
    """Quantizes rows that a source gives. One thread may use an encoder at a time.

    Parameters
    ----------
    dim, block_rows : int
        Number of columns, and rows of one block.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities.
    threads : int
        Threads that quantize whole blocks.
    coding : Coding
        How rows become codes and scales.
    """

    def __init__(
        self,
        dim: int,
        block_rows: int,
        nonfinite: Literal["error", "zero"],
        threads: int,
        coding: Coding,
    ) -> None:
        check_nonfinite(nonfinite)
        self._dim = dim
        self._block_rows = block_rows
        self._nonfinite: Literal["error", "zero"] = nonfinite
        self._coding = coding
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._spare: list[NDArray[np.uint8]] = []

    def quantize(
        self,
        read: ReadRows,
        first: int,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
        row: int,
        errors: NDArray[np.float64] | None = None,
    ) -> NonFiniteValues:
        """Fill `codes` and `scales` with the rows that `read` gives from `first` on: some or all of a block.

        `errors` has a row for each of the first rows of the block: it is filled for those that are read here,
        where values are rounded.

        Returns
        -------
        NonFiniteValues
            What was replaced by 0; rows are counted from `row`.

        Raises
        ------
        SourceError
            `read` gave another shape, or what cannot be coded.
        NonFiniteError
            NaN or infinity; its row is counted from `row`.
        """
        step, replaced = max(1, _PIECE_VALUES // self._dim), NonFiniteValues()
        for start in range(0, len(codes), step):
            stop = min(start + step, len(codes))
            values = read(first + start, first + stop)
            if values.shape != (stop - start, self._dim):
                raise SourceError(
                    f"the source gave shape {values.shape}, expected {(stop - start, self._dim)}"
                )
            replaced += self._coding.encode(
                values, codes[start:stop], scales[start:stop], self._nonfinite, row + start
            )
            if errors is not None and self._coding.rounds:
                place = (row + start) % self._block_rows
                held = slice(start, start + max(0, min(len(values), len(errors) - place)))
                errors[place : place + held.stop - start] = kernels.row_errors(
                    values[: held.stop - start], codes[held], scales[held]
                )
        return replaced

    def blocks(self, read: ReadRows, first: int, last: int, row: int) -> Generator[EncodedBlock, None, None]:
        """Quantize the rows `first` to before `last`, whole blocks; yield these in order.

        The first of them is row `row` of the store. If this ends early, no block is under way any more.
        """

        def encode(start: int) -> EncodedBlock:
            codes = self.block()
            scales = np.empty(self._block_rows, np.float64)
            errors = np.empty((sampled_rows(self._dim), ROW_FIGURES))
            replaced = self.quantize(read, start, codes, scales, row + start - first, errors)
            measured = errors if self._coding.rounds else None
            return codes, record_of(codes, scales)._replace(errors=measured, nonfinite=replaced)

        return self._in_order(encode, first, last)

    def block(self) -> NDArray[np.uint8]:
        """Room for the codes of a block: one of :meth:`reuse` if there is, whose pages are there already."""
        try:
            return self._spare.pop()
        except IndexError:
            return np.empty((self._block_rows, self._dim), np.uint8)

    def reuse(self, codes: NDArray[np.uint8]) -> None:
        """Take back a block of :meth:`blocks` or :meth:`block` whose codes nobody needs any more."""
        self._spare.append(codes)

    def coded_blocks(self, read: ReadCodes, first: int, last: int) -> Generator[EncodedBlock, None, None]:
        """Whole blocks of codes and scales that are there already; else as :meth:`blocks`."""

        def take(start: int) -> EncodedBlock:
            codes, scales = as_quantized(*read(start, start + self._block_rows), self._dim)
            codes = np.ascontiguousarray(codes)
            return codes, record_of(codes, scales)

        return self._in_order(take, first, last)

    def _in_order(
        self, encode: Callable[[int], EncodedBlock], first: int, last: int
    ) -> Generator[EncodedBlock, None, None]:
        starts = iter(range(first, last, self._block_rows))
        if self._threads == 1 or last - first <= self._block_rows:
            yield from map(encode, starts)
            return
        pool = self._workers()
        # Two blocks a thread under way keep all busy while the oldest is waited for.
        running = deque(pool.submit(encode, start) for start in islice(starts, 2 * self._threads))
        try:
            while running:
                block = running.popleft().result()
                running.extend(pool.submit(encode, start) for start in islice(starts, 1))
                yield block
        finally:
            _wait_for(running)

    def _workers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms, not at import

            self._pool = ThreadPoolExecutor(self._threads, "qstore-writer")
        return self._pool

    def close(self) -> None:
        """End the threads, once what they are at is done."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def record_of(codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> BlockRecord:
    """Record of one block."""
    return BlockRecord(len(codes), crc32(codes), crc32(scales), scales)


def _wait_for(running: Iterable[Future[EncodedBlock]]) -> None:
    """Let no block be under way when the source is closed."""
    for future in running:
        future.cancel()
    for future in running:
        if not future.cancelled():
            future.exception()
