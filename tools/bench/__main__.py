"""qstore beside other libraries at the same work.

One process, the same data, results checked before anything is timed, entrants in turn in every round;
the figures are medians, and only ratios within one contest mean much. Peers that are not installed are
skipped by name: ``pip install "qstore[bench]"`` brings them. Needs about 4 GB of memory and, with the
default sizes, 16 GB of disk.

    python tools/bench                       the main cases
    python tools/bench --bars                what qstore promises, and whether it holds here
    python tools/bench --case dims asked     named cases
    python tools/bench --quick               tiny sizes: only to see that it runs
    python tools/bench plot FILE.json… -o docs
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import bars, building, cold, engines, opening, plots, pooling, reading, report, searching, sources
from bench.options import Options
from bench.rounds import Budget, Contest, Outcome, measure

Case = Callable[[Options], Iterator[Contest]]

MAIN: dict[str, Case] = {
    "rows": reading.rows,
    "few": reading.few,
    "first-touch": reading.first_touch,
    "outputs": reading.outputs,
    "pool": pooling.pool,
    "quantize": pooling.quantize,
    "search": searching.search,
    "open": opening.open_store,
    "huge": opening.huge,
    "import": opening.imports,
    "cold": cold.cold,
    "cold-few": cold.cold_few,
    "cold-sequential": cold.cold_sequential,
    "build": building.build,
    "build-cold": building.build_cold,
    "parsed": sources.parsed,
}
CURVES: dict[str, Case] = {
    "dims": reading.dims,
    "matrix-rows": reading.matrix_rows,
    "asked": reading.asked,
    "threads": reading.threads,
}
SLOW = ("cold", "cold-few", "cold-sequential", "build", "build-cold", "parsed", "first-touch", "import")
# Building and waiting for the disk takes seconds: one engine is enough unless asked otherwise.
ONE_ENGINE = (
    "cold",
    "cold-few",
    "cold-sequential",
    "build",
    "build-cold",
    "parsed",
    "huge",
    "open",
    "import",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["plot"]:
        return plot(words[1:])
    given = parser().parse_args(words)
    options = make_options(given)
    cases = {**MAIN, **CURVES}
    names = given.case or (bars.CASES if given.bars else MAIN)
    if unknown := set(names) - set(cases):
        raise SystemExit(f"no case {', '.join(sorted(unknown))}: there are {', '.join(cases)}")
    about = report.facts()  # before the engines are switched
    text = [f"# Benchmark\n\n{report.heading()}\n"]
    print(text[0], flush=True)
    outcomes: list[Outcome] = []
    skipped: dict[str, str] = {}
    for name in names:
        for contest in cases[name](for_case(options, name, given)):
            found = measure(contest, options.slow_budget if name in SLOW else options.budget)
            outcomes += found
            skipped |= contest.skipped
            text.append(report.contest_table(contest, found))
            print(text[-1], flush=True)
            if given.json:
                report.save(given.json, about, outcomes, skipped)
    if given.bars:
        text.append("## Promises\n\n" + bars.bars_table(outcomes, options.levels) + "\n")
        print(text[-1])
    if given.markdown:
        given.markdown.write_text("\n".join(text))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="bench", description="qstore beside other libraries.")
    made.add_argument("--case", nargs="+", default=[], metavar="NAME", help=", ".join({**MAIN, **CURVES}))
    made.add_argument("--bars", action="store_true", help="print the table of promises")
    made.add_argument("--quick", action="store_true", help="tiny sizes")
    made.add_argument("--rows", type=int, help="rows of the matrix (200,000)")
    made.add_argument("--dim", type=int, help="its columns (768)")
    made.add_argument("--seconds", type=float, help="for each contest (6; slow cases five times that)")
    made.add_argument("--rounds", type=int, help="at most")
    made.add_argument(
        "--level", nargs="+", choices=engines.LEVELS, help="engines (the best; with --bars all but baseline)"
    )
    made.add_argument("--threads", nargs="+", type=int, default=[1])
    made.add_argument(
        "--peers", nargs="*", help="only these libraries (all; with --bars torch, faiss, usearch)"
    )
    made.add_argument("--cold-gb", type=float, help="size of the files to read cold, GiB (4)")
    made.add_argument("--build-gb", type=float, help="size of the source to build from, GiB (4)")
    made.add_argument("--folder", type=Path, help="where to work: on the disk to measure")
    made.add_argument("--json", type=Path, metavar="FILE")
    made.add_argument("--markdown", type=Path, metavar="FILE")
    return made


def make_options(given: argparse.Namespace) -> Options:
    """Sizes and engines from the command line."""
    options = Options(folder=(given.folder or Path(tempfile.gettempdir())).resolve())
    if given.quick:
        options = quick(options)
    levels = engines.available_levels()
    chosen = [level for level in levels if level != "baseline"] if given.bars else levels[:1]
    options = replace(
        options,
        rows=given.rows or options.rows,
        dim=given.dim or options.dim,
        levels=tuple(given.level or chosen),
        threads=tuple(given.threads),
        peers=("torch", "faiss", "usearch") if given.bars and given.peers is None else given.peers,
        cold_bytes=int((given.cold_gb or options.cold_bytes / 2**30) * 2**30),
        build_bytes=int((given.build_gb or options.build_bytes / 2**30) * 2**30),
    )
    if given.seconds is not None:
        options = replace(
            options,
            budget=replace(options.budget, seconds=given.seconds),
            slow_budget=replace(options.slow_budget, seconds=5 * given.seconds),
        )
    if given.rounds is not None:
        few = {"least": min(given.rounds, options.budget.least), "most": given.rounds}
        options = replace(
            options,
            budget=replace(options.budget, **few),
            slow_budget=replace(options.slow_budget, **few),
        )
    return options


def quick(options: Options) -> Options:
    """Sizes of a run that takes seconds and proves nothing but that it runs."""
    return replace(
        options,
        rows=2000,
        dim=32,
        asked=500,
        bags=64,
        bag_rows=5,
        pool_rows=(1000,),
        cold_bytes=8 << 20,
        build_bytes=2 << 20,
        huge_rows=1 << 20,
        budget=Budget(0.02, 2, 3),
        slow_budget=Budget(0.02, 2, 2),
    )


def for_case(options: Options, name: str, given: argparse.Namespace) -> Options:
    """The options with one engine where more would take too long."""
    if name in ONE_ENGINE and not given.level:
        return replace(options, levels=options.levels[:1])
    return options


def plot(words: list[str]) -> int:
    """Draw the curves of earlier runs."""
    made = argparse.ArgumentParser(prog="bench plot", description="Draw curves: of several runs the least.")
    made.add_argument("results", nargs="+", type=Path, metavar="FILE.json")
    made.add_argument("-o", "--output", type=Path, default=Path("docs"), metavar="FOLDER")
    given = made.parse_args(words)
    outcomes = [outcome for path in given.results for outcome in report.load(path)]
    for path in plots.plot_all(outcomes, given.output):
        print(f"{path}: {os.path.getsize(path):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
