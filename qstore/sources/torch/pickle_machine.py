"""What the opcodes of a pickle work on: a stack, a memo and a position, and values of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import SourceError

__all__ = ["Function", "Machine", "Opaque", "Pairs", "PickleRefused", "Record", "RecordType"]

_LONGEST_NAME = 256


class PickleRefused(SourceError):
    """A pickle is malformed, or too large. Nothing of it was run."""


@dataclass(frozen=True)
class Function:
    """What REDUCE may call.

    Attributes
    ----------
    call : callable
        Takes the arguments as one tuple, of any length and with anything in it.
    """

    call: Callable[[tuple[Any, ...]], Any]


@dataclass(slots=True, eq=False)
class Pairs:
    """A dict as the pickle has it: keys and values of any kind, in order."""

    items: list[tuple[Any, Any]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Opaque:
    """An object that is neither plain data nor a tensor, or its class: a name, and nothing else.

    Nothing is imported, made or called for it, and what the pickle puts into it is dropped.
    """

    name: str


@dataclass(frozen=True)
class RecordType:
    """A class whose objects are read as what the pickle puts into them: nothing else is made of one.

    Attributes
    ----------
    name : str
    """

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """An object of a :class:`RecordType`.

    Attributes
    ----------
    name : str
        That of its class.
    state : object
        What BUILD gives it: attributes as :class:`Pairs`, or whatever its class has made of them.
    """

    name: str
    state: Any = None


class Machine:
    """A stack, a memo and a position: what the opcodes work on."""

    def __init__(
        self, data: bytes, names: Mapping[tuple[str, str], Any], persistent: Callable[[Any], Any]
    ) -> None:
        self.data, self.names, self.persistent = data, names, persistent
        self.position = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: list[Any] = []

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.position + count
        if end > len(self.data):
            raise PickleRefused(
                f"its pickle ends early: expected {count} bytes from byte {self.position} on, "
                f"found {len(self.data) - self.position}"
            )
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, size: int, signed: bool = False) -> int:
        """The next bytes as a little-endian integer."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        """The next bytes up to a line end."""
        end = self.data.index(b"\n", self.position, self.position + _LONGEST_NAME)
        found = self.data[self.position : end]
        self.position = end + 1
        return found

    def since_mark(self) -> list[Any]:
        """What lies on the stack above the last mark, taken off together with it."""
        found, self.stack = self.stack, self.marked.pop()
        return found
