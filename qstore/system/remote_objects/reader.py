"""What reads ranges of one remote object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from ..extent import Extent

__all__ = ["HEAD_BYTES", "Connect", "Reader"]

HEAD_BYTES = 64 << 10
"""Of these an object is known when it is opened: a small store has all it needs there."""

Connect = Callable[[], tuple[Any, str]]
"""Makes fsspec's file system and the path on it, in this process."""


class Reader(ABC):
    """Gives ranges of one object, complete and all from the object as it was when it was opened.

    Any number of threads may use one. After a fork the child needs its own: :meth:`reopened`.

    Attributes
    ----------
    name : str
        The URL for messages, without what may be secret in it.
    size : int
        Size of the object in bytes.
    version : str
        What tells it from other objects of this name, beside the size; empty where nothing does.
    head : bytes
        What opening it read already, from byte 0 on.
    """

    name: str
    size: int
    version: str
    head: bytes

    @abstractmethod
    def fetch(self, extents: Sequence[Extent]) -> list[bytes]:
        """The bytes of each extent, all of them inside the object, side by side.

        Raises
        ------
        ChangedError
            The object is another one than was opened.
        RemoteError
            They cannot be read, or what came is not what was asked for.
        """

    def fetch_into(self, extent: Extent, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of one long extent; else as :meth:`fetch`."""
        buffer[:] = self.fetch([extent])[0]

    @abstractmethod
    def reopened(self) -> Reader:
        """Another reader of the very same object, for a child process."""

    @abstractmethod
    def close(self) -> None:
        """Close connections. May be called twice."""
