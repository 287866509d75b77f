"""``qstore export``: from a store to a file of another format."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import qstore

from ..errors import ExportError
from .arguments import Command, add_json, add_quiet, consecutive
from .failures import UsageError
from .printing import byte_size, print_facts, print_json, print_line, show_progress

if TYPE_CHECKING:
    from ..exporting.to_file import ExportReport

__all__ = ["COMMAND"]

_FORMATS = ("npy", "safetensors", "word2vec-text", "word2vec-binary", "parquet", "torch")
_DESCRIPTION = """\
Write a store in another format, in flat memory. The end of OUT's name tells which: .npy, .safetensors,
.txt or .vec (word2vec text), .bin (word2vec binary), .parquet (needs pyarrow), .pt or .pth (torch state
dict). OUT appears only when it is complete. Building from a float32 or float64 export gives the same
codes again. Word2vec and Parquet files get the keys of the rows, if they have any."""

_EXAMPLES = """\
  qstore export words.h5 -o words.npy
  qstore export words.h5 -o words.safetensors --codes
  qstore export words.h5 -o words.pt --dtype float16
  qstore export words.h5 -o first.vec --rows 0:1000"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a store: a file, or a directory of shards")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="the file to make")
    parser.add_argument("--format", choices=_FORMATS, help="where OUT's name does not tell")
    parser.add_argument("--rows", metavar="A:B", type=consecutive, help="only these rows")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64", "float16"),
        default="float32",
        help="type of the values (default: float32); float64 is exact, the others are it rounded once, and "
        "values too large for them are an error",
    )
    parser.add_argument(
        "--codes", action="store_true", help="8-bit codes and scales instead of values (.safetensors)"
    )
    parser.add_argument(
        "--no-keys", action="store_true", help="leave out the keys of the rows (word2vec gets row numbers)"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    try:
        report = qstore.export(
            arguments.file,
            arguments.output,
            format=arguments.format,
            rows=arguments.rows,
            dtype=arguments.dtype,
            codes=arguments.codes,
            keys=False if arguments.no_keys else None,
            overwrite=arguments.force,
            progress=show_progress(arguments.quiet),
        )
    except ExportError as error:
        raise UsageError(str(error)) from None
    if arguments.json:
        print_json(report.to_dict())
    elif not arguments.quiet:
        print_facts(_facts(report))
        for warning in report.warnings:
            print_line(f"warning: {warning}")
    return 0


def _facts(report: ExportReport) -> list[tuple[str, object]]:
    return [
        ("file", report.path),
        ("format", report.format),
        ("matrix", f"{report.rows:,} × {report.dim:,} {report.dtype}"),
        ("size", byte_size(report.file_bytes)),
        ("time", f"{report.seconds:.2f} s"),
    ]


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
