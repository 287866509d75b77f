"""What `qstore build` says of builds that were interrupted or failed, and what it would do with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import Run, start
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray

import qstore
from qstore.format import layout

INTERRUPTED_IN_THE_MIDDLE = """
import os, signal, sys
from qstore.engine import kernels
from qstore.cli import main
from qstore.format import layout
from qstore.sources.words import text

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
layout._BLOCK_CODES, text._BLOCK_BYTES = 20 * 16, 4000
done, quantize = 0, kernels.quantize_into

def interrupted(values, *rest):
    global done
    done += len(values)
    if done > 110:
        os.kill(os.getpid(), signal.SIGINT)
    quantize(values, *rest)

kernels.quantize_into = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 20 rows."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 20 * 16)


@pytest.fixture
def narrow() -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((200, 16)).astype(np.float32)


@pytest.fixture
def glove(tmp_path: Path, narrow: NDArray[np.float32]) -> Path:
    path = tmp_path / "glove.txt"
    path.write_text(
        "".join(f"w{row} {' '.join(map(repr, values.tolist()))}\n" for row, values in enumerate(narrow))
    )
    return path


@pytest.fixture
def with_nan(tmp_path: Path, narrow: NDArray[np.float32]) -> Path:
    values = narrow.copy()
    values[150, 3] = np.nan
    np.save(tmp_path / "nan.npy", values)
    return tmp_path / "nan.npy"


def test_ctrl_c_in_a_text_file(run: Run, glove: Path, tmp_path: Path, small_blocks: None) -> None:
    words = ("build", glove, "-o", tmp_path / "out.h5", "--threads", 1, "--json")
    process = start(*words, code=INTERRUPTED_IN_THE_MIDDLE)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, b"")
    assert err == b"qstore: interrupted: run the same command again to go on\n"
    planned = run(*words, "--dry-run")
    assert json.loads(planned.out)["rows_resumed"] == 100
    assert "goes on" in run(*words[:-1], "--dry-run").out
    assert "100 rows have been done before" in run(*words[:-1], "--dry-run").out
    assert json.loads(run(*words).out)["rows_resumed"] == 100
    assert run("verify", tmp_path / "out.h5", "--against", glove).status == 0


def test_a_finished_resume_tells_no_speed(
    run: Run, npy: Path, tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(partial: Path, final: Path) -> None:
        raise OSError(5, "no luck")

    words = ("build", npy, "-o", tmp_path / "out.h5")
    with monkeypatch.context() as patch:
        patch.setattr("qstore.system.durable_files.publish", fail)
        assert "no luck" in run(*words).err
    out = run(*words).out
    assert "200 rows had been done before" in out
    assert "rows/s" not in out


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_what_is_dropped_is_said(
    run: Run, with_nan: Path, tmp_path: Path, small_blocks: None, quiet: list[str]
) -> None:
    words = ("build", with_nan, "-o", tmp_path / "out.h5", *quiet)
    assert run(*words).status == 2
    np.save(with_nan, np.load(with_nan)[:150])
    planned = run(*words[:4], "--dry-run").out
    assert "the end of the rows" not in planned
    assert "begins again  the build that failed had other parameters: the shape of the source was" in planned
    result = run(*words)
    assert result.status == 0
    assert result.err.startswith(f"qstore: {tmp_path / 'out.h5'}: begins again: the build that failed had")
    assert result.err.count("\n") == 1


def test_remedies_of_nan(run: Run, with_nan: Path, tmp_path: Path, small_blocks: None) -> None:
    words = ("build", with_nan, "-o", tmp_path / "out.h5", "--json")
    failed = run(*words)
    assert (failed.status, failed.out) == (2, "")
    assert "--nonfinite zero" in failed.err
    result = run(*words, "--nonfinite", "zero")
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out)["rows_resumed"] == 140


@pytest.mark.parametrize("remedy", [["--duplicates", "first"], ["--no-keys"]])
def test_remedies_of_words_that_come_twice(
    run: Run, glove: Path, tmp_path: Path, small_blocks: None, remedy: list[str]
) -> None:
    glove.write_text(glove.read_text().replace("w190 ", "w3 "))
    words = ("build", glove, "-o", tmp_path / "out.h5", "--json")
    failed = run(*words)
    assert failed.status == 2
    assert "--duplicates first" in failed.err
    result = run(*words, *remedy)
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out)["rows_resumed"] == 200


def test_remedies_of_another_source(run: Run, npy: Path, tmp_path: Path, small_blocks: None) -> None:
    with pytest.raises(Interrupt):
        qstore.build(npy, tmp_path / "out.h5", progress=stop_at(100))
    words = ("build", npy, "-o", tmp_path / "out.h5", "--rows", ":150")
    for more in ([], ["--dry-run"], ["--force"]):
        refused = run(*words, *more)
        assert refused.status == 2
        assert "the end of the rows (rows=, --rows) was row 200, is row 150" in refused.err
        assert "--restart" in refused.err
    assert run(*words, "--restart").status == 0


def test_a_dry_run_of_shards(run: Run, npy: Path, tmp_path: Path, small_blocks: None) -> None:
    words = ("build", npy, "-o", tmp_path / "out", "--shard-rows", 60)
    planned = json.loads(run(*words, "--dry-run", "--json").out)
    assert set(planned) == set(qstore.BuildPlan.__dataclass_fields__)
    assert (planned["rows"], planned["shards"], planned["rows_resumed"]) == (200, 4, 0)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Interrupt):
        qstore.build_shards(npy, tmp_path / "out", 60, progress=stop_at(150), threads=1)
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    shown = run(*words, "--dry-run")
    assert "160 rows have been done before" in shown.out
    assert "shards      4" in shown.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert run(*words[:-1], 50, "--dry-run").status == 2
    done = json.loads(run(*words, "--json").out)
    assert (done["rows_resumed"], done["file_bytes"]) == (160, planned["file_bytes"])
    exists = run(*words, "--dry-run")
    assert exists.status == 2
    assert "--force" in exists.err
    assert run(*words, "--dry-run", "--force").status == 0


def test_a_dry_run_of_shards_of_unknown_number(run: Run, glove: Path, tmp_path: Path) -> None:
    words = ("build", glove, "-o", tmp_path / "out", "--shard-rows", 60, "--dry-run", "--json")
    found = json.loads(run(*words).out)
    assert (found["rows"], found["shards"], found["file_bytes"]) == (None, None, None)


def test_a_disk_that_is_too_small(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstore.system.durable_files.free_bytes", lambda directory: 1000)
    for more in ([], ["--shard-rows", 60]):
        result = run("build", npy, "-o", tmp_path / "out.h5", "--dry-run", *more)
        assert (result.status, result.out) == (2, "")
        assert "bytes are needed, 1,000 are free" in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_bar_of_bytes(run: Run, glove: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    err = run("build", glove, "-o", tmp_path / "out.h5").err
    assert "100%" in err
    assert "200 rows" in err
