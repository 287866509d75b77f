"""``qstore stats``: what a store holds, in one pass over its codes."""

from __future__ import annotations

import argparse

import qstore

from ..reports.wording import distribution_table, jsonable, stats_distributions, stats_facts
from .arguments import Command, add_json, add_quiet, at_least
from .printing import print_facts, print_json, print_line, print_table, show_progress

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
    with qstore.open(arguments.file) as store:
        path = store.path
        found = store.stats(threads=arguments.threads, progress=show_progress(arguments.quiet))
    if arguments.json:
        print_json({"path": path, **jsonable(found)})
        return 0
    print_facts([("store", path), *stats_facts(found)])
    print_line("")
    print_table(distribution_table(stats_distributions(found)))
    for warning in found.warnings:
        print_line(f"\nwarning: {warning}")
    return 0


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
