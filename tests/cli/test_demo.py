"""qstore demo: the same every time, and nothing left behind."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from commands import Run

SMALL = ("--rows", 3000, "--dim", 32)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made during the test."""
    path = tmp_path / "temporary"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_demo(run: Run, temporary: Path) -> None:
    result = run("demo", *SMALL)
    assert (result.status, result.err) == (0, "")
    shown = re.findall(r"^\$ qstore (\w+)", result.out, flags=re.MULTILINE)
    assert shown == ["build", "info", "get", "verify", "verify"]
    assert "of the theoretical s/√12" in result.out
    assert list(temporary.iterdir()) == []


def test_demo_json(run: Run, temporary: Path) -> None:
    found = json.loads(run("demo", *SMALL, "--json").out)
    assert (found["rows"], found["dim"]) == (3000, 32)
    assert 0.9 < found["rms_error_ratio"] < 1.1
    assert list(temporary.iterdir()) == []


def test_demo_is_the_same_every_time(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = run("demo", *SMALL, "--keep", tmp_path / name)
        assert result.status == 0
        assert f"The files are in {tmp_path / name}" in result.out
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"embeddings.npy", "embeddings.h5"}
    assert (tmp_path / "one" / "embeddings.h5").read_bytes() == (
        tmp_path / "two" / "embeddings.h5"
    ).read_bytes()
    again = run("demo", *SMALL, "--keep", tmp_path / "one")
    assert again.status == 2
    assert "not empty" in again.err


def test_demo_leaves_nothing_when_interrupted(
    run: Run, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str]) -> int:
        assert Path(words[1]).is_file()
        raise KeyboardInterrupt

    monkeypatch.setattr("qstore.cli.parser.run_command", interrupted)
    result = run("demo", *SMALL)
    assert result.status == 130
    assert result.err == "qstore: interrupted: nothing is left behind\n"
    assert list(temporary.iterdir()) == []


def test_demo_stops_at_the_first_failure(run: Run, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.cli.parser.run_command", lambda words: 1)
    result = run("demo", *SMALL)
    assert result.status == 1
    assert result.out.count("$ qstore") == 1
    assert list(temporary.iterdir()) == []
