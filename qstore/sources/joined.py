"""Several tensors of one checkpoint as one matrix: not more than some of them are open at a time."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import SourceError
from .base import Fingerprint, RowSource, Source
from .concatenated import one_after_another
from .numbered import Numbered
from .quantized import QuantizedSource

__all__ = ["joined"]

# Each may hold several files open, its own and those of its scales: a process may commonly hold 1024.
_MOST_OPEN = 128


def joined(family: Numbered, open_one: Callable[[str], Source]) -> Source:
    """Source of the rows of all members, one after the other; its name is that of the family.

    Parameters
    ----------
    family : Numbered
    open_one : callable
        Opens the matrix of one name.

    Raises
    ------
    SourceError
        A member cannot be opened, or differs from the first in width, element type or the way in which its
        values are computed; both are named.
    """
    names = [info.name for info in family.members]
    member = open_one if len(names) <= _MOST_OPEN else _Pool(open_one).member
    recorded: list[str] = []

    def like_the_first(name: str) -> Source:
        source = member(name)
        recorded.append(source.recorded_dtype)
        if recorded[0] != recorded[-1]:
            source.close()
            raise SourceError(
                f"tensor {name!r:.200} cannot be put behind {names[0]!r:.200}: its values are computed in "
                f"another way: expected {recorded[0]}, found {recorded[-1]}; build a store of each instead"
            )
        return source

    source = one_after_another(names, like_the_first)
    source.name = family.name
    return source


class _Pool:
    """Members of a family too large to have all open: those that were used last are.

    It may be used from any number of threads.
    """

    def __init__(self, open_one: Callable[[str], Source]) -> None:
        self._open_one, self._lock = open_one, threading.Lock()
        self._open: OrderedDict[str, Source] = OrderedDict()
        self._users: dict[str, int] = {}
        self._identities: dict[str, Fingerprint | None] = {}
        self._closed = False

    def member(self, name: str) -> Source:
        """One member, opened for the first time. What can only be read from front to back stays open."""
        source = self._open_one(name)
        if not isinstance(source, RowSource) or source.keyed:
            return source
        with self._lock:
            self._identities[name] = source.fingerprint()
            self._keep(name, source)
        kind = _MemberCodes if isinstance(source, QuantizedSource) else _Member
        return kind(name, source, self)

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[Any]:
        """The open source of a member; it is not closed before the end of the block."""
        with self._lock:
            source = self._open.get(name) or self._opened_again(name)
            self._open.move_to_end(name)
            self._users[name] = self._users.get(name, 0) + 1
        try:
            yield source
        finally:
            with self._lock:
                self._users[name] -= 1

    def _opened_again(self, name: str) -> Source:
        if self._closed:
            raise SourceError(f"tensor {name!r:.200} is closed: open the source again")
        source = self._open_one(name)
        if source.fingerprint() != self._identities[name]:
            source.close()
            raise SourceError(f"tensor {name!r:.200} was changed while it was read; build again")
        self._keep(name, source)
        return source

    def _keep(self, name: str, source: Source) -> None:
        for other in [one for one in self._open if not self._users.get(one)]:
            if len(self._open) < _MOST_OPEN:
                break
            self._open.pop(other).close()
        self._open[name] = source

    def close(self) -> None:
        """Close what is open, and open nothing again. May be called twice."""
        with self._lock:
            self._closed = True
            while self._open:
                self._open.popitem()[1].close()


class _Member(RowSource):
    """What is known of a member while it is closed."""

    def __init__(self, name: str, source: RowSource, pool: _Pool) -> None:
        self.name, self.dtype, self.rows, self.dim = name, source.dtype, source.rows, source.dim
        self.convention, self.notes = source.convention, source.notes
        self._recorded, self._identity = source.recorded_dtype, source.fingerprint()
        self._pool = pool

    @property
    def recorded_dtype(self) -> str:
        """As the source itself has it."""
        return self._recorded

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of the source, opened again where it is closed; see :meth:`RowSource.read`."""
        with self._pool.using(self.name) as source:
            rows: NDArray[Any] = source.read(start, stop)
        return rows

    def fingerprint(self) -> Fingerprint | None:
        """That of the source when it was first opened."""
        return None if self._identity is None else dict(self._identity)

    def check_unchanged(self) -> None:
        """Raise `SourceError` where the source has been changed since it was first opened."""
        with self._pool.using(self.name) as source:
            source.check_unchanged()

    def close(self) -> None:
        """Close it and all other members. May be called twice."""
        self._pool.close()


class _MemberCodes(_Member, QuantizedSource):
    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales of the source; see :meth:`QuantizedSource.read_codes`."""
        with self._pool.using(self.name) as source:
            codes, scales = source.read_codes(start, stop)
        return codes, scales
