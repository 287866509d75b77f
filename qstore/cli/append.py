"""``qstore append``: finished stores become shards of a directory."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Literal

import qstore

from .arguments import Command, add_json
from .printing import print_facts, print_json

if TYPE_CHECKING:
    from ..format.layout import Shard

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Add finished stores, which lie in DIR already, behind the shards of the sharded store DIR, by replacing its
manifest (qstore.json) in one step: readers see the old one or the new one. Where DIR has no manifest yet,
one is made of these stores in the order given; without NAME, of all *.h5 in natural order (part-9 before
part-10). Only headers are read, and of keys what tells equal ones: 8 bytes a row."""

_EXAMPLES = """\
  qstore append words/
  qstore build monday.npy -o words/monday.h5 && qstore append words/ monday.h5"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a directory of stores")
    parser.add_argument("names", metavar="NAME", nargs="*", default=[], help="names of files in DIR")
    parser.add_argument(
        "--no-keys", action="store_true", help="rows are found by number only, whatever keys the stores have"
    )
    parser.add_argument(
        "--duplicates",
        choices=("error", "first"),
        default="error",
        help="stop where two rows have the same key (default), or do not look: it stands for the first one",
    )
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    from ..format.manifest import MANIFEST

    keys: Literal[False] | None = False if arguments.no_keys else None
    duplicates = arguments.duplicates
    if arguments.names and os.path.lexists(os.path.join(arguments.directory, MANIFEST)):
        shards = qstore.append_shards(arguments.directory, arguments.names, keys=keys, duplicates=duplicates)
    else:
        names = arguments.names or None
        shards = qstore.publish_shards(arguments.directory, names, keys=keys, duplicates=duplicates)
    if arguments.json:
        print_json([shard.to_dict() for shard in shards])
    else:
        print_facts(_facts(arguments.directory, shards))
    return 0


def _facts(directory: str, shards: tuple[Shard, ...]) -> list[tuple[str, object]]:
    return [
        ("store", os.path.abspath(directory)),
        ("shards", f"{len(shards):,}"),
        ("rows", f"{sum(shard.rows for shard in shards):,}"),
    ]


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
