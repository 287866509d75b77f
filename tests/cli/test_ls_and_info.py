"""qstore ls and qstore info."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
from commands import Run

import qstore


def test_ls(run: Run, several: Path) -> None:
    result = run("ls", several)
    assert result.status == 0
    assert re.search(r"words.weight +200 × 16 +float32 +12.8 kB", result.out)
    found = {one["name"]: one for one in json.loads(run("ls", several, "--json").out)}
    assert found["bias"] == {
        "path": str(several),
        "name": "bias",
        "shape": [16],
        "dtype": "float32",
        "bytes": 64,
    }


def test_ls_of_a_store_is_its_matrix(run: Run, store: Path) -> None:
    assert json.loads(run("ls", store, "--json").out) == [
        {
            "path": str(store),
            "name": "",
            "shape": [200, 16],
            "dtype": "qstore",
            "bytes": store.stat().st_size,
        }
    ]
    assert "200 × 16" in run("ls", store).out


def test_ls_does_not_let_names_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "evil.h5", "w") as file:
        file["a\x1b[2J\nb"] = np.zeros((2, 2))
    out = run("ls", tmp_path / "evil.h5").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_ls_of_a_type_without_a_size(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file.create_dataset("words", data=["a", "b"], dtype=h5py.string_dtype())
    result = run("ls", tmp_path / "text.h5")
    assert result.status == 0
    assert "words" in result.out


def test_info(run: Run, store: Path) -> None:
    found = json.loads(run("info", store, "--json").out)
    assert (found["rows"], found["dim"], found["format_version"]) == (200, 16, "1.1")
    assert found["float32_bytes"] == 12800
    assert found["ratio"] == 12800 / store.stat().st_size
    assert found["datasets"]["codes"] == {"offset": 12288, "bytes": 3200}
    with qstore.open(store) as opened:
        assert found["content_id"] == opened.content_id
    out = run("info", store).out
    assert found["content_id"] in out
    assert "3,200 bytes at 12,288" in out
    assert found["fidelity"]["rows"] == 200
    assert "measured" in out
    assert "expected (scale / √12)" in out
