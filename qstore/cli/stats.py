"""``qstore stats``: what a store holds, in one pass over its codes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from ..stats import StoreStats
from ..store import open as open_store
from .arguments import Command, add_json, add_quiet, at_least
from .figures import distribution_table
from .printing import jsonable, number, print_facts, print_json, print_line, print_table, show_progress

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Norms, scales, codes, columns, zero and repeated rows, and columns that make all the others coarser: read
from the codes in one pass, in bounded memory. --json has everything, a value a column too."""

_EXAMPLES = """\
  qstore stats words.h5
  qstore stats words.h5 --json > words.json"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store")
    parser.add_argument("--threads", metavar="N", type=at_least(1), help="threads (default: one a processor)")
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    with open_store(arguments.file) as store:
        path = store.path
        found = store.stats(threads=arguments.threads, progress=show_progress(arguments.quiet))
    if arguments.json:
        print_json({"path": path, **jsonable(found)})
        return 0
    print_facts([("store", path), *_facts(found)])
    print_line("")
    measured = {"norm": found.norms, "scale": found.scales, "error / values, expected": found.relative_steps}
    print_table(distribution_table(measured))
    for warning in found.warnings:
        print_line(f"\nwarning: {warning}")
    return 0


def _facts(found: StoreStats) -> Iterator[tuple[str, object]]:
    yield "shape", f"{found.rows:,} × {found.dim:,}"
    yield "rows of zeros", f"{found.zero_rows:,}"
    yield "repeated rows", _repeated(found)
    used = int(np.count_nonzero(found.code_counts))
    yield "codes in use", f"{used} of 256"
    if found.rows:
        yield "column means", f"{number(found.column_means.min())} to {number(found.column_means.max())}"
        deviations = np.sqrt(found.column_variances)
        yield "column deviations", f"{number(deviations.min())} to {number(deviations.max())}"
    yield "outlier columns", _outliers(found)


def _repeated(found: StoreStats) -> str:
    about = "" if found.duplicates.share_looked_at == 1 else "about "
    shown = [f"row {second} as {first}" for first, second, _ in found.duplicates.examples]
    return f"{about}{found.duplicates.rows:,}" + (f" ({', '.join(shown)})" if shown else "")


def _outliers(found: StoreStats) -> str:
    if not found.outliers.columns:
        return "none"
    pairs = zip(found.outliers.columns, found.outliers.peak_shares, strict=True)
    shown = ", ".join(f"{column} (largest in {share:.1%} of the rows)" for column, share in pairs)
    return f"{shown}; error of the others × {found.outliers.error_factor:.2f}"


COMMAND = Command(
    name="stats",
    summary="norms, scales, codes, columns, duplicate rows of a store",
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
