"""What a :class:`~qstore.Store` asks of the data behind it, wherever that lies."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingKeyError
from ..format.layout import Facts, Shard
from ..keys.lookup import MISSING, KeyIndex
from .indexing import ALL
from .parts import Part

if TYPE_CHECKING:
    from ..system.paging import Pager
    from ..system.progress import Progress
    from .ahead import Ahead
    from .verify import VerifyReport

__all__ = ["Backing"]

# So many rows are asked for on the caller's thread: handing them to another one costs as much, and that one
# may have to wait for the interpreter for as long as the caller computes.
_FEW_ROWS = 256

# Values that are made and dropped while rows are brought near.
_BROUGHT_VALUES = 1 << 20


class Backing(ABC):
    """The data of one store: a file, several files, an object elsewhere.

    Shared by every Store that views it; any number of threads may read at the same time. Column ranges
    are slices with step 1 within the columns, or exactly ``indexing.ALL``. Values are
    ``(codes - 128) * scales`` in float64, rounded once; every backing gives the same bits.

    Attributes
    ----------
    path : str
        Where it was opened, as messages and users see it.
    facts : Facts
        Shape, version, content id and origin.
    shape : tuple of int
        (rows, columns).
    shards : tuple of Shard
        The files, in the order of their rows.
    ahead : Ahead
        What is read before it is needed.
    found : object
        What one look told of the place it was opened at: another after it was replaced.
    """

    path: str
    facts: Facts
    shape: tuple[int, int]
    shards: tuple[Shard, ...]
    ahead: Ahead
    found: object

    @abstractmethod
    def read_row(self, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """One row, fresh, of shape (D,); NumPy's IndexError unless -N <= number < N."""

    @abstractmethod
    def read_slice(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Rows at a constant distance, fresh, of shape (n, columns)."""

    @abstractmethod
    def read_values(self, rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Fill `out`, of shape (n,), with one value for each pair of a row and a column, counted from 0.

        They are in range. A block of values: what this needs besides goes with their number.
        """

    @abstractmethod
    def gather(
        self, rows: NDArray[np.int64], columns: slice, out: NDArray[Any], threads: int | None = None
    ) -> None:
        """Fill `out`, of shape (len(rows), columns) with contiguous rows, with rows in any order.

        Negative numbers count from the end. IndexError before anything is written.
        """

    def read_few(self, rows: NDArray[Any], dtype: np.dtype[Any], out: Any = None) -> NDArray[Any] | None:
        """Few rows, in `out` or fresh, of shape ``(*rows.shape, D)``, where one call does it.

        None, and nothing is done, where anything is unusual, as for :meth:`.Table.take`; or closed.
        """
        return None

    @abstractmethod
    def gather_codes(
        self, rows: NDArray[np.int64], codes: NDArray[np.uint8], scales: NDArray[np.float64]
    ) -> None:
        """Fill `codes` (n, D) and `scales` (n,) with those of rows in any order; as :meth:`gather`."""

    @abstractmethod
    def pool(
        self,
        rows: NDArray[np.int64],
        offsets: NDArray[np.int64],
        weights: NDArray[Any] | None,
        mode: Literal["sum", "mean"],
        out: NDArray[Any],
        threads: int | None = None,
    ) -> None:
        """As :func:`.kernels.pool`: the same bits, however the rows are spread."""

    def prefetch(self, rows: NDArray[np.int64]) -> int:
        """Have rows brought near, numbers from 0 on, without waiting; how many, counted from the first.

        Few are asked for here and now, if that cannot wait for anything; others are read in the background.
        """
        ahead, rows = self.ahead, rows[: self.most_brought()]
        if not rows.size:
            return 0
        if rows.size <= _FEW_ROWS and rows.size * ahead.row_bytes <= ahead.most and self.ask(rows):
            return rows.size
        return ahead.offer(rows.size, lambda fitting: self.bring(rows[:fitting]))

    def most_brought(self) -> int:
        """How many rows can be kept near."""
        return sys.maxsize

    def ask(self, rows: NDArray[np.int64]) -> bool:
        """Have the pages of few rows read, numbers from 0 on; False, and nothing, where asking may wait."""
        return False

    def bring(self, rows: NDArray[np.int64]) -> None:
        """Read up to :meth:`most_brought` rows, numbers from 0 on, so that they are near afterwards."""
        step = max(1, _BROUGHT_VALUES // self.facts.dim)
        values = np.empty((min(step, rows.size), self.facts.dim), np.float32)
        for start in range(0, rows.size, step):
            piece = rows[start : start + step]
            self.gather(piece, ALL, values[: piece.size])

    @abstractmethod
    def parts(self, first: int, last: int) -> Iterator[Part]:
        """The rows `first` to before `last`, in order, in as few pieces as there are: read-only views."""

    def walk(self) -> Iterator[tuple[Part, Pager | None]]:
        """All rows, in order, in as few parts as there are, each with the pager of its file if it has one."""
        for part in self.parts(0, self.facts.rows):
            yield part, None

    def scan(self, rows: int) -> Iterator[Part]:
        """All rows, in order, in parts of so many rows, or fewer where they do not lie in one piece."""
        for first, codes, scales in self.parts(0, self.facts.rows):
            for start in range(0, len(codes), rows):
                held = slice(start, start + rows)
                yield Part(first + start, codes[held], scales[held])

    def fidelity_numbers(self) -> NDArray[np.float64] | None:
        """What the build measured, as the dataset ``/fidelity`` has it; None where it did not."""
        return None

    def blocks(self, step: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """First row and values of every `step` rows, in order."""
        for first in range(0, self.facts.rows, step):
            yield first, self.read_slice(slice(first, first + step), ALL, dtype)

    @abstractmethod
    def view(self, name: Literal["codes", "scales", "checksums"]) -> NDArray[Any]:
        """One dataset as a whole; a QStoreError that says what to use where it does not lie in one piece."""

    @abstractmethod
    def key_index(self) -> KeyIndex:
        """The keys of the rows; IndexError where they have none."""

    def row_of(self, key: str) -> int:
        """Row of one key; MissingKeyError where there is none."""
        row = self.key_index().row_of(key)
        if row == MISSING:
            raise MissingKeyError((key,), 1, 1)
        return row

    @abstractmethod
    def verify(self, progress: Progress = None, threads: int | None = None) -> VerifyReport:
        """Compare everything with its checksums."""

    @abstractmethod
    def reopening(self) -> tuple[Any, dict[str, Any]]:
        """What ``qstore.open(what, **options)`` takes to open this again in another process."""

    @property
    @abstractmethod
    def is_closed(self) -> bool:
        """Whether :meth:`close` has been called, and done it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and memory; may be called twice. Reads raise ClosedError from then on."""
