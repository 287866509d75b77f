"""qstore build: what it says, several inputs and tensors, interruptions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import Run, start
from numpy.typing import NDArray

import qstore


def test_build_says_what_it_did(run: Run, npy: Path, tmp_path: Path, store: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "out.h5")
    assert result.status == 0
    assert result.err == ""  # no progress bar: stderr is no terminal
    assert "200 × 16 float32" in result.out
    assert "rows/s" in result.out
    assert "resumed" not in result.out
    assert (tmp_path / "out.h5").read_bytes() == store.read_bytes()


def test_build_json_is_the_report(run: Run, npy: Path, tmp_path: Path) -> None:
    found = json.loads(run("build", npy, "-o", tmp_path / "out.h5", "--rows", "-50:", "--json", "-q").out)
    assert set(found) == set(qstore.BuildReport.__dataclass_fields__)
    assert (found["rows"], found["dim"], found["source_dtype"]) == (50, 16, "float32")
    assert found["file_bytes"] == (tmp_path / "out.h5").stat().st_size


def test_build_quiet_prints_nothing(run: Run, npy: Path, tmp_path: Path) -> None:
    assert run("build", npy, "-o", tmp_path / "out.h5", "-q") == (0, "", "")


@pytest.mark.parametrize(("quiet", "shown"), [([], True), (["-q"], False)])
def test_progress_on_a_terminal(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: list[str], shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert ("200/200" in run("build", npy, "-o", tmp_path / "out.h5", *quiet).err) is shown


def test_build_dry_run_writes_nothing(run: Run, npy: Path, tmp_path: Path) -> None:
    result = run("build", npy, "-o", tmp_path / "out.h5", "--dry-run")
    assert result.status == 0
    assert "would make" in result.out
    found = json.loads(run("build", npy, "-o", tmp_path / "out.h5", "--dry-run", "--json").out)
    assert set(found) == set(qstore.BuildPlan.__dataclass_fields__)
    assert list(tmp_path.iterdir()) == []
    qstore.build(npy, tmp_path / "out.h5")
    assert found["file_bytes"] == (tmp_path / "out.h5").stat().st_size
    assert run("build", npy, "-o", tmp_path / "out.h5", "--dry-run").status == 2


def test_build_replaces_only_when_forced(run: Run, npy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    output.write_text("precious")
    result = run("build", npy, "-o", output)
    assert result.status == 2
    assert "--force" in result.err
    assert output.read_text() == "precious"
    assert run("build", npy, "-o", output, "--force").status == 0
    assert len(qstore.open(output)) == 200


def test_build_nonfinite(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.array([[1.0, 2.0], [3.0, np.nan]]))
    result = run("build", tmp_path / "nan.npy", "-o", tmp_path / "out.h5")
    assert result.status == 2
    assert "row 1, column 1 is nan" in result.err
    assert not (tmp_path / "out.h5").exists()
    assert run("build", tmp_path / "nan.npy", "-o", tmp_path / "out.h5", "--nonfinite", "zero").status == 0


def test_build_needs_a_name_among_several_tensors(run: Run, several: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    ambiguous = run("build", several, "-o", output)
    assert ambiguous.status == 2
    assert "words.weight" in ambiguous.err
    assert "(200, 16)" in ambiguous.err
    unknown = run("build", several, "-o", output, "--tensor", "words.weigth")
    assert unknown.status == 2
    assert "words.weight" in unknown.err
    assert run("build", several, "-o", output, "--tensor", "words.weight").status == 0


INTERRUPT_AT_CALL_18 = """
import itertools, os, signal, sys
from qstore.engine import kernels
from qstore.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
calls, quantize = itertools.count(1), kernels.quantize_into

def interrupted(*arguments):
    if next(calls) == 18:
        os.kill(os.getpid(), signal.SIGINT)
    quantize(*arguments)

kernels.quantize_into = interrupted
sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupted_build_goes_on(run: Run, eight_blocks: Path, tmp_path: Path) -> None:
    words = ("build", eight_blocks, "-o", tmp_path / "out.h5", "--threads", 1, "--json")
    process = start(*words, code=INTERRUPT_AT_CALL_18)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert out == b""
    assert err == b"qstore: interrupted: run the same command again to go on\n"
    assert not (tmp_path / "out.h5").exists()
    assert json.loads(run(*words).out)["rows_resumed"] == 4096
    assert run("verify", tmp_path / "out.h5", "--against", eight_blocks).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_an_interrupted_restart_can_be_resumed(eight_blocks: Path, tmp_path: Path) -> None:
    words = ("build", eight_blocks, "-o", tmp_path / "out.h5", "--threads", 1, "--restart")
    process = start(*words, code=INTERRUPT_AT_CALL_18)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"run the same command without --restart to go on" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5.journal", "out.h5.partial"]


def test_build_says_what_was_resumed(
    run: Run, npy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = qstore.BuildReport("x.h5", "", "float32", 200, 16, 150, 12800, 20000, 1.0, "NumPy")
    monkeypatch.setattr("qstore.build", lambda *_, **__: report)
    out = run("build", npy, "-o", tmp_path / "x.h5").out
    assert "150 rows had been done before" in out
    assert "50 rows/s" in out
    assert "12.8 kB → 20.0 kB\n" in out


def test_build_from_several_inputs(run: Run, small: NDArray[np.float32], tmp_path: Path, store: Path) -> None:
    for number, rows in enumerate((small[:50], small[50:150], small[150:])):
        np.save(tmp_path / f"part-{number}.npy", rows)
    parts = [tmp_path / f"part-{number}.npy" for number in range(3)]
    for words in (parts, [tmp_path / "part-*.npy"], [parts[0], tmp_path / "part-[12].npy"]):
        result = run("build", *words, "-o", tmp_path / "out.h5", "--force")
        assert result.status == 0
        assert "200 × 16 float32" in result.out
        assert (tmp_path / "out.h5").read_bytes() == store.read_bytes()
    missing = run("build", tmp_path / "nothing-*.npy", "-o", tmp_path / "other.h5")
    assert (missing.status, missing.out) == (2, "")
    assert "no file matches" in missing.err
    parts[0].rename(tmp_path / "odd[0].npy")  # a name that is there is no pattern
    assert run("build", tmp_path / "odd[0].npy", "-o", tmp_path / "other.h5").status == 0


def test_build_several_tensors(run: Run, several: Path, tmp_path: Path) -> None:
    words = ("build", several, "--tensor", "*.weight", "-o", f"{tmp_path / 'out'}/")
    planned = json.loads(run(*words, "--dry-run", "--json").out)
    assert [one["tensor"] for one in planned] == ["positions.weight", "words.weight"]
    assert "2 in all" in run(*words, "--dry-run").out
    result = run(*words)
    assert result.status == 0
    assert re.search(r"words.weight +200 × 16 float32 +12.8 kB → .*words.weight.h5\n", result.out)
    assert re.search(r"2 in all +207 rows +13.2 kB → ", result.out)
    again = run(*words)  # the directory is there now: the same stores are kept
    assert again.status == 0
    assert again.out.count("(done before)") == 2
    found = json.loads(run(*words, "--force", "--json").out)
    assert [one["rows_resumed"] for one in found] == [0, 0]
    assert set(found[0]) == set(qstore.BuildReport.__dataclass_fields__)
    assert run(*words, "-q") == (0, "", "")
    (tmp_path / "out" / "words.weight.h5").write_text("precious")
    assert run(*words).status == 2


def test_build_of_all_tensors_into_a_directory(run: Run, several: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert run("build", several, "-o", tmp_path / "out").status == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["positions.weight.h5", "words.weight.h5"]


def test_build_with_a_pattern_needs_a_directory(run: Run, several: Path, tmp_path: Path) -> None:
    result = run("build", several, "--tensor", "*.weight", "-o", tmp_path / "out.h5")
    assert result.status == 2
    assert result.err.endswith(
        '; a pattern needs --join (one store of all), or a directory: end OUT with "/"\n'
    )


def test_build_errors_name_the_tensor(run: Run, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "nan.hdf5", "w") as file:
        file["good"], file["spoiled"] = np.ones((2, 2)), np.full((2, 2), np.nan)
    result = run("build", tmp_path / "nan.hdf5", "-o", f"{tmp_path}/")
    assert result.status == 2
    assert result.err.endswith("; this was tensor 'spoiled'\n")
    assert (tmp_path / "good.h5").exists()
