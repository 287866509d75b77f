"""What the tests of remote stores share: a server of ranges, and one store behind a URL and on disk."""

from __future__ import annotations

import gc
import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qstore

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from range_server import RangeServer, serving
from remote_stores import DIM, ROWS


@pytest.fixture(scope="module", autouse=True)
def quick_event_loop() -> None:
    """fsspec's thread and its event loop begin before descriptors are counted, and stay."""
    importlib.import_module("fsspec.asyn").get_loop()


@pytest.fixture
def server(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    from qstore.system.remote_objects import http_reader

    monkeypatch.setattr(http_reader, "_PAUSES", (0.01, 0.02, 0.03))
    before = {thread.name for thread in threading.enumerate()}
    with serving() as running:
        yield running
    ours = {"qstore-kernels_0", "qstore-kernels_1", *(f"qstore-ahead_{number}" for number in range(4))}
    assert {thread.name for thread in threading.enumerate()} <= before | ours


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("remote") / "store.h5"
    values = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    values[5] = 0
    qstore.build(values, made, tensor=None)
    return made


@pytest.fixture
def local(path: Path) -> Iterator[qstore.Store]:
    with qstore.open(path) as store:
        yield store
        gc.collect()


@pytest.fixture
def url(server: RangeServer, path: Path) -> str:
    server.objects["store.h5"] = path.read_bytes()
    return server.url("store.h5")


@pytest.fixture
def remote(url: str) -> Iterator[qstore.Store]:
    with qstore.open(url) as store:
        yield store
