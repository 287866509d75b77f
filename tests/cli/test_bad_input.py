"""Commands on files that are no stores and no sources: one line, and no waiting for what a pipe may bring."""

from __future__ import annotations

import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import Run


@pytest.fixture(params=["missing", "text", "empty", "directory", "pipe", "other HDF5", "truncated"])
def bad_file(request: pytest.FixtureRequest, tmp_path: Path, store: Path) -> Path:
    path = tmp_path / "bad"
    if request.param == "text":
        path.write_text("hello\n" * 100)
    elif request.param == "empty":
        path.touch()
    elif request.param == "directory":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "other HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = np.zeros(3)
    elif request.param == "truncated":
        path.write_bytes(store.read_bytes()[:15000])
    return path


@pytest.mark.parametrize("words", [["info"], ["get", "0"], ["verify"]], ids=lambda words: words[0])
def test_files_that_are_no_stores(run: Run, bad_file: Path, words: list[str]) -> None:
    result = run(words[0], bad_file, *words[1:])
    assert result.status == 2
    assert result.out == ""
    assert re.fullmatch(rf"qstore: error: .*{re.escape(str(bad_file))}.*\n", result.err)


def test_sources_that_are_none(run: Run, bad_file: Path, tmp_path: Path) -> None:
    for words in (
        ["build", bad_file, "-o", tmp_path / "out.h5"],
        ["build", bad_file, "-o", "x", "--dry-run"],
    ):
        result = run(*words)
        assert result.status == 2
        assert result.err.startswith("qstore: error: ")
        assert str(bad_file) in result.err
    assert not (tmp_path / "out.h5").exists()


def test_output_in_a_missing_directory(run: Run, npy: Path, tmp_path: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "no" / "out.h5")
    assert result.status == 2
    assert "no directory" in result.err
