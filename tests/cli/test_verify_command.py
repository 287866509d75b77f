"""qstore verify: the store alone, against its source, and what is broken."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from numpy.typing import NDArray

import qstore


@pytest.fixture
def broken(eight_blocks: Path, tmp_path: Path) -> Path:
    """A store with one wrong code, in the third block."""
    path = tmp_path / "broken.h5"
    qstore.build(eight_blocks, path)
    with path.open("r+b") as file:
        file.seek(12288 + 2500 * 1024)
        code = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([code ^ 1]))
    return path


def test_verify(run: Run, store: Path, npy: Path) -> None:
    assert "200 rows in 1 blocks agree" in run("verify", store).out
    result = run("verify", store, "--against", npy)
    assert result.status == 0
    assert "every code and scale of 200 rows" in result.out
    assert run("verify", store, "--against", npy, "-q") == (0, "", "")


def test_verify_measures_errors(run: Run, store: Path, npy: Path) -> None:
    shown = run("verify", store, "--against", npy).out
    assert "expected (scale / √12)" in shown
    assert re.search(r"signal to noise +4\d\.\d dB", shown)
    found = json.loads(run("verify", store, "--against", npy, "--json").out)["against"]["fidelity"]
    assert found["rows"] == 200
    assert 0.999 < found["cosine_min"] < 1


def test_verify_shows_one_bar_and_says_what_it_does(
    run: Run, store: Path, npy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    alone = run("verify", store).err
    assert "checking: 100%" in alone
    assert "comparing" not in alone
    shown = run("verify", store, "--against", npy).err
    assert shown.count("\n") == 1  # tqdm ends each bar with a new line
    assert shown.index("checking:   0%") < shown.index("comparing: 100%")
    assert "200/200" in shown.rsplit("\r", 1)[1]
    assert run("verify", store, "--against", npy, "-q").err == ""


def test_verify_threads(run: Run, broken: Path, eight_blocks: Path) -> None:
    words = ("verify", broken, "--against", eight_blocks, "--json")
    alone = run(*words, "--threads", "1")
    assert alone.status == 1
    assert run(*words, "--threads", "5") == alone
    assert run(*words, "--threads", "0").status == 2


def test_verify_json(run: Run, store: Path, npy: Path) -> None:
    alone = json.loads(run("verify", store, "--json").out)
    assert set(alone) == {"path", "ok", "store", "against"}
    assert alone["ok"] is True
    assert alone["against"] is None
    assert set(alone["store"]) == set(qstore.VerifyReport.__dataclass_fields__)
    both = json.loads(run("verify", store, "--against", npy, "--json").out)
    assert set(both["against"]) == set(qstore.AgainstReport.__dataclass_fields__)


def test_verify_names_the_broken_block(run: Run, broken: Path, eight_blocks: Path) -> None:
    result = run("verify", broken, "-q")
    assert result.status == 1
    assert "block 2 (rows 2048 to 3071): codes" in result.out
    found = json.loads(run("verify", broken, "--against", eight_blocks, "--json").out)
    assert found["ok"] is False
    assert found["store"]["broken_blocks"] == [2]
    assert found["against"]["first_differing_row"] == 2500


def test_verify_against_another_matrix(
    run: Run, store: Path, small: NDArray[np.float32], tmp_path: Path
) -> None:
    changed = small.copy()
    changed[40] *= 2
    np.save(tmp_path / "changed.npy", changed)
    result = run("verify", store, "--against", tmp_path / "changed.npy")
    assert result.status == 1
    assert re.search("differs.*1 rows? .*40", result.out)
    assert run("verify", store, "--against", tmp_path / "changed.npy", "--rows", ":40").status == 1


def test_verify_against_rows_of_one_tensor(run: Run, several: Path, tmp_path: Path) -> None:
    qstore.build(several, tmp_path / "part.h5", tensor="words.weight", rows=(20, 60))
    words = ("verify", tmp_path / "part.h5", "--against", several)
    assert run(*words, "--tensor", "words.weight", "--rows", "20:60").status == 0
    assert run(*words, "--tensor", "words.weight", "--rows", "21:61").status == 1
    assert run(*words, "--rows", "20:60").status == 0  # the store names its tensor
    assert "the source has 200 rows, the store 40" in run(*words).out


def test_verify_needs_a_source_for_its_tensor(run: Run, store: Path) -> None:
    assert run("verify", store, "--rows", "0:5").status == 2
    assert "--against" in run("verify", store, "--tensor", "x").err
