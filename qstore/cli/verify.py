"""``qstore verify``: does a store hold what was written, and what its source holds?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import qstore

from ..reports.wording import counted, fidelity_facts, keys_of_rows, taken_for_zero, what_agrees, worst_rows
from ..system.progress import staged_bar
from ..system.reported import Reported
from ..system.urls import printable_path
from .arguments import (
    Command,
    add_against,
    add_json,
    add_keys,
    add_quiet,
    add_step,
    add_threads,
    against_of,
    compared_keys_of,
    compared_step_of,
    tensor_of,
)
from .printing import print_facts, show_progress
from .several_stores import add_stores, each_store

if TYPE_CHECKING:
    from ..building.verify_against import AgainstReport
    from ..reading.verify import VerifyReport
    from ..store import Store

__all__ = ["COMMAND", "Verified"]

_DESCRIPTION = """\
Check the structure of a store, all its checksums and its keys, and name each broken block.
With --against, quantize SRC again too, compare every code and every scale, and the keys of SRC or --keys, and
measure the errors of what is read against what SRC holds. Of a SRC of several tensors, each store is compared
with the one it was built from, or with those that were joined.
The exit status is 0 if all agrees, 1 if anything is broken or differs, 2 if a file cannot be read."""

_EXAMPLES = """\
  qstore verify words.h5
  qstore verify words.h5 --against model.safetensors --tensor embeddings.word_embeddings.weight
  qstore verify tables/ --against model.safetensors
  qstore verify table.h5 --against model.safetensors --tensor 'table.shard_*.weight' --join
  qstore verify words.h5 -q && echo good"""


@dataclass(frozen=True, repr=False)
class Verified(Reported):
    """What was found.

    Attributes
    ----------
    path : str
    ok : bool
        Nothing differs.
    store : VerifyReport
        The file against its own checksums.
    against : AgainstReport or None
        The file against SRC, if one was given.
    """

    path: str
    ok: bool
    store: VerifyReport
    against: AgainstReport | None


# The part of the time that the checksums take, beside a source.
_CHECKING = 0.1

_Looked = tuple[Verified, dict[int, str | int]]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stores(parser)
    add_against(parser)
    add_keys(parser)
    add_step(parser)
    add_threads(parser)
    add_quiet(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    source, keys, coding = against_of(arguments), compared_keys_of(arguments), compared_step_of(arguments)

    def look(path: str) -> _Looked:
        with qstore.open(path) as store:
            found = _verify(store, source, keys, coding, arguments)
            return found, _keys_of_worst_rows(store, found)

    return each_store(
        arguments.files,
        look,
        lambda looked: print_facts(_facts(*looked, arguments)),
        arguments.json,
        lambda looked: looked[0],
        lambda looked: not looked[0].ok,
        apart=not arguments.quiet,
    )


def _verify(
    store: Store, source: Any, keys: Any, coding: dict[str, Any], arguments: argparse.Namespace
) -> Verified:
    share = 1.0 if source is None else _CHECKING
    against, threads = None, arguments.threads
    with staged_bar(show_progress(arguments.quiet), len(store)) as stage:
        held = store.verify(stage("checking", share), threads=threads)
        if source is not None:
            against = qstore.verify_against(
                store,
                source,
                **tensor_of(arguments),
                keys=keys,
                key_encoding=arguments.key_encoding,
                rows=arguments.rows,
                missing_keys=arguments.missing_keys,
                threads=threads,
                progress=stage("comparing", 1 - share),
                **coding,
            )
    ok = held.ok and (against is None or against.ok)
    return Verified(store.path, ok, held, against)


def _keys_of_worst_rows(store: Store, found: Verified) -> dict[int, str | int]:
    """Where keys are whole: broken ones are named already."""
    if found.against is None or found.against.fidelity is None or not found.store.ok:
        return {}
    return keys_of_rows(store, [row for row, _ in worst_rows(found.against.fidelity)])


def _facts(
    found: Verified, names: dict[int, str | int], arguments: argparse.Namespace
) -> list[tuple[str, object]]:
    told = found.against.problems if found.against else ()
    facts: list[tuple[str, object]] = [("broken", f"{found.path}: {one}") for one in found.store.problems]
    facts.extend(("differs", f"{found.path}: {one}") for one in told)
    if arguments.quiet:
        return facts
    return [*facts, *_agreements(found, names, " ".join(map(printable_path, arguments.against or ())))]


def _agreements(found: Verified, names: dict[int, str | int], source: str) -> Iterator[tuple[str, object]]:
    if found.store.ok:
        rows, blocks = counted(found.store.rows, "row"), counted(found.store.blocks, "block")
        keys = "" if found.store.keys_ok is None else f", and {_found_by_key(found.store)}"
        yield "ok", f"{found.path}: {rows} in {blocks} agree with their checksums{keys}"
    if found.against is not None and found.against.ok:
        rows = counted(found.against.rows, "row")
        compared = f"{what_agrees(found.against)} of {rows} agrees with {source}"
        yield "ok", compared + taken_for_zero(found.against)
    if found.against is not None and found.against.fidelity is not None:
        yield from fidelity_facts(found.against.fidelity, names)


def _found_by_key(store: VerifyReport) -> str:
    """Which rows are found by their keys, where all is well with these."""
    if not store.unkeyed_rows and not store.repeated_rows:
        return "each row is found by its key"
    has = "has" if store.unkeyed_rows == 1 else "have"
    reasons = [f"{store.unkeyed_rows:,} {has} none"] if store.unkeyed_rows else []
    if store.repeated_example is not None:
        key, row, first = store.repeated_example
        example = f"such as row {row}, {key!r:.80} like row {first}"
        have = "has" if store.repeated_rows == 1 else "have"
        reasons.append(f"{store.repeated_rows:,} {have} that of an earlier row, {example}")
    found = store.rows - store.unkeyed_rows - store.repeated_rows
    return f"{found:,} of them are found by their keys: {'; '.join(reasons)}"


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
