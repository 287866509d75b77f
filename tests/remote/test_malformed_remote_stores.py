"""Malformed, cut and damaged stores behind a URL give the errors of local ones."""

from __future__ import annotations

import re

import pytest
from malformed_files import EXPECTED, fixture
from range_server import RangeServer
from remote_stores import DIM

import qstore

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def open_all(url: str) -> None:
    """The optional parts are looked at when they are first used."""
    with qstore.open(url) as store:
        _ = store.fidelity
        store.key_of(0)


def test_malformed_stores_give_the_same_errors(server: RangeServer) -> None:
    for name, (kind, words) in EXPECTED.items():
        server.objects[name] = fixture(name)
        with pytest.raises(qstore.FormatError, match=re.escape(words)) as caught:
            open_all(server.url(name))
        assert type(caught.value).__name__ == kind, name
        assert str(caught.value).startswith(f"{server.url(name)}: ")
    assert len(server.requests) < 6 * len(EXPECTED)
    assert server.body_bytes < (256 << 10) * len(EXPECTED)


def test_a_store_cut_anywhere(url: str, server: RangeServer) -> None:
    whole = server.objects["store.h5"]
    for size in (
        0,
        1,
        47,
        48,
        4096,
        8300,
        12_288,
        65_536,
        65_537,
        len(whole) // 2,
        len(whole) - 8,
        len(whole) - 1,
    ):
        server.objects["store.h5"] = whole[:size]
        with pytest.raises(qstore.FormatError):
            qstore.open(url)


def test_damage_is_found_by_verify(url: str, server: RangeServer) -> None:
    content = bytearray(server.objects["store.h5"])
    content[12288 + 20_000 * DIM] ^= 1
    server.objects["store.h5"] = bytes(content)
    with qstore.open(url) as store:
        report = store.verify()
    assert report.broken_blocks == (20_000 // (2**20 // DIM),)
    assert re.search("codes differ", report.problems[0])
