"""``qstore stats``: what a store holds, in one pass over its codes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import qstore

from ..reports.wording import distribution_table, stats_distributions, stats_facts
from .arguments import Command, add_json, add_quiet, add_threads
from .printing import print_facts, print_line, print_table, show_progress
from .several_stores import add_stores, each_store

if TYPE_CHECKING:
    from ..analysis.stats import StoreStats

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Norms, scales, codes, columns, zero and repeated rows, and columns that make all the others coarser: read
from the codes in one pass, in bounded memory. --json has everything, a value a column too."""

_EXAMPLES = """\
  qstore stats words.h5
  qstore stats words.h5 --json > words.json
  qstore stats tables/"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stores(parser)
    add_threads(parser)
    add_quiet(parser, "no progress bar; what is found is printed all the same")
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    def look(path: str) -> tuple[str, StoreStats]:
        with qstore.open(path) as store:
            return store.path, store.stats(threads=arguments.threads, progress=show_progress(arguments.quiet))

    return each_store(arguments.files, look, _show, arguments.json, _value)


def _value(of_store: tuple[str, StoreStats]) -> dict[str, object]:
    path, found = of_store
    return {"path": path, **found.to_dict()}


def _show(of_store: tuple[str, StoreStats]) -> None:
    path, found = of_store
    print_facts([("store", path), *stats_facts(found)])
    print_line("")
    print_table(distribution_table(stats_distributions(found)))
    for warning in found.warnings:
        print_line(f"\nwarning: {warning}")


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
