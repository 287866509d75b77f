"""``qstore build``: from a checkpoint to a store."""

from __future__ import annotations

import argparse
import dataclasses

from ..build import BuildPlan, BuildReport, build, plan
from .arguments import Command, add_json, add_quiet, add_rows, add_tensor, at_least
from .printing import byte_size, print_facts, print_json, show_progress

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Quantize a matrix to 8 bits a value and write it to OUT, in flat memory whatever its size.
SRC is a .npy, HDF5 or .safetensors file, a model.safetensors.index.json, or a directory that holds one.
OUT appears only when it is complete. A build that was interrupted goes on where it stopped when the
same command runs again."""

_EXAMPLES = """\
  qstore build vectors.npy -o vectors.h5
  qstore build model.safetensors --tensor embeddings.word_embeddings.weight -o words.h5
  qstore build vectors.npy --rows 0:100000 -o first.h5 --force
  qstore build vectors.npy -o vectors.h5 --dry-run"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="what to build from")
    parser.add_argument("-o", dest="output", metavar="OUT", required=True, help="the store to make")
    add_tensor(parser)
    add_rows(parser)
    parser.add_argument(
        "--threads", metavar="N", type=at_least(1), help="default: the number of processors; OUT is the same"
    )
    parser.add_argument(
        "--nonfinite",
        choices=("error", "zero"),
        default="error",
        help="stop at NaN and infinities (default), or store 0 for them",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted build has done")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return _dry_run(arguments)
    try:
        report = build(
            arguments.source,
            arguments.output,
            tensor=arguments.tensor,
            rows=arguments.rows,
            threads=arguments.threads,
            progress=show_progress(arguments.quiet),
            overwrite=arguments.force,
            resume=not arguments.restart,
            nonfinite=arguments.nonfinite,
        )
    except KeyboardInterrupt:
        command = "the same command without --restart" if arguments.restart else "the same command again"
        raise KeyboardInterrupt(f"run {command} to go on") from None
    if arguments.json:
        print_json(dataclasses.asdict(report))
    elif not arguments.quiet:
        print_facts(_report_facts(report))
    return 0


def _report_facts(report: BuildReport) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("store", report.path),
        ("tensor", report.tensor or "(no name)"),
        ("matrix", f"{report.rows:,} × {report.dim:,} {report.source_dtype}"),
        ("size", _sizes(report.source_bytes, report.file_bytes)),
        ("time", _speed(report.rows - report.rows_resumed, report.seconds)),
        ("engine", report.engine),
    ]
    if report.rows_resumed:
        facts.append(("resumed", f"{report.rows_resumed:,} rows had been done before"))
    return facts


def _sizes(source_bytes: int, file_bytes: int) -> str:
    ratio = f", {source_bytes / file_bytes:.2f} times smaller" if source_bytes > file_bytes else ""
    return f"{byte_size(source_bytes)} → {byte_size(file_bytes)}{ratio}"


def _speed(rows: int, seconds: float) -> str:
    return f"{seconds:.2f} s, {rows / max(seconds, 1e-9):,.0f} rows/s"


def _dry_run(arguments: argparse.Namespace) -> int:
    planned = plan(
        arguments.source,
        arguments.output,
        tensor=arguments.tensor,
        rows=arguments.rows,
        overwrite=arguments.force,
    )
    if arguments.json:
        print_json(dataclasses.asdict(planned))
    elif not arguments.quiet:
        print_facts(_plan_facts(planned))
    return 0


def _plan_facts(planned: BuildPlan) -> list[tuple[str, object]]:
    rows = "unknown" if planned.rows is None else f"{planned.rows:,}"
    known = planned.source_bytes is not None and planned.file_bytes is not None
    return [
        ("would make", planned.path),
        ("tensor", planned.tensor or "(no name)"),
        ("matrix", f"{rows} × {planned.dim:,} {planned.source_dtype}"),
        ("size", _sizes(planned.source_bytes or 0, planned.file_bytes or 0) if known else "unknown"),
    ]


COMMAND = Command(
    name="build",
    summary="quantize a matrix into a store",
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
