"""``qstore build``: from checkpoints to stores."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import qstore

from ..errors import SourceError, TensorError
from ..system.urls import is_url
from .arguments import (
    Command,
    add_json,
    add_keys,
    add_quiet,
    add_raw,
    add_rows,
    add_step,
    add_tensor,
    at_least,
    keys_of,
    scaling_of,
    source_of,
    step_of,
    tensor_of,
)
from .failures import UsageError, messages_on_stderr
from .printing import (
    byte_size,
    counted_keys,
    print_facts,
    print_json,
    print_line,
    print_table,
    printable,
    show_progress,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..building.one import BuildReport
    from ..building.plans import BuildPlan
    from ..engine.nonfinite import NonFiniteValues

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Quantize a matrix to 8 bits a value and write it to OUT, in flat memory whatever its size.
SRC is a .npy, .npz, HDF5, .safetensors, PyTorch, Keras, ONNX, word2vec, GloVe, fastText, fvecs, big-ann,
Parquet, Arrow or GGUF file, the index of a checkpoint in several files, a directory that holds one, or raw
values (--raw). docs/sources.md lists them all. Of a URL of a .npy, .safetensors or GGUF file, or of such an
index, only the tensor that is wanted is fetched.
Whole numbers that fit 8 bits are stored as they are with --step; else rows are rounded.
Several SRC, or a quoted pattern of names, become one matrix, in the order given (a pattern: by name).
OUT appears only when it is complete. A build that was interrupted goes on where it stopped when the
same command runs again; with another SRC or other options it is refused, unless --restart is given.
One that failed on its data (NaN, keys that come twice) goes on with --nonfinite zero, --duplicates first
or --no-keys, and begins again with anything else.

Tensors of SRC that are one matrix in pieces, their names alike but for a number, become one store with
--tensor PATTERN --join: in the order of the numbers. Missing numbers are an error.

With --shard-rows, OUT is a directory of shards that are read as one store.

Else, if OUT is a directory or ends with "/", the matrix of SRC that --tensor names, or else each whose name
matches it (a pattern such as 'tables.*.weight'; default: all), becomes a store in it, named after the tensor:
odd characters are percent-encoded. Stores that are there already and hold the same are kept, anything else
there is an error before anything is written, unless --force is given: then all are built anew."""

_EXAMPLES = """\
  qstore build vectors.npy -o vectors.h5
  qstore build part-0.npy part-1.npy -o vectors.h5
  qstore build model.safetensors --tensor embeddings.word_embeddings.weight -o words.h5
  qstore build model.safetensors --tensor 'tables.*.weight' -o tables/
  qstore build https://host/model.safetensors --tensor embeddings.weight -o words.h5
  qstore build checkpoint-directory/ --tensor 'table.shard_*.weight' --join -o table.h5
  qstore build model.safetensors --tensor wte.weight --keys tokenizer.json -o words.h5
  qstore build values.raw --raw float32:768 -o vectors.h5
  qstore build int8.npy -o int8.h5 --step 0.05
  qstore build vectors.npy -o vectors/ --shard-rows 1000000
  qstore build vectors.npy --rows 0:100000 -o first.h5 --force
  qstore build vectors.npy -o vectors.h5 --dry-run"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SRC", nargs="+", help="what to build from")
    parser.add_argument(
        "-o", dest="output", metavar="OUT", required=True, help="the store to make, or a directory"
    )
    add_tensor(parser)
    add_raw(parser)
    add_keys(parser)
    parser.add_argument(
        "--duplicates",
        choices=("error", "first"),
        default="error",
        help="stop where two rows have the same key (default), or let it stand for the first of them",
    )
    add_rows(parser)
    parser.add_argument(
        "--threads",
        metavar="N",
        type=at_least(1),
        help="default: QSTORE_THREADS, or the number of processors; OUT is the same",
    )
    parser.add_argument(
        "--nonfinite",
        choices=("error", "zero"),
        default="error",
        help="stop at NaN and infinities (default), or store 0 for them and say how many there were",
    )
    add_step(parser)
    parser.add_argument(
        "--shard-rows",
        metavar="N",
        type=at_least(1),
        help="make OUT a directory of shards of N rows each, read as one store",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT, once the new one is complete")
    parser.add_argument("--restart", action="store_true", help="drop what an unfinished build has done")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done, if there is room"
    )
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    sources = _expanded(arguments.sources)
    several_outputs = arguments.shard_rows is None and (
        arguments.output.endswith("/") or os.path.isdir(arguments.output)
    )
    if several_outputs and arguments.join:
        raise UsageError("--join makes one store: name a file as OUT, or give --shard-rows, too")
    try:
        with messages_on_stderr():
            if several_outputs:
                return _run_all(_single(sources), arguments)
            return _run_one(_opened(sources, arguments), arguments)
    except KeyboardInterrupt:
        command = "the same command without --restart" if arguments.restart else "the same command again"
        raise KeyboardInterrupt(f"run {command} to go on") from None
    except TensorError as error:
        if not (several_outputs or arguments.join) and glob.has_magic(arguments.tensor or ""):
            error.add_note('a pattern needs --join (one store of all), or a directory: end OUT with "/"')
        raise


def _opened(sources: list[str], arguments: argparse.Namespace) -> Any:
    if arguments.raw is None:
        return sources if len(sources) > 1 else sources[0]
    if len(sources) > 1:
        raise UsageError("--raw takes one SRC")
    there = os.path.exists(arguments.output) and os.path.exists(sources[0])
    if there and os.path.samefile(sources[0], arguments.output):
        raise UsageError(f"{arguments.output} is both the source and the output")
    return source_of(sources[0], arguments.raw)


def _expanded(words: list[str]) -> list[str]:
    """Patterns that the shell left alone, because they were quoted, replaced by the files they match."""
    return [path for word in words for path in (_matching(word) if _is_pattern(word) else [word])]


def _is_pattern(word: str) -> bool:
    return glob.has_magic(word) and not os.path.lexists(word) and not is_url(word)


def _matching(pattern: str) -> list[str]:
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SourceError(f"no file matches {pattern}")
    return paths


def _single(sources: list[str]) -> str:
    if len(sources) > 1:
        raise UsageError(
            f"a directory as OUT takes one SRC, found {len(sources)}: give the index file or the directory "
            f"of a checkpoint in several files, or a file as OUT"
        )
    return sources[0]


def _run_one(source: Any, arguments: argparse.Namespace) -> int:
    rows = arguments.shard_rows
    if arguments.dry_run:
        look = qstore.plan if rows is None else _shard_planner(arguments)
        planned = look(
            source,
            arguments.output,
            **tensor_of(arguments),
            keys=keys_of(arguments),
            key_encoding=arguments.key_encoding,
            rows=arguments.rows,
            missing_keys=arguments.missing_keys,
            overwrite=arguments.force,
            resume=not arguments.restart,
            nonfinite=arguments.nonfinite,
            **step_of(arguments),
        )
        _print(planned, _plan_facts(planned), arguments)
        return 0
    make = qstore.build if rows is None else partial(qstore.build_shards, shard_rows=rows)
    report = make(
        source,
        arguments.output,
        **tensor_of(arguments),
        keys=keys_of(arguments),
        key_encoding=arguments.key_encoding,
        rows=arguments.rows,
        missing_keys=arguments.missing_keys,
        threads=arguments.threads,
        progress=show_progress(arguments.quiet),
        overwrite=arguments.force,
        resume=not arguments.restart,
        nonfinite=arguments.nonfinite,
        duplicates=arguments.duplicates,
        **step_of(arguments),
    )
    _print(report, _report_facts(report), arguments)
    return 0


def _shard_planner(arguments: argparse.Namespace) -> Callable[..., BuildPlan]:
    return partial(qstore.plan_shards, shard_rows=arguments.shard_rows)


def _print(
    found: BuildPlan | BuildReport, facts: list[tuple[str, object]], arguments: argparse.Namespace
) -> None:
    if arguments.json:
        print_json(found.to_dict())
    elif not arguments.quiet:
        print_facts(facts)
        _print_warnings([found], with_name=False)


def _run_all(source: str, arguments: argparse.Namespace) -> int:
    pattern = "*" if arguments.tensor is None else arguments.tensor
    found: list[BuildPlan] | list[BuildReport]
    if arguments.dry_run:
        found = qstore.plan_all(
            source,
            arguments.output,
            pattern,
            **scaling_of(arguments),
            keys=keys_of(arguments),
            key_encoding=arguments.key_encoding,
            rows=arguments.rows,
            missing_keys=arguments.missing_keys,
            overwrite=arguments.force,
            resume=not arguments.restart,
            nonfinite=arguments.nonfinite,
            **step_of(arguments),
        )
    else:
        found = qstore.build_all(
            source,
            arguments.output,
            pattern,
            **scaling_of(arguments),
            keys=keys_of(arguments),
            key_encoding=arguments.key_encoding,
            rows=arguments.rows,
            missing_keys=arguments.missing_keys,
            threads=arguments.threads,
            progress=show_progress(arguments.quiet),
            overwrite=arguments.force,
            resume=not arguments.restart,
            nonfinite=arguments.nonfinite,
            duplicates=arguments.duplicates,
            **step_of(arguments),
        )
    if arguments.json:
        print_json([one.to_dict() for one in found])
    elif not arguments.quiet:
        print_table([("tensor", "matrix", "size", "store"), *map(_cells, found), _total(found)])
        for one in found:
            if isinstance(one, qstore.BuildReport) and one.nonfinite.count:
                print_line(printable(f"{one.tensor}: {_replaced(one.nonfinite)}"))
        _print_warnings(found, with_name=True)
    return 0


def _print_warnings(found: Sequence[BuildPlan | BuildReport], with_name: bool) -> None:
    for one in found:
        for warning in one.warnings if isinstance(one, qstore.BuildReport) else ():
            name = f"{one.tensor}: " if with_name else ""
            print_line(printable(f"warning: {name}{warning}"))


def _replaced(nonfinite: NonFiniteValues) -> str:
    return f"0 is stored for NaN and infinities: {nonfinite.in_words()}"


def _cells(one: BuildPlan | BuildReport) -> tuple[str, ...]:
    matrix = f"{_rows(one.rows)} × {one.dim:,} {one.source_dtype}"
    done_before = one.rows_resumed == one.rows and one.rows_resumed > 0
    where = f"{one.path} (done before)" if done_before else one.path
    return one.tensor, matrix, _sizes(one.source_bytes, one.file_bytes), where


def _total(found: list[BuildPlan] | list[BuildReport]) -> tuple[str, ...]:
    source_bytes = sum(one.source_bytes or 0 for one in found)
    file_bytes = sum(one.file_bytes or 0 for one in found)
    rows = sum(one.rows or 0 for one in found)
    return f"{len(found)} in all", f"{rows:,} rows", _sizes(source_bytes, file_bytes), ""


def _report_facts(report: BuildReport) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("store", report.path),
        ("tensor", report.tensor or "(no name)"),
        *_convention(report),
        ("matrix", f"{report.rows:,} × {report.dim:,} {report.source_dtype}"),
        ("size", _sizes(report.source_bytes, report.file_bytes)),
        ("time", _speed(report.rows - report.rows_resumed, report.seconds)),
        ("engine", report.engine),
    ]
    if report.key_kind is not None:
        facts.insert(
            len(facts) - 3, ("keys", counted_keys(report.rows, report.unkeyed_rows, report.key_kind))
        )
    if report.nonfinite.count:
        facts.append(("replaced", _replaced(report.nonfinite)))
    if report.rows_resumed:
        facts.append(("resumed", f"{report.rows_resumed:,} rows had been done before"))
    return facts


def _rows(rows: int | None) -> str:
    return "unknown" if rows is None else f"{rows:,}"


def _sizes(source_bytes: int | None, file_bytes: int | None) -> str:
    if source_bytes is None or file_bytes is None:
        return "unknown"
    ratio = f", {source_bytes / file_bytes:.2f} times smaller" if source_bytes > file_bytes else ""
    return f"{byte_size(source_bytes)} → {byte_size(file_bytes)}{ratio}"


def _speed(rows: int, seconds: float) -> str:
    return f"{seconds:.2f} s" + (f", {rows / max(seconds, 1e-9):,.0f} rows/s" if rows else "")


def _convention(one: BuildPlan | BuildReport) -> list[tuple[str, object]]:
    return [("values", one.convention)] if one.convention else []


def _plan_facts(planned: BuildPlan) -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [
        ("would make", planned.path),
        ("tensor", planned.tensor or "(no name)"),
        *_convention(planned),
        ("matrix", f"{_rows(planned.rows)} × {planned.dim:,} {planned.source_dtype}"),
        ("size", _sizes(planned.source_bytes, planned.file_bytes)),
    ]
    if planned.shards is not None:
        facts.append(("shards", f"{planned.shards:,}"))
    if planned.free_bytes is not None:
        facts.append(("free", byte_size(planned.free_bytes)))
    if planned.rows_resumed:
        facts.append(("goes on", f"{planned.rows_resumed:,} rows have been done before"))
    if planned.begins_again:
        facts.append(("begins again", planned.begins_again))
    return facts


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
