"""``qstore plot``: pictures of a store."""

from __future__ import annotations

import argparse

import qstore

from .arguments import Command, add_against, add_quiet, against_of, tensor_of
from .failures import UsageError
from .printing import print_line, show_progress

__all__ = ["COMMAND"]

_KINDS = ("norms", "scales", "codes", "columns", "errors", "error-cdf", "pca")
_DESCRIPTION = """\
Draw a store: norms, scales, use of the codes, size of the columns, some rows in their main plane, and, with
--against, errors of the rows beside what theory expects. All in one picture, or those that --kind names.
Needs matplotlib: pip install "qstore[plot]"."""

_EXAMPLES = """\
  qstore plot words.h5 -o words.png
  qstore plot words.h5 -o norms.svg --kind norms --dark
  qstore plot words.h5 -o errors.png --kind errors error-cdf --against model.safetensors"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="OUT.png or OUT.svg")
    parser.add_argument(
        "--kind", nargs="+", choices=_KINDS, help="which pictures (default: all there can be)"
    )
    add_against(parser)
    parser.add_argument("--dark", action="store_true", help="light on dark")
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    add_quiet(parser)


def _run(arguments: argparse.Namespace) -> int:
    source = against_of(arguments)
    with qstore.open(arguments.file) as store:
        try:
            kinds = qstore.plot(
                store,
                arguments.output,
                kind=arguments.kind,
                source=source,
                **tensor_of(arguments),
                rows=arguments.rows,
                dark=arguments.dark,
                overwrite=arguments.force,
                progress=show_progress(arguments.quiet),
            )
        except ValueError as error:
            if type(error) is not ValueError:
                raise
            raise UsageError(str(error)) from None
    if not arguments.quiet:
        print_line(f"{arguments.output}: {', '.join(kinds)}")
    return 0


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
