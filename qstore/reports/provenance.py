"""How a page was made: the version, the source and the command, and no clock."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from .. import __version__
from ..keys.supply import MissingKeys
from ..sources import RawSource
from ..sources.concatenated import are_paths
from ..store import Store
from ..system.urls import is_url, printable_path

__all__ = ["keys_words", "made_by", "source_words", "store_name"]


def store_name(store: Store) -> str:
    """What a store is called: a URL, or the last part of a path."""
    return store.path if is_url(store.path) else os.path.basename(store.path)


def made_by(
    store: Store,
    page: Path,
    source: Any,
    of_source: list[str] | None,
    of_keys: list[str] | None,
) -> list[tuple[str, object]]:
    """Facts in words. The command names store and page as in their folders, the source as it was given.

    `of_source` and `of_keys` are what :func:`source_words` and :func:`keys_words` give.
    """
    facts: list[tuple[str, object]] = [("qstore", __version__)]
    if source is not None:
        facts.append(("source", _named(source)))
    one_place = is_url(store.path) or os.path.lexists(store.path)  # no list of files
    if of_source is not None and of_keys is not None and one_place:
        words = ["qstore", "report", store_name(store), "-o", page.name, *of_source, *of_keys]
        facts.append(("command", shlex.join(words)))
    return facts


def _named(source: Any) -> str:
    if isinstance(source, RawSource):
        return source.path
    if are_paths(source):
        return ", ".join(map(printable_path, source))
    if isinstance(source, (str, os.PathLike)):
        return printable_path(source)
    shape = getattr(source, "shape", None)
    return f"{type(source).__name__} in memory" + ("" if shape is None else f", shape {tuple(shape)}")


def source_words(
    source: Any,
    tensor: str | None,
    rows: slice | tuple[int, int] | None,
    step: float | None,
    zero_point: int,
    join: bool = False,
    scale: str | None = None,
    as_stored: bool = False,
) -> list[str] | None:
    """What follows ``--against`` on the command line, with it; None where no command names such a source."""
    if source is None:
        return []
    if isinstance(source, RawSource) and source.layout is not None:
        words = [source.path, "--raw", source.layout]
    elif are_paths(source):
        words = list(map(printable_path, source))
    elif isinstance(source, (str, os.PathLike)):
        words = [printable_path(source)]
    else:
        return None
    if tensor is not None:
        words += ["--tensor", tensor, *(["--join"] if join else [])]
    if scale is not None:
        words += ["--scale", scale]
    if as_stored:
        words.append("--as-stored")
    if rows is not None:
        start, stop = (rows.start, rows.stop) if isinstance(rows, slice) else rows
        words += ["--rows", f"{'' if start is None else start}:{'' if stop is None else stop}"]
    if step is not None:
        words += ["--step", repr(float(step)), *(["--zero-point", str(zero_point)] if zero_point else [])]
    return ["--against", *words]


def keys_words(keys: Any, key_encoding: str | None, missing_keys: MissingKeys) -> list[str] | None:
    """Options that say which keys are compared; None where none do."""
    if keys is False:
        words = ["--no-keys"]
    elif isinstance(keys, (str, os.PathLike)):
        words = ["--keys", os.fsdecode(keys)]
    elif keys is None:
        words = []
    else:
        return None
    words += [] if key_encoding is None else ["--key-encoding", key_encoding]
    return words if missing_keys == "error" else [*words, "--missing-keys", missing_keys]
