"""``qstore report``: one page with all there is to see about a store."""

from __future__ import annotations

import argparse

import qstore

from .arguments import (
    Command,
    add_against,
    add_keys,
    add_quiet,
    add_step,
    against_of,
    compared_keys_of,
    compared_step_of,
    tensor_of,
)
from .printing import print_line, show_progress

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Write one HTML page about a store: statistics, errors and all pictures. It fetches nothing and runs no script,
and is light or dark as the reader's system is. With --against, every code is compared with SRC and every
error measured. Needs matplotlib: pip install "qstore[plot]"."""

_EXAMPLES = """\
  qstore report words.h5 -o words.html
  qstore report words.h5 -o words.html --against model.safetensors --tensor embeddings.weight"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="the page to make")
    add_against(parser)
    add_keys(parser)
    add_step(parser)
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    add_quiet(parser)


def _run(arguments: argparse.Namespace) -> int:
    source, keys = against_of(arguments), compared_keys_of(arguments)
    coding = compared_step_of(arguments)
    with qstore.open(arguments.file) as store:
        qstore.report(
            store,
            arguments.output,
            source=source,
            **tensor_of(arguments),
            keys=keys,
            key_encoding=arguments.key_encoding,
            rows=arguments.rows,
            missing_keys=arguments.missing_keys,
            **coding,
            overwrite=arguments.force,
            progress=show_progress(arguments.quiet),
        )
    if not arguments.quiet:
        print_line(arguments.output)
    return 0


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
