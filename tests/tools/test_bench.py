"""The benchmark's own tests: it runs at tiny sizes, and times no wrong answer. Nothing here is about time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.engine import kernels

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.append(str(TOOLS))

from bench import __main__ as command  # noqa: E402
from bench import bars, engines, pagecache, peers, report, rounds, scene  # noqa: E402
from bench.options import Options  # noqa: E402

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(qstore.__file__).parents[1])}


@pytest.fixture(autouse=True)
def same_engine_afterwards() -> Iterator[None]:
    """The benchmark switches engines for the whole process."""
    native, engine, name = kernels._native, kernels._engine, kernels.engine_name()
    yield
    kernels._native, kernels._engine = native, engine
    if native:
        native.set_level(name.removeprefix("C (").removesuffix(")"))


@pytest.fixture
def tiny(tmp_path: Path) -> Options:
    """Sizes that take milliseconds; no peers but NumPy."""
    options = command.quick(Options(tmp_path, peers=()))
    return replace(options, rows=300, asked=50, levels=tuple(engines.available_levels()))


def test_every_case_runs_from_the_command_line(tmp_path: Path) -> None:
    found, table = tmp_path / "found.json", tmp_path / "found.md"
    words = ["--bars", "--quick", "--rows", "300", "--peers", "--folder", str(tmp_path), "--json", str(found)]
    cases = ["--case", *command.MAIN, *command.CURVES]
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench"), *words, *cases, "--markdown", str(table)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    if "NotCold" in done.stderr:
        pytest.skip("this file system keeps files in memory")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    outcomes = report.load(found)
    assert len({outcome.case for outcome in outcomes}) == len(command.MAIN) + len(command.CURVES) + 2
    assert all(outcome.seconds > 0 and outcome.samples >= 2 for outcome in outcomes)
    assert {outcome.kind for outcome in outcomes} == {"ours", "peer", "limit"}
    facts = json.loads(found.read_text())["facts"]
    assert facts["engine"] == kernels.engine_name()
    assert table.read_text().strip() == done.stdout.strip()
    assert "## Promises" in table.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def off_by_one_bit(right: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(*given: Any, **named: Any) -> Any:
        result = right(*given, **named)
        array = result[0] if isinstance(result, tuple) else result
        array.reshape(-1).view(np.uint8)[-1] ^= 1
        return result

    return wrong


def measure_all(case: str, options: Options) -> list[rounds.Outcome]:
    contests = {**command.MAIN, **command.CURVES}[case](options)
    return [found for contest in contests for found in rounds.measure(contest, options.budget)]


@pytest.mark.parametrize(
    ("case", "owner", "name"),
    [
        ("rows", qstore.Store, "__getitem__"),
        ("few", qstore.Store, "take"),
        ("first-touch", qstore.Store, "__getitem__"),
        ("outputs", qstore.Store, "__getitem__"),
        ("dims", qstore.Store, "__getitem__"),
        ("huge", qstore.Store, "__getitem__"),
        ("cold", qstore.Store, "__getitem__"),
        ("pool", qstore.Store, "pool"),
        ("quantize", qstore, "quantize"),
        ("search", qstore.Store, "search"),
    ],
)
def test_no_wrong_answer_is_timed(
    tiny: Options, monkeypatch: pytest.MonkeyPatch, case: str, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, off_by_one_bit(getattr(owner, name)))
    try:
        with pytest.raises(rounds.WrongResult, match=r"qstore.*differs"):
            measure_all(case, tiny)
    except pagecache.NotCold as problem:
        pytest.skip(str(problem))


def test_a_wrong_peer_is_not_timed_either(tiny: Options) -> None:
    contests = command.MAIN["rows"](tiny)
    contest = next(contests)
    wrong = replace(contest.entrants[-2], run=lambda first, count: np.zeros((50, 32), np.float32))
    with pytest.raises(rounds.WrongResult, match="off by"):
        rounds.measure(replace(contest, entrants=[*contest.entrants, wrong]), tiny.budget)


def test_values_that_are_not_numbers_are_not_close() -> None:
    with pytest.raises(rounds.WrongResult):
        scene.check_close(np.array([np.nan]), np.zeros(1), 1.0)
    with pytest.raises(rounds.WrongResult):
        scene.check_close(np.zeros(2), np.zeros(1), 1.0)
    with pytest.raises(rounds.WrongResult):
        scene.check_same(np.zeros(1, np.float64), np.zeros(1, np.float32))


def test_missing_peers_are_named(tiny: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"pip install {peers.DISTRIBUTIONS[name.partition('.')[0]]}")

    monkeypatch.setattr(peers, "library", missing)
    contests = command.MAIN["rows"](replace(tiny, peers=None))
    contest = next(contests)
    assert contest.skipped == {
        "torch": "pip install torch",
        "faiss": "pip install faiss-cpu",
        "usearch": "pip install usearch",
        "h5py": "pip install h5py",
        "zarr": "pip install zarr",
        "lance": "pip install pylance",
        "safetensors": "pip install safetensors",
    }
    table = report.contest_table(contest, rounds.measure(contest, tiny.budget))
    assert "Skipped: torch: pip install torch; faiss: " in table


def test_rounds_are_interleaved_and_bounded() -> None:
    calls: list[str] = []

    def entrant(name: str) -> rounds.Entrant:
        return rounds.Entrant(name, lambda first, count: calls.append(name), single=True)

    contest = rounds.Contest("order", {}, [entrant("a"), entrant("b"), entrant("c")])
    outcomes = rounds.measure(contest, rounds.Budget(60.0, 2, 4))
    assert [outcome.samples for outcome in outcomes] == [4, 4, 4]
    # Once each for the check, then every round has all three.
    assert calls[:3] == ["a", "b", "c"]
    assert all(sorted(calls[start : start + 3]) == ["a", "b", "c"] for start in range(3, 15, 3))


def outcome(name: str, seconds: float) -> rounds.Outcome:
    setting = {"rows": 200_000, "threads": 1}
    return rounds.Outcome("pool", setting, name, "peer", seconds, seconds, seconds, 5, 0, {})


def test_promises_are_judged_by_the_first_engine() -> None:
    found = [
        outcome("qstore (avx512)", 1.0),
        outcome("qstore (NumPy)", 8.0),
        outcome("torch embedding_bag_byte_rowwise_offsets, int64", 2.0),
    ]
    table = bars.bars_table(found, ("avx512", "numpy")).splitlines()
    assert table[0] == "| work | against | bar | qstore (avx512) | qstore (NumPy) | met |"
    assert "| pooled bags, 200,000 rows | FBGEMM rowwise_offsets | ≥ 1× | 2.00× | 0.25× | yes |" in table
    assert "| pooled bags, 2,000,000 rows | FBGEMM rowwise_offsets | ≥ 0.8× | — | — | — |" in table


def test_curves_become_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    names = ["qstore (avx512)", "numpy memmap float32"]
    outcomes = [
        replace(outcome(name, dim * 1e-6), case="dims", setting={"dim": dim})
        for name in names
        for dim in (16, 64, 300)
    ]
    report.save(tmp_path / "found.json", {}, outcomes, {})
    assert command.main(["plot", str(tmp_path / "found.json"), "-o", str(tmp_path)]) == 0
    assert (tmp_path / "bench-dims.png").read_bytes().startswith(b"\x89PNG")
