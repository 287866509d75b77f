"""Keys on the command line: build, get, info, verify and export."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import Run

import qstore


@pytest.fixture
def keyed(npy: Path, tmp_path: Path) -> Path:
    """A store of 200 rows with the keys w0 to w199, or, beside it, with 0, 3, 6 …"""
    (tmp_path / "keys.txt").write_text("".join(f"w{row}\n" for row in range(200)))
    qstore.build(npy, tmp_path / "keyed.h5", keys=tmp_path / "keys.txt")
    qstore.build(npy, tmp_path / "numbers.h5", keys=np.arange(200) * 3)
    return tmp_path / "keyed.h5"


def test_build_with_keys(run: Run, npy: Path, tmp_path: Path, keyed: Path) -> None:
    result = run("build", npy, "--keys", tmp_path / "keys.txt", "-o", tmp_path / "made.h5")
    assert (result.status, result.err) == (0, "")
    assert re.search(r"^keys +200, texts$", result.out, re.MULTILINE)
    assert (tmp_path / "made.h5").read_bytes() == keyed.read_bytes()
    plan = run("build", npy, "--keys", tmp_path / "keys.txt", "-o", tmp_path / "plan.h5", "--dry-run")
    assert (plan.status, "unknown" in plan.out) == (0, True)
    (tmp_path / "short.txt").write_text("a\nb\n")
    for more in ((), ("--dry-run",)):
        result = run("build", npy, "--keys", tmp_path / "short.txt", "-o", tmp_path / "no.h5", *more)
        assert (result.status, result.out) == (2, "")
        assert "there are 2 keys, expected one for each of the source's 200 rows" in result.err
    assert run("build", npy, "--keys", "nowhere.txt", "-o", tmp_path / "no.h5").status == 2
    assert run("build", npy, "--keys", "a", "--no-keys", "-o", tmp_path / "no.h5").status == 2
    assert not (tmp_path / "no.h5").exists()


def test_build_with_duplicates(run: Run, tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("a 1 2\nb 3 4\na 5 6\n")
    words = ("build", tmp_path / "vectors.txt", "-o", tmp_path / "store.h5")
    result = run(*words)
    assert result.status == 2
    assert "rows 0 and 2 have the same key, 'a'" in result.err
    assert run(*words, "--duplicates", "first", "-q").status == 0
    assert run("get", tmp_path / "store.h5", "--key", "a").out == "1.007874 2.0\n"
    assert run(*words, "--no-keys", "--force", "-q").status == 0
    assert run("get", tmp_path / "store.h5", "--key", "a").status == 2


def test_get_by_key(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    assert run("get", keyed, "--key", "w17") == run("get", store, 17)
    assert run("get", keyed, "--key", "w17", "--format", "json") == run("get", store, 17, "--format", "json")
    several = run("get", keyed, 3, "--key", "w5", "--key", "w1", "--columns", ":2")
    assert several == run("get", store, 3, 5, 1, "--columns", ":2")
    assert run("get", tmp_path / "numbers.h5", "--key", 30) == run("get", store, 10)


def test_get_of_keys_that_are_not_there(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    result = run("get", keyed, 0, "--key", "w1", "--key", "pawn", "--key", "rook")
    assert (result.status, result.out) == (2, "")
    assert "2 of 3 keys are not in the store: 'pawn', 'rook'" in result.err
    assert run("get", tmp_path / "numbers.h5", "--key", 31).status == 2
    assert run("get", tmp_path / "numbers.h5", "--key", "w1").status == 2
    assert run("get", tmp_path / "numbers.h5", "--key", 1 << 64).status == 2
    assert run("get", keyed).status == 2
    result = run("get", store, "--key", "w1")
    assert (result.status, "have no keys" in result.err) == (2, True)


def test_info_tells_of_keys(run: Run, keyed: Path, store: Path, tmp_path: Path) -> None:
    for path, kind, text in (
        (keyed, "text", "200, texts"),
        (tmp_path / "numbers.h5", "integer", "200, whole numbers"),
        (store, None, "(none)"),
    ):
        assert json.loads(run("info", path, "--json").out)["key_kind"] == kind
        assert re.search(rf"^keys +{re.escape(text)}$", run("info", path).out, re.MULTILINE)


def test_verify_compares_keys(run: Run, keyed: Path, npy: Path, tmp_path: Path) -> None:
    result = run("verify", keyed, "--against", npy, "--keys", tmp_path / "keys.txt")
    assert (result.status, "each row is found by its key" in result.out) == (0, True)
    (tmp_path / "other.txt").write_text("".join(f"w{row}\n" for row in (1, 0, *range(2, 200))))
    result = run("verify", keyed, "--against", npy, "--keys", tmp_path / "other.txt")
    assert (result.status, "2 rows differ, the first ones: 0, 1" in result.out) == (1, True)
    assert run("verify", keyed, "--against", npy).status == 0
    assert run("verify", keyed, "--keys", tmp_path / "keys.txt").status == 2


def test_export_with_and_without_keys(run: Run, keyed: Path, tmp_path: Path) -> None:
    assert run("export", keyed, "-o", tmp_path / "a.vec", "--rows", "5:7", "-q").status == 0
    assert run("export", keyed, "-o", tmp_path / "b.vec", "--rows", "5:7", "--no-keys", "-q").status == 0
    lines = [(tmp_path / name).read_text().splitlines()[1:] for name in ("a.vec", "b.vec")]
    assert [[line.split()[0] for line in some] for some in lines] == [["w5", "w6"], ["5", "6"]]
