"""What the library says by `logging`, under the name "qstore"."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qstore

VALUES = np.ones((1000, 64), np.float32)


def test_what_was_done_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "qstore")
    qstore.build(VALUES, tmp_path / "x.h5")
    qstore.build_shards(VALUES, tmp_path / "y", 400)
    qstore.concat([tmp_path / "x.h5", tmp_path / "y"], tmp_path / "z.h5")
    with qstore.open(tmp_path / "z.h5") as store:
        qstore.export(store, tmp_path / "z.npy")
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == f"{tmp_path / 'x.h5'}: made of 1,000 rows, 0 of them done before"
    assert told[-3] == f"{tmp_path / 'y'}: made of 1,000 rows in 3 shards, 0 rows done before"
    assert told[-2] == f"{tmp_path / 'z.h5'}: made of 2,000 rows of 4 files"
    assert told[-1] == f"{tmp_path / 'z.npy'}: made of 2,000 rows"
    assert {(record.name, record.levelname) for record in caplog.records} == {("qstore", "INFO")}


def test_what_a_build_found_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the command prints below its summary."""
    caplog.set_level(logging.INFO, "qstore")
    values = np.random.default_rng(1).standard_normal((1000, 64)).astype(np.float32)
    values[7, 3], values[:, 9] = np.nan, 1e4
    report = qstore.build(values, tmp_path / "x.h5", nonfinite="zero")
    assert "columns 9 set the scale" in report.warnings[0]
    found = [f"0 is stored for NaN and infinities: {report.nonfinite.in_words()}", *report.warnings]
    assert caplog.messages[1:] == [f"{tmp_path / 'x.h5'}: {text}" for text in found]


SCRIPT = """\
import numpy as np, qstore, sys
for values in ([[1.0, float("nan")]], [[1.0, 2.0, 3.0]]):
    try:
        qstore.build(np.concatenate([np.zeros((600_000, len(values[0]))), values]), sys.argv[1])
    except qstore.SourceError:
        pass
"""


def test_nobody_needs_to_set_up_logging(tmp_path: Path) -> None:
    """Nothing is said where all goes as expected, and what does not is on stderr."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "x.h5"], capture_output=True, text=True, check=True
    )
    assert run.stdout == ""
    assert run.stderr.startswith(f"{tmp_path / 'x.h5'}: begins again: the build that failed had other")
    assert run.stderr.count("\n") == 1
