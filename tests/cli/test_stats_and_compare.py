"""qstore stats and qstore compare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from commands import Run
from numpy.typing import NDArray

import qstore

# stats -----------------------------------------------------------------------------------------------


def test_stats(run: Run, store: Path, folder: Path) -> None:
    result = run("stats", store)
    assert result.status == 0
    assert "200 × 16" in result.out
    assert re.search(r"norm +\d", result.out)
    skewed = np.random.default_rng(1).standard_normal((300, 40))
    skewed[:, 4] = 50
    skewed[9] = skewed[2]
    qstore.build(skewed, folder / "skewed.h5")
    shown = run("stats", folder / "skewed.h5", "--threads", "1").out
    assert "1 (row 9 as 2)" in shown
    assert "warning: columns 4 set the scale" in shown
    qstore.build(np.zeros((0, 3)), folder / "empty.h5")
    assert run("stats", folder / "empty.h5").status == 0


def test_stats_json(run: Run, store: Path, folder: Path) -> None:
    found = json.loads(run("stats", store, "--json").out)
    assert found["path"] == str(store)
    assert (found["rows"], found["dim"], found["norms"]["count"]) == (200, 16, 200)
    assert len(found["column_means"]) == 16
    assert sum(found["code_counts"]) == 3200
    qstore.build(np.zeros((0, 3)), folder / "empty.h5", overwrite=True)
    assert json.loads(run("stats", folder / "empty.h5", "--json").out)["norms"]["mean"] is None


def test_quiet_leaves_what_is_found(run: Run, store: Path) -> None:
    for words in (("stats", store), ("search", store, "--row", "7")):
        assert run(*words, "-q") == run(*words)
        assert run(*words).out
        assert "is printed all the same" in run(words[0], "--help").out.replace("\n", " ")


# compare ---------------------------------------------------------------------------------------------


def test_compare(run: Run, store: Path, folder: Path, small: NDArray[np.float32]) -> None:
    result = run("compare", store, store)
    assert (result.status, result.out) == (0, "equal: 200 rows\n")
    changed = small.copy()
    changed[17] *= -1
    qstore.build(changed, folder / "changed.h5", overwrite=True)
    result = run("compare", store, folder / "changed.h5")
    assert result.status == 1
    assert "1 of 200 rows changed" in result.out
    assert re.search(r"^17 +17 +2 +-1\.000000", result.out, re.MULTILINE)
    assert run("compare", store, folder / "changed.h5", "-q") == (1, "", "")
    found = json.loads(run("compare", store, folder / "changed.h5", "--json", "-k", "1").out)
    assert (found["equal"], found["rows_changed"], len(found["most_drifted"])) == (False, 1, 1)


def test_compare_names_keys(run: Run, folder: Path, small: NDArray[np.float32]) -> None:
    keys = [f"w{row}" for row in range(200)]
    qstore.build(small, folder / "named.h5", keys=keys, overwrite=True)
    qstore.build(small * 2, folder / "renamed.h5", keys=["new", *keys[:0:-1]], overwrite=True)
    shown = run("compare", folder / "named.h5", folder / "renamed.h5", "-k", 200).out
    assert re.search(r"added +new$", shown, re.MULTILINE)
    assert re.search(r"removed +w0$", shown, re.MULTILINE)
    assert re.search(r"moved +w1, w2, .*…$", shown, re.MULTILINE)
    assert re.search(r"^1 +199 +2\.\d+ +.*w1$", shown, re.MULTILINE)
