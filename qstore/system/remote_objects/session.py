"""Objects that are read together: each is opened once, and long reads come in large pieces, ahead of use.

What an object was when it was first looked at, all that is read of it must be. Connections are open while
somebody uses the object.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ClosedError, RemoteError
from ..extent import Extent
from ..threads import thread_count

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from .reader import Reader

__all__ = ["RemoteObject", "Session", "Window"]

_PIECE = 4 << 20
"""What one request asks for."""
_AHEAD = 3
"""Pieces under way behind the one that is read: with one, a connection waits as long as it reads."""
_HELD, _HELD_A_THREAD = 64 << 20, 16 << 20
"""Bytes of pieces that are kept until they are read to their end; each thread is at another place."""


class Session:
    """What is known of objects by their URLs, and pieces of them that are used up soon.

    Any number of threads may use one.
    """

    def __init__(self) -> None:
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._objects: dict[str, RemoteObject | RemoteError] = {}
        self._users = 0
        self._threads: ThreadPoolExecutor | None = None
        self._pieces: OrderedDict[tuple[Window, int], Future[memoryview]] = OrderedDict()

    def open(self, url: str) -> RemoteObject:
        """An object, to be released; what is not there, or not given out, is asked for once.

        Raises
        ------
        RemoteError
            It cannot be read.
        """
        with self._opening:
            found = self._objects.get(url) or self._objects.setdefault(url, self._looked_at(url))
        if isinstance(found, RemoteError):
            raise found.with_traceback(None)
        found.use()
        return found

    def _looked_at(self, url: str) -> RemoteObject | RemoteError:
        from .opening import open_reader  # and with it asyncio

        try:
            return RemoteObject(self, open_reader(url, {}))
        except RemoteError as error:
            if error.status is None:
                raise
            return error

    def count(self, users: int) -> None:
        """Add to the number of users; the last one takes the threads along."""
        with self._lock:
            self._users += users
            ending, self._threads = (None, self._threads) if self._users else (self._threads, None)
        if ending is not None:
            ending.shutdown(cancel_futures=True)

    def piece(self, window: Window, number: int, last: int) -> memoryview:
        """One piece of a window; those behind it, up to the `last`, are under way then.

        Raises
        ------
        RemoteError
        """
        key = window, number
        with self._lock:
            # Others may be done with pieces that were ahead when this was asked: none comes ahead twice.
            ahead = range(max(number, window.ahead) + 1, last + 1)
            for one in (number, *ahead):
                if (window, one) not in self._pieces:
                    self._pieces[window, one] = self._begun().submit(window.load, one)
            window.ahead = max(window.ahead, last)
            coming = self._pieces[key]
            self._pieces.move_to_end(key)
            while len(self._pieces) * _PIECE > _HELD + _HELD_A_THREAD * thread_count(None):
                self._pieces.popitem(last=False)
        try:
            return coming.result()
        except BaseException:
            self.forget(window, number)
            raise

    def _begun(self) -> ThreadPoolExecutor:
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor

            self._threads = ThreadPoolExecutor(_AHEAD + 1, thread_name_prefix="qstore-read-ahead")
        return self._threads

    def forget(self, window: Window, number: int | None = None) -> None:
        """Drop a piece, or all of a window."""
        with self._lock:
            for key in [one for one in self._pieces if one[0] is window and number in (None, one[1])]:
                self._pieces.pop(key).cancel()


class RemoteObject:
    """One object of a session, from its first byte on.

    Attributes
    ----------
    size : int
    version : str
        As :class:`.Reader` has them.
    """

    def __init__(self, session: Session, reader: Reader) -> None:
        self.size, self.version = reader.size, reader.version
        self._session, self._reader, self._head = session, reader, reader.head
        self._users, self._lock, self._reading_head = 0, threading.Lock(), threading.Lock()
        self._connected = True

    def use(self) -> None:
        """One user more."""
        with self._lock:
            self._users += 1
        self._session.count(1)

    def release(self) -> None:
        """One user less; the last one takes the connections along."""
        with self._lock:
            self._users -= 1
            if not self._users and self._connected:
                self._reader.close()
                self._connected = False
        self._session.count(-1)

    def fetch(self, offset: int, size: int) -> bytes:
        """Bytes that lie in the object.

        Raises
        ------
        RemoteError
        """
        return self._connected_reader().fetch([Extent(offset, size)])[0]

    def _connected_reader(self) -> Reader:
        with self._lock:
            if not self._users:
                raise ClosedError(f"{self._reader.name} is closed")
            if not self._connected:
                self._reader, self._connected = self._reader.reopened(), True
            return self._reader

    def load(self, offset: int, size: int) -> memoryview:
        """The same of many bytes."""
        body = np.empty(size, np.uint8).data  # filled with nothing first
        self._connected_reader().fetch_into(Extent(offset, size), body)
        return body

    def head(self, stop: int) -> bytes:
        """All bytes before `stop`, and those that have been read with them; kept from then on."""
        with self._reading_head:
            missing = stop - len(self._head)
            if missing > 0:
                self._head += self.fetch(len(self._head), missing)
            return self._head

    @property
    def head_size(self) -> int:
        """How many bytes :meth:`head` gives without a request."""
        return len(self._head)

    def window(self, begin: int, end: int) -> Window:
        """The bytes from `begin` to before `end`, to be closed."""
        return Window(self._session, self, begin, end)


class Window:
    """Bytes of an object that are read from front to back for the most part, by any threads.

    A piece is dropped once it has been read to its end. Reading ahead begins with the second one.

    Attributes
    ----------
    ahead : int
        The last piece that was asked for so far.
    """

    def __init__(self, session: Session, whole: RemoteObject, begin: int, end: int) -> None:
        self._session, self._whole, self._begin, self._end = session, whole, begin, end
        self._count = -(-(end - begin) // _PIECE)
        self._lock = threading.Lock()
        self._furthest = self.ahead = 0
        self._left: dict[int, tuple[int, bool]] = {}

    def load(self, number: int) -> memoryview:
        """Fetch a piece."""
        offset = self._begin + number * _PIECE
        return self._whole.load(offset, min(_PIECE, self._end - offset))

    def view(self, offset: int, size: int) -> memoryview | None:
        """Bytes as they lie in memory, not to be changed; None where they lie in several pieces.

        Raises
        ------
        RemoteError
        """
        number, place = divmod(offset - self._begin, _PIECE)
        if not size or place + size > _PIECE:
            return None
        piece = self._session.piece(self, number, self._last_ahead(number))
        self._used_up(number, size, len(piece), place + size)
        return piece[place : place + size].toreadonly()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on, counted from the beginning of the object.

        Raises
        ------
        RemoteError
        """
        done = 0
        while done < len(buffer):
            number, place = divmod(offset + done - self._begin, _PIECE)
            piece = self._session.piece(self, number, self._last_ahead(number))
            part = piece[place : place + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)
            self._used_up(number, len(part), len(piece), place + len(part))

    def _last_ahead(self, number: int) -> int:
        """The last piece that is worth being under way while one is read."""
        with self._lock:
            ahead = _AHEAD if number == self._furthest + 1 else 0
            self._furthest = max(self._furthest, number)
        return min(number + ahead, self._count - 1)

    def _used_up(self, number: int, count: int, size: int, stop: int) -> None:
        with self._lock:
            left, ended = self._left.get(number, (size, False))
            left, ended = left - count, ended or stop == size
            self._left[number] = left, ended
            done = ended and left <= 0  # some of it may have been read twice
            if done:
                del self._left[number]
        if done:
            self._session.forget(self, number)

    def close(self) -> None:
        """Drop what has been read ahead."""
        self._session.forget(self)
