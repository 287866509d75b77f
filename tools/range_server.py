"""An HTTP/1.1 server on loopback that honours ranges, counts what it sends, and misbehaves on request."""

from __future__ import annotations

import hashlib
import mmap
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

__all__ = ["Fault", "RangeServer", "serving"]

Fault = Literal[
    "busy",  # 503
    "changed total",  # another size in Content-Range
    "close",  # the connection, before an answer
    "encoded",  # compressed
    "forbidden",  # 403
    "hang",
    "ignore ranges",  # 200 and all of it
    "long",  # more bytes than announced, chunked
    "no content range",
    "other range",  # the bytes before those asked for
    "short",  # fewer bytes than asked for, and says so
    "truncate",  # fewer bytes than announced
]
_PIECE = 64 << 10


class RangeServer(ThreadingHTTPServer):
    """Serves the bytes, or the mapped files, in `objects`, by name.

    Attributes
    ----------
    fault : Fault or None
        What to do wrong, for the next `fault_count` answers.
    validators : set of str
        Of "etag", "last-modified" and "if-match": what is sent and honoured.
    latency : float
        Seconds to wait before each answer.
    requests : list of str
        The Range header of each request so far.
    body_bytes, header_bytes : int
        Sent so far.
    """

    daemon_threads = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes | mmap.mmap] = {}
        self.times: dict[str, float] = {}
        self.validators = {"etag", "last-modified", "if-match"}
        self.fault: Fault | None = None
        self.fault_count = 0
        self.latency = 0.0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Count from 0 again."""
        self.requests: list[str] = []
        self.body_bytes = self.header_bytes = 0

    def count(self, headers: int = 0, body: int = 0) -> None:
        """Add what has been sent."""
        with self._lock:
            self.header_bytes += headers
            self.body_bytes += body

    def next_fault(self, asked: str) -> Fault | None:
        """Note a request; say what to do wrong with it."""
        with self._lock:
            self.requests.append(asked)
            if self.fault_count <= 0:
                return None
            self.fault_count -= 1
            return self.fault

    def misbehave(self, fault: Fault, count: int = 1 << 30) -> None:
        """Answer the next `count` requests so."""
        self.fault, self.fault_count = fault, count

    def url(self, name: str) -> str:
        """Where an object is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 20
    server: RangeServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        fault = self.server.next_fault(asked)
        if self.server.latency:
            time.sleep(self.server.latency)
        content = self.server.objects.get(self.path.lstrip("/").partition("?")[0])
        if fault == "hang":
            self.server.stopping.wait(20)
        if fault in ("hang", "close"):
            self.close_connection = True
        elif fault in ("busy", "forbidden"):
            self._answer(503 if fault == "busy" else 403)
        elif content is None:
            self._answer(404)
        elif self._other_version(content):
            self._answer(412)
        else:
            self._range(content, asked, fault)

    def _other_version(self, content: bytes | mmap.mmap) -> bool:
        wanted = self.headers.get("If-Match")
        return "if-match" in self.server.validators and wanted not in (None, _etag(content))

    def _range(self, content: bytes | mmap.mmap, asked: str, fault: Fault | None) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if found is None or fault == "ignore ranges":
            self._answer(200, memoryview(content), self._validators(content))
            return
        first, last = int(found[1]), min(int(found[2]), len(content) - 1)
        if first >= len(content):
            self._answer(416, headers={"Content-Range": f"bytes */{len(content)}"})
            return
        if fault == "short":
            last = (first + last) // 2
        if fault == "other range" and first:
            first, last = first - 1, last - 1
        total = len(content) + (fault == "changed total")
        headers = {**self._validators(content), "Content-Range": f"bytes {first}-{last}/{total}"}
        if fault == "no content range":
            del headers["Content-Range"]
        if fault == "encoded":
            headers["Content-Encoding"] = "gzip"
        self._answer(206, memoryview(content)[first : last + 1], headers, fault)

    def _validators(self, content: bytes | mmap.mmap) -> dict[str, str]:
        headers = {"Accept-Ranges": "bytes"}
        if "etag" in self.server.validators:
            headers["ETag"] = _etag(content)
        if "last-modified" in self.server.validators:
            headers["Last-Modified"] = formatdate(sum(content[-64:]) + len(content), usegmt=True)
        return headers

    def _answer(
        self,
        status: int,
        body: bytes | memoryview = b"",
        headers: dict[str, str] | None = None,
        fault: Fault | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault == "long":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body) + 9, bytes(body) + b"superfluo")
        else:
            self.send_header("Content-Length", str(len(body)))
        buffered: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        head = len(b"".join(buffered)) + 2
        self.server.count(headers=head)
        self.end_headers()
        if fault == "truncate":
            body, self.close_connection = body[: len(body) // 2], True
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            self.server.count(body=len(piece))
            self.wfile.write(piece)


def _etag(content: bytes | mmap.mmap) -> str:
    return f'"{hashlib.sha256(content[:65536] + content[-65536:]).hexdigest()[:16]}{len(content):x}"'


@contextmanager
def serving() -> Iterator[RangeServer]:
    """A running server; stopped, with all its threads, at the end."""
    with RangeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="server")
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
