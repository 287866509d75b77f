"""What tests of remote stores share: their shape, comparisons, what errors say of each fault of a server."""

from __future__ import annotations

from typing import Any

import numpy as np
from range_server import Fault

__all__ = ["DIM", "ROWS", "WORDS", "equal"]

ROWS, DIM = 30_000, 96
# What the error says of each fault of the server.
WORDS: dict[Fault, str] = {
    "busy": "4 tries failed, the last one: .*503 Service Unavailable",
    "changed total": "has changed since it was opened",
    "close": "4 tries failed, the last one: .*Server",
    "encoded": "the range came encoded, as gzip",
    "forbidden": "the server answers 403 Forbidden",
    "hang": "4 tries failed",
    "ignore ranges": "the server ignores ranges and would send the whole file",
    "long": "more than the .* bytes came",
    "no content range": "the server says it sends ''",
    "other range": "asked for bytes .*, the server says it sends 'bytes",
    "short": "asked for bytes .*, the server says it sends 'bytes",
    "truncate": "4 tries failed, the last one: ",
}


def equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
