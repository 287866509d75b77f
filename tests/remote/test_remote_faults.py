"""Faults of servers and objects that change: the right rows or a typed error, never anything else."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from range_server import Fault, RangeServer
from remote_stores import DIM, ROWS, WORDS, equal

import qstore
from qstore.format.layout import Extent

pytest.importorskip("fsspec")
aiohttp = pytest.importorskip("aiohttp")

PATIENCE = {"timeout": aiohttp.ClientTimeout(sock_read=0.5)}  # between two pieces, not for all


def test_every_fault_has_its_words() -> None:
    assert set(WORDS) == set(get_args(Fault))


def patience(fault: Fault) -> dict[str, Any]:
    return PATIENCE if fault == "hang" else {}


@pytest.mark.parametrize("fault", sorted(set(WORDS) - {"changed total", "other range"}))
def test_a_fault_while_opening(fault: Fault, url: str, server: RangeServer) -> None:
    server.misbehave(fault)
    with pytest.raises(qstore.RemoteError, match=WORDS[fault]) as caught:
        qstore.open(url, storage_options=patience(fault))
    assert str(caught.value).startswith(url)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("fault", sorted(WORDS))
@pytest.mark.parametrize("read", ["row", "rows", "scan", "verify", "scales"])
def test_a_fault_while_reading(
    fault: Fault, read: str, url: str, local: qstore.Store, server: RangeServer
) -> None:
    reads: dict[str, Callable[[qstore.Store], Any]] = {
        "row": lambda store: store[20_000],
        "rows": lambda store: store.take(range(0, ROWS, 1000)),
        "scan": lambda store: list(store.blocks()),
        "verify": lambda store: store.verify(),
        "scales": lambda store: store.scales,
    }
    with qstore.open(url, storage_options=patience(fault)) as store:
        server.misbehave(fault)
        with pytest.raises(qstore.RemoteError, match=WORDS[fault]) as caught:
            reads[read](store)
        assert isinstance(caught.value, qstore.ChangedError) == (fault == "changed total")
        server.fault = None
        equal(store[20_000], local[20_000])  # it goes on when the server does
        assert store.verify().ok


def test_ranges_ignored_are_not_downloaded(server: RangeServer) -> None:
    server.objects["big"] = bytes(200 << 20)
    server.misbehave("ignore ranges")
    with pytest.raises(qstore.RemoteError, match="ignores ranges"):
        qstore.open(server.url("big"))
    assert server.body_bytes < 20 << 20  # what the buffers of two sockets took before it hung up


@pytest.mark.parametrize("fault", ["busy", "close", "truncate", "hang"])
def test_three_failures_are_borne(fault: Fault, url: str, server: RangeServer, local: qstore.Store) -> None:
    with qstore.open(url, storage_options=patience(fault), resident_scales=True) as store:
        server.reset()
        server.misbehave(fault, 3)
        equal(store[20_123], local[20_123])
        assert len(server.requests) == 4


def test_nobody_listens() -> None:
    with pytest.raises(qstore.RemoteError, match="4 tries failed"):
        qstore.open("http://127.0.0.1:1/x")


def test_no_such_object(server: RangeServer, url: str, local: qstore.Store) -> None:
    with pytest.raises(qstore.RemoteNotFoundError, match="404") as caught:
        qstore.open(server.url("nothing"))
    assert isinstance(caught.value, FileNotFoundError)
    with qstore.open(url) as store:
        del server.objects["store.h5"]
        with pytest.raises(qstore.RemoteNotFoundError):
            store[20_000]


@pytest.mark.parametrize(
    "validators",
    [{"etag", "last-modified", "if-match"}, {"etag"}, {"last-modified"}],
    ids=["if-match", "etag", "last-modified"],
)
@pytest.mark.parametrize("size", ["same", "shorter"])
def test_an_object_that_changes(
    validators: set[str], size: str, url: str, server: RangeServer, path: Path, tmp_path: Path
) -> None:
    server.validators = validators
    with qstore.open(url) as store:
        before = store[20_000]
        values = np.random.default_rng(4).standard_normal((ROWS - 2000 * (size != "same"), DIM))
        qstore.build(values.astype(np.float32), tmp_path / "y.h5")
        server.objects["store.h5"] = (tmp_path / "y.h5").read_bytes()
        for read in (lambda: store[9], lambda: store[ROWS - 1], lambda: list(store.blocks()), store.verify):
            with pytest.raises(qstore.ChangedError, match=r"has changed since it was opened.*open it again"):
                read()
        server.misbehave("ignore ranges")
        with pytest.raises(qstore.ChangedError):
            store[10]
        server.fault = None
        equal(store[20_000], before)  # it was read before the change
        text = pickle.dumps(store)
    with pytest.raises(qstore.FormatError, match="the file has been replaced"):
        pickle.loads(text)


def test_a_change_while_opening(
    url: str, path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qstore.remote import metadata

    inspect = metadata._headers_to_come

    def change(head: bytes) -> list[Extent]:
        server.objects["store.h5"] = path.read_bytes() + b"\0"
        return inspect(head)

    monkeypatch.setattr(metadata, "_headers_to_come", change)
    with pytest.raises(qstore.ChangedError):
        qstore.open(url)


def test_the_url_keeps_its_secrets(server: RangeServer) -> None:
    secret = server.url("store.h5").replace("//", "//me:password@") + "?signature=a1b2"
    with pytest.raises(qstore.RemoteError) as caught:
        qstore.open(secret)
    assert not re.search("me:|password|signature|a1b2", str(caught.value))
