"""Stores that a command is given one by one, or by the directory they lie in."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import QStoreError
from .failures import TROUBLE, complain, in_words
from .printing import print_json, print_line

__all__ = ["add_stores", "each_store", "stores_at"]

_Found = TypeVar("_Found")


def add_stores(parser: argparse.ArgumentParser) -> None:
    """``FILE…``."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="a store: a file, a directory of shards, or a URL; or several; or a directory of stores (*.h5)",
    )


def stores_at(directory: str) -> list[str]:
    """The stores that lie in a directory, in natural order; none where they are shards of one."""
    if not os.path.isdir(directory):
        return []
    from ..building.shard_record import RECORD
    from ..format.manifest import MANIFEST
    from ..opening import natural_order

    found = os.listdir(directory)
    if MANIFEST in found or RECORD in found:
        return []
    names = [name for name in found if name.endswith(".h5")]
    paths = [os.path.join(directory, name) for name in sorted(names, key=natural_order)]
    return [path for path in paths if os.path.isfile(path)]


def each_store(
    words: Sequence[str],
    look: Callable[[str], _Found],
    show: Callable[[_Found], None],
    as_json: bool,
    value: Callable[[_Found], Any] = lambda found: found,
    differs: Callable[[_Found], bool] = lambda _: False,
    apart: bool = True,
) -> int:
    """Look at each store and show what was found; or print it in JSON, its `value`: of several, a list.

    What cannot be read is said on stderr, and the others are looked at. An empty line keeps stores `apart`.
    Returns the exit status: 1 where something `differs`.
    """
    paths = [path for word in words for path in stores_at(word) or [word]]
    if paths == list(words[:1]):  # one store, by its name
        one = look(paths[0])
        if as_json:
            print_json(value(one))
        else:
            show(one)
        return int(differs(one))
    status, kept = 0, []
    for number, path in enumerate(paths):
        try:
            found = look(path)
        except (QStoreError, OSError) as error:
            complain(f"error: {in_words(error)}")
            status = max(status, TROUBLE)
            continue
        status = max(status, int(differs(found)))
        kept.append(value(found) if as_json else None)
        if not as_json:
            if number and apart:
                print_line("")
            show(found)
    if as_json:
        print_json(kept)
    return status
