"""qstore env: which engine, which versions, and why there is no extension."""

from __future__ import annotations

import json
import sys

import h5py
import numpy as np
import pytest
from commands import Run

import qstore
from qstore import environment


def test_env(run: Run) -> None:
    found = json.loads(run("env", "--json").out)
    assert set(found) == set(environment.Environment.__dataclass_fields__)
    assert found["engine"] == qstore.engine_name()
    assert found["qstore"] == qstore.__version__
    out = run("env").out
    assert qstore.engine_name() in out
    assert np.__version__ in out


def test_env_says_why_there_is_no_extension(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSTORE_NO_EXTENSION", "1")
    assert "switched off by QSTORE_NO_EXTENSION=1" in run("env").out
    monkeypatch.delenv("QSTORE_NO_EXTENSION")
    monkeypatch.setitem(sys.modules, "qstore._native", None)
    assert "C compiler" in run("env").out


def test_env_says_that_python_is_free_threaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTORE_NO_EXTENSION", raising=False)
    monkeypatch.setattr(sys, "abiflags", "t")
    assert "this Python is free-threaded" in run("env").out
    assert "free-threaded" in json.loads(run("env", "--json").out)["extension_problem"]


def test_headline() -> None:
    assert qstore.engine_name() in environment.headline()
    assert h5py.version.hdf5_version in environment.headline()
