"""From what :func:`qstore.open` is given to the data behind it: a file, a directory, or several files."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from . import durable
from .backing import Backing, Shard
from .errors import FormatError
from .inspection import Description, inspect
from .layout import Facts
from .reading import LocalStore

__all__ = ["common_facts", "describe_file", "natural_order", "open_backing"]


def open_backing(what: Any, resident_scales: bool) -> Backing:
    """The data of a store: a path, a pattern of paths, or a list of paths.

    Raises
    ------
    FormatError, VersionError, ShardError
        It is not a valid store.
    OSError
        It is not there or cannot be read.
    """
    if isinstance(what, (list, tuple)):
        return _open_files([os.path.abspath(os.fsdecode(path)) for path in what], resident_scales)
    path = os.fsdecode(what)
    if os.path.isdir(path):
        return _open_directory(os.path.abspath(path), resident_scales)
    if glob.has_magic(path) and not os.path.lexists(path):
        return _open_files([os.path.abspath(one) for one in _matching(path)], resident_scales)
    return LocalStore(os.path.abspath(path), resident_scales)


def _matching(pattern: str) -> list[str]:
    paths = sorted(glob.glob(pattern), key=natural_order)
    if not paths:
        raise FileNotFoundError(errno.ENOENT, "no file matches", pattern)
    return paths


def natural_order(name: str) -> tuple[Any, ...]:
    """Key that sorts numbers in names by their value, so that ``part-10`` comes after ``part-9``.

    Examples
    --------
    >>> sorted(["part-10.h5", "part-9.h5", "part-1.h5"], key=natural_order)
    ['part-1.h5', 'part-9.h5', 'part-10.h5']
    """
    pieces = re.split("([0-9]+)", name)
    return (
        *((text, int(number)) for text, number in zip(pieces[::2], [*pieces[1::2], "-1"], strict=True)),
        name,
    )


def _open_directory(directory: str, resident_scales: bool) -> Backing:
    from .manifest import read_manifest
    from .shard_files import ShardFiles, check_files
    from .sharded import ShardedStore

    manifest = read_manifest(directory)
    check_files(directory, manifest)
    files = ShardFiles(manifest.shards, manifest.facts.dim, resident_scales, follow=False)
    return ShardedStore(directory, manifest.facts, files, directory, resident_scales)


def _open_files(paths: Sequence[str], resident_scales: bool) -> Backing:
    """Without a manifest, the headers of all files have to be read now."""
    from .shard_files import ShardFiles
    from .sharded import ShardedStore

    if not paths:
        raise FormatError("there are no files to open, expected at least one")
    shards, found, first = [], [], 0
    for path in paths:
        description = describe_file(path)
        shards.append(Shard(path, first, description.rows, description.content_id))
        found.append(description)
        first += description.rows
    facts = common_facts(found, shards)
    path = paths[0] if len(paths) == 1 else f"{paths[0]} … {os.path.basename(paths[-1])}"
    files = ShardFiles(shards, facts.dim, resident_scales, follow=True)
    return ShardedStore(path, facts, files, list(paths), resident_scales)


def describe_file(path: str, *, follow: bool = True) -> Description:
    """The checked header of a store's file; nothing else of it is read, and it is closed again."""
    fd = durable.open_regular(path, follow=follow)
    try:
        return inspect(fd, path)
    finally:
        os.close(fd)


def common_facts(found: Sequence[Facts], shards: Sequence[Shard]) -> Facts:
    """Facts of a store of these shards; FormatError if their columns differ."""
    from .manifest import sharded_content_id

    one = found[0]
    for other, shard in zip(found, shards, strict=True):
        if other.dim != one.dim:
            raise FormatError(
                f"{shard.path} has {other.dim} columns, expected {one.dim} as {shards[0].path} has"
            )
    facts = Facts(
        rows=sum(shard.rows for shard in shards),
        dim=one.dim,
        version=max(other.version for other in found),
        content_id=sharded_content_id(one.dim, shards),
        tensor=one.tensor,
        source_dtype=one.source_dtype,
    )
    kinds = {other.key_kind for other in found if other.rows} or {one.key_kind}
    same_tensor = all(other.tensor == one.tensor for other in found)
    same_dtype = all(other.source_dtype == one.source_dtype for other in found)
    return replace(
        facts,
        tensor=one.tensor if same_tensor else "",
        source_dtype=one.source_dtype if same_dtype else "",
        key_kind=kinds.pop() if len(kinds) == 1 else None,
    )
