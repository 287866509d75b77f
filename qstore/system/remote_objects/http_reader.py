"""Ranges over HTTP, each response checked before its body is believed.

fsspec's own reads take whatever comes: a server that ignores ranges sends the whole object, a short answer
passes, and another version of the object under the same name goes unnoticed. Here fsspec gives the client,
its options and its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ctypes
import functools
import os
import re
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...errors import ChangedError, ClosedError, RemoteError, RemoteNotFoundError
from ..extent import Extent
from ..urls import without_secrets
from .plain_requests import PlainRequests
from .reader import HEAD_BYTES, Connect, Reader

if TYPE_CHECKING:
    from http.client import HTTPResponse

    import aiohttp

__all__ = ["HttpReader"]

_SIDE_BY_SIDE = 64
_PAUSES = (0.1, 0.3, 1.0)
"""Seconds before the second, third and last try."""
_WORTH_ANOTHER_TRY = {408, 429, 500, 502, 503, 504}
_PATIENCE = 30
"""Seconds to wait for a connection, and for the next bytes."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


_closings: set[asyncio.Task[None]] = set()


class _Identity(NamedTuple):
    """What a response tells about the object; another object differs in at least one."""

    size: int
    etag: str | None
    modified: str | None


class _TryAgainError(Exception):
    """This answer was none, the next one may be."""


class HttpReader(Reader):
    """One object of an HTTP server that honours ranges.

    Parameters
    ----------
    name : str
        For messages.
    connect : callable
        Makes fsspec's HTTP file system: its client options are used.

    Notes
    -----
    A strong ETag goes with every request as ``If-Match``. ETag, ``Last-Modified`` and size of every response
    are compared with those of the first.
    """

    def __init__(self, name: str, connect: Connect) -> None:
        self.name, self._connect = name, connect
        self._identity: _Identity | None = None
        self._plain: PlainRequests | None = None
        self._start()
        try:
            self.head = self.fetch([Extent(0, HEAD_BYTES)])[0]
        except BaseException:
            self.close()
            raise
        size, etag, modified = self._identity or _Identity(0, None, None)
        self.size, self.version = size, etag or modified or ""

    def _start(self) -> None:
        from aiohttp import ClientTimeout
        from fsspec.asyn import get_loop
        from fsspec.implementations.http import get_client

        file_system, path = self._connect()
        options = dict(file_system.kwargs)
        if "timeout" not in options and "timeout" not in file_system.client_kwargs:
            options["timeout"] = ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
        # With its own options, only the client that they are meant for knows what to do.
        own = {*options, *file_system.client_kwargs} - {"headers", "timeout"}
        self._takes_plain = not own and file_system.get_client is get_client
        self._headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        self._options, self._url = options, file_system.encode_url(path)
        self._loop = get_loop()
        self._client = functools.partial(file_system.get_client, loop=self._loop, **file_system.client_kwargs)
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    def reopened(self) -> Reader:
        """See :meth:`.Reader.reopened`."""
        again = copy.copy(self)
        again._plain = self._plain and self._plain.renewed()
        again._start()
        return again

    def close(self) -> None:
        """See :meth:`.Reader.close`."""
        self._closed = True
        if self._plain is not None:
            self._plain.close()
        if self._session is not None:
            self._ending()

    def fetch(self, extents: Sequence[Extent]) -> list[bytes]:
        """See :meth:`.Reader.fetch`."""
        from fsspec.asyn import sync

        try:
            bodies: list[bytes] = sync(self._loop, self._fetch, extents)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return bodies

    def fetch_into(self, extent: Extent, buffer: memoryview) -> None:
        """See :meth:`.Reader.fetch_into`. aiohttp is asked where the quick way does not work."""
        plain = self._plain
        if plain is not None:
            if plain.get_into(buffer, self._asking(extent), lambda answer: self._check(answer, extent)):
                return
            plain.close()
            self._plain = None  # the address may have been for some time only
        super().fetch_into(extent, buffer)

    async def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClosedError(f"{self.name} is closed")
        async with self._opening:
            if self._session is None:
                self._session = await self._client()
                self._ending = weakref.finalize(self, _close, self._session, self._loop, os.getpid())
        return self._session

    async def _fetch(self, extents: Sequence[Extent]) -> list[bytes]:
        bodies = [b""] * len(extents)
        waiting = iter(enumerate(extents))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_SIDE_BY_SIDE, len(extents))):
                group.create_task(self._work(waiting, bodies))
        return bodies

    async def _work(self, waiting: Iterator[tuple[int, Extent]], bodies: list[bytes]) -> None:
        for number, extent in waiting:
            bodies[number] = await self._persist(extent)

    async def _persist(self, extent: Extent) -> bytes:
        """One range, tried again where that may help."""
        from aiohttp import ClientConnectionError, ClientError, ClientPayloadError

        pauses = iter(_PAUSES)
        while True:
            try:
                return await self._get(extent)
            except (ClientConnectionError, ClientPayloadError, TimeoutError, _TryAgainError) as error:
                pause = next(pauses, None)
                if pause is None:
                    words = f"{type(error).__name__} {error}" if error.args else type(error).__name__
                    raise self._error(f"{len(_PAUSES) + 1} tries failed, the last one: {words}") from error
                await asyncio.sleep(pause)
            except ClientError as error:
                raise self._error(f"{type(error).__name__}: {error}") from error
            except RuntimeError as error:
                if not self._closed:
                    raise
                raise ClosedError(f"{self.name} is closed") from error

    async def _get(self, extent: Extent) -> bytes:
        headers = {**self._headers, **self._asking(extent)}
        session = await self._connected()
        async with session.get(self._url, headers=headers, **self._options) as response:
            try:
                size = self._check(response, extent)
                body = await self._body(response, size)
            except BaseException:
                response.close()  # else what is left of the body would be read
                raise
        if self._plain is None and self._takes_plain:
            self._plain = PlainRequests(response.url, response.request_info.headers)
        return body

    def _asking(self, extent: Extent) -> dict[str, str]:
        headers = {"Range": f"bytes={extent.offset}-{extent.stop - 1}"}
        if self._identity and self._identity.etag and not self._identity.etag.startswith("W/"):
            headers["If-Match"] = self._identity.etag
        return headers

    def _check(self, response: aiohttp.ClientResponse | HTTPResponse, extent: Extent) -> int:
        """Size of the body that this response must have; an error unless it is what was asked for."""
        status = response.status
        if status == 416 and self._identity is None and response.headers.get("Content-Range") == "bytes */0":
            return 0
        if status in (412, 416) and self._identity is not None:
            raise self._changed(f"the server answers {status} {response.reason}")
        if status == 200:
            raise self._ignored(response)
        if status != 206:
            raise self._refused(response)
        if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
            raise self._error(f"the range came encoded, as {response.headers['Content-Encoding']}")
        given = response.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(given)
        first, last, total = map(int, found.groups()) if found else (-1, -1, 0)
        self._compare(_Identity(total, *_validators(response)) if found else None)
        if (first, last + 1) != (extent.offset, min(extent.stop, total)):
            asked = f"bytes {extent.offset}-{extent.stop - 1}"
            raise self._error(f"asked for {asked}, the server says it sends {given[:80]!r}")
        return last + 1 - first

    def _compare(self, found: _Identity | None) -> None:
        """The first response tells what the object is, all others must tell the same."""
        if found is None:
            return
        if self._identity is None:
            self._identity = found
        elif found != self._identity:
            raise self._changed(f"found {found}, expected {self._identity}")

    def _ignored(self, response: aiohttp.ClientResponse | HTTPResponse) -> RemoteError:
        if self._identity is not None and _validators(response) != self._identity[1:]:
            return self._changed("the server sends it whole")
        error = self._error(
            "the server ignores ranges and would send the whole file for each read; "
            "download it and open the copy"
        )
        error.status = response.status
        return error

    def _refused(self, response: aiohttp.ClientResponse | HTTPResponse) -> Exception:
        answer = f"the server answers {response.status} {response.reason}"
        if response.status in _WORTH_ANOTHER_TRY:
            return _TryAgainError(answer)
        missing = response.status in (404, 410)
        error = RemoteNotFoundError(f"{self.name}: {answer}") if missing else self._error(answer)
        error.status = response.status
        return error

    async def _body(self, response: aiohttp.ClientResponse, size: int) -> bytes:
        parts, got = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            got += len(part)
            if got > size:
                raise self._error(f"more than the {size} bytes came that the server announced")
        if got < size:
            raise _TryAgainError(f"{got} bytes came of {size}")
        return b"".join(parts)

    def _changed(self, how: str) -> ChangedError:
        return ChangedError(f"{self.name} has changed since it was opened ({how}): open it again")

    def _error(self, what: str) -> RemoteError:
        return RemoteError(f"{self.name}: {without_secrets(what)}")


def _validators(response: aiohttp.ClientResponse | HTTPResponse) -> tuple[str | None, str | None]:
    return response.headers.get("ETag"), response.headers.get("Last-Modified")


def _close(session: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close connections, from any thread, also while an object is collected as garbage."""
    if os.getpid() != process:
        # In a forked child, closing would take the parent's sockets out of the parent's epoll, which both
        # share; so would the session's end, even when the interpreter exits: it must never come.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        return
    closing = session.close()
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        _closings.add(task := loop.create_task(closing))
        task.add_done_callback(_closings.discard)
        return
    with contextlib.suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(closing, loop).result(timeout=1)
