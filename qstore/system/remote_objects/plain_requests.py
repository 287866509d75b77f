"""Long ranges by Python's own HTTP client, straight into a buffer: a third of the work of aiohttp's."""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

__all__ = ["PlainRequests"]

_PATIENCE = 30
"""Seconds to wait for a connection, and for the next bytes."""


class PlainRequests:
    """The request that was answered, once more, for other ranges. Any number of threads may use it.

    There are no second tries and no errors here: what is not as it should be is left to others.

    Parameters
    ----------
    url : yarl.URL
        Where the answer came from, behind all redirections.
    headers : mapping of str to str
        What was sent there.
    """

    def __init__(self, url: Any, headers: Mapping[str, str]) -> None:
        self._secure, self._place, self._path = (
            url.scheme == "https",
            (url.raw_host, url.port),
            url.raw_path_qs,
        )
        self._headers = dict(headers)
        self._begin()

    def _begin(self) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._idle: list[HTTPConnection] = []
        self._busy: set[HTTPConnection] = set()

    def get_into(self, buffer: memoryview, headers: Mapping[str, str], check: Callable[[Any], int]) -> bool:
        """Fill the buffer; whether that worked.

        Parameters
        ----------
        buffer : memoryview
        headers : mapping of str to str
            That make it another request: the range, and its condition.
        check : callable
            Gives the size of the body that an answer must have, or raises.
        """
        with self._lock:
            connection = self._idle.pop() if self._idle else self._connection()
            self._busy.add(connection)
        try:
            connection.request("GET", self._path, headers={**self._headers, **headers})
            response = connection.getresponse()
            whole = check(response) == len(buffer) and _filled(buffer, response)
        except Exception:  # whatever it is, it comes again where it is told
            whole = False
        with self._lock:
            self._busy.remove(connection)
            lasting = whole and not response.will_close and not self._closed
            if lasting:
                self._idle.append(connection)
        if not lasting:
            connection.close()
        return whole

    def _connection(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        return (HTTPSConnection if self._secure else HTTPConnection)(*self._place, timeout=_PATIENCE)

    def renewed(self) -> PlainRequests:
        """The same request, with connections of its own."""
        again = copy.copy(self)
        again._begin()
        return again

    def close(self) -> None:
        """Close all connections; those who wait for one get nothing."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().close()
            for connection in self._busy:
                with contextlib.suppress(AttributeError, OSError):  # it may have no socket yet, or any more
                    connection.sock.shutdown(socket.SHUT_RDWR)


def _filled(buffer: memoryview, response: HTTPResponse) -> bool:
    """Whether the body of an answer is as long as the buffer, and in it."""
    got = 0
    while got < len(buffer):
        count = response.readinto(buffer[got:])
        if not count:
            return False
        got += count
    return not response.read(1)
