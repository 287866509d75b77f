"""Commands on directories that torch's distributed trainers leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from distributed_files import GRID, save, shards
from source_contract import matrix_of

import qstore


@pytest.mark.parametrize("make", [save, shards])
def test_listed_built_and_compared(tmp_path: Path, run: Run, make: Callable[..., Any]) -> None:
    folder, values, store = tmp_path / "step-500", matrix_of("float32"), tmp_path / "s.h5"
    folder.mkdir()
    make(folder, values, GRID)
    listed = run("ls", folder)
    assert listed.status == 0
    assert [line.split()[0] for line in listed.out.splitlines() if "float32" in line] == [
        "a.bias",
        "z.weight",
    ]
    assert run("build", folder, "--dry-run", "-o", store).status == 0
    assert run("build", folder, "--tensor", "z.weight", "-o", store).status == 0
    qstore.build(values, tmp_path / "array.h5")
    with qstore.open(store) as found, qstore.open(tmp_path / "array.h5") as expected:
        assert np.array_equal(found.codes, expected.codes)
        assert np.array_equal(found.scales, expected.scales)
    assert run("verify", store, "--against", folder).status == 0
    shutil.rmtree(folder)
    folder.mkdir()
    make(folder, -values, GRID)
    assert run("verify", store, "--against", folder).status == 1


@pytest.mark.parametrize("make", [save, shards])
def test_a_missing_file_is_named(tmp_path: Path, run: Run, make: Callable[..., Any]) -> None:
    make(tmp_path, matrix_of("float32"), GRID)
    lost = sorted(path for path in tmp_path.iterdir() if not path.name.startswith("."))[1]
    lost.unlink()
    result = run("build", tmp_path, "-o", tmp_path / "s.h5")
    assert result.status != 0
    assert lost.name in result.err or "found only 1, 3, 4" in result.err
    assert not (tmp_path / "s.h5").exists()
