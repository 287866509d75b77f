"""From what :func:`qstore.open` is given to the data behind it: a file, a directory, several files, a URL."""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

from .errors import FormatError, RemoteError
from .format.inspection import inspect_file
from .format.layout import Facts, Shard
from .keys.packed import KeyKind
from .reading.ahead import Ahead
from .reading.backing import Backing
from .reading.local_store import LocalStore
from .system import durable_files
from .system.options import flag, shown, whole_number
from .system.paging import usual_resident_bytes
from .system.urls import is_url, printable_url, without_file_scheme

__all__ = [
    "AHEAD_BYTES",
    "CACHE_BYTES",
    "RESIDENT_BYTES",
    "common_facts",
    "describe_file",
    "natural_order",
    "newer_backing",
    "open_backing",
    "open_local",
    "reopening",
]

AHEAD_BYTES = 512 << 20
"""What may be under way ahead of time, by default: pages of codes and scales of 65,536 rows."""

CACHE_BYTES = 64 << 20
"""Memory for rows of a remote store that were read lately, by default."""

RESIDENT_BYTES: Literal["auto"] = "auto"
"""What of the files of a store may stay mapped in this process, by default: :func:`.usual_resident_bytes`."""


def open_backing(
    what: Any,
    resident_scales: bool,
    storage_options: Mapping[str, Any] | None = None,
    cache_bytes: int = CACHE_BYTES,
    ahead_bytes: int = AHEAD_BYTES,
    resident_bytes: int | Literal["auto"] | None = RESIDENT_BYTES,
) -> Backing:
    """The data of a store: behind a URL, or as :func:`open_local` takes it; see :func:`qstore.open`.

    Raises
    ------
    FormatError, VersionError, ShardError
        It is not a valid store.
    MissingExtraError
        A URL needs libraries that are not installed.
    OSError
        It is not there or cannot be read.
    """
    resident_scales = flag("resident_scales", resident_scales)
    cache_bytes = whole_number("cache_bytes", cache_bytes, 0)
    ahead_bytes = whole_number("ahead_bytes", ahead_bytes, 0)
    automatic = isinstance(resident_bytes, str) and resident_bytes == RESIDENT_BYTES
    if resident_bytes is not None and not automatic:
        resident_bytes = whole_number("resident_bytes", resident_bytes, 0)
    if storage_options is not None and not isinstance(storage_options, Mapping):
        raise TypeError(f"storage_options are {shown(storage_options)}, expected a mapping")
    backing: Backing
    if is_url(what):
        from .remote import RemoteStore

        backing = RemoteStore(what, storage_options, cache_bytes, resident_scales)
        backing.found, backing.ahead = None, Ahead(ahead_bytes, backing.facts.dim + 8)
        return backing
    if storage_options:
        raise ValueError(
            f"storage_options are for URLs, and {what!r:.200} is none: expected a URL, or no options"
        )
    found = _looked_at(what)  # before: what comes while it is opened is newer
    backing = open_local(what, resident_scales, resident_bytes)
    pages = -(-backing.facts.dim // mmap.PAGESIZE) + (0 if resident_scales else 1)
    backing.found, backing.ahead = found, Ahead(ahead_bytes, pages * mmap.PAGESIZE)
    return backing


def reopening(backing: Backing) -> tuple[Any, dict[str, Any]]:
    """What ``open_backing(what, **options)`` takes to open this again."""
    what, options = backing.reopening()
    return what, {**options, "ahead_bytes": backing.ahead.most}


def newer_backing(backing: Backing) -> Backing | None:
    """What is now where `backing` was opened, opened; None if that is known to be the same.

    A file, a manifest or each of several files is looked at, by a `stat`; of a URL the content id is read.

    Raises
    ------
    FormatError, VersionError, ShardError, OSError
        As for :func:`open_backing`.
    """
    what, options = reopening(backing)
    if is_url(what):
        with closing(open_backing(what, **{**options, "resident_scales": False})) as now:
            if now.facts.content_id == backing.facts.content_id:
                return None
    elif _looked_at(what) == backing.found:
        return None
    return open_backing(what, **options)


def _looked_at(what: Any) -> tuple[Any, ...]:
    """What tells a file from another that comes in its place; of several, of each; empty where none is."""
    if isinstance(what, (list, tuple)):
        return tuple(map(_looked_at, what))
    try:
        status = os.stat(_local(what))
        if stat.S_ISDIR(status.st_mode):
            from .format.manifest import MANIFEST

            status = os.stat(os.path.join(_local(what), MANIFEST))
    except (OSError, ValueError):  # a pattern, or nothing: opening it tells
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open_local(
    what: Any, resident_scales: bool = False, resident_bytes: int | Literal["auto"] | None = RESIDENT_BYTES
) -> Backing:
    """The data of a store on this machine: a path, a pattern of paths, or a list of paths.

    Raises
    ------
    FormatError, VersionError, ShardError
        It is not a valid store.
    RemoteError
        A path is a URL.
    OSError
        It is not there or cannot be read.
    """
    if resident_bytes == RESIDENT_BYTES:
        resident_bytes = usual_resident_bytes()
    if isinstance(what, (list, tuple)):
        return _open_files([os.path.abspath(_local(path)) for path in what], resident_scales, resident_bytes)
    path = _local(what)
    if os.path.isdir(path):
        return _open_directory(os.path.abspath(path), resident_scales, resident_bytes)
    if not os.path.lexists(path) and _is_pattern(path):
        found = [os.path.abspath(one) for one in _matching(path)]
        return _open_files(found, resident_scales, resident_bytes)
    return LocalStore(os.path.abspath(path), resident_scales, resident=resident_bytes)


def _local(path: Any) -> str:
    if is_url(path):
        raise RemoteError(
            f"{printable_url(path)} is a URL, expected a file of this machine: stores behind URLs are opened "
            f"one by one; download it to join it with others"
        )
    return os.fsdecode(without_file_scheme(path))


def _is_pattern(path: str) -> bool:
    import glob  # only where there is no such file

    return glob.has_magic(path)


def _matching(pattern: str) -> list[str]:
    import glob

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


def _open_directory(directory: str, resident_scales: bool, resident_bytes: int | None) -> Backing:
    from .format.manifest import read_manifest
    from .reading.shard_files import ShardFiles, check_files
    from .reading.sharded_store import ShardedStore

    manifest = read_manifest(directory)
    check_files(directory, manifest)
    files = ShardFiles(manifest.shards, manifest.facts.dim, resident_scales, False, resident_bytes)
    return ShardedStore(directory, manifest.facts, files, directory, resident_scales)


def _open_files(paths: Sequence[str], resident_scales: bool, resident_bytes: int | None) -> Backing:
    """Without a manifest, the headers of all files have to be read now."""
    from .reading.shard_files import ShardFiles
    from .reading.sharded_store import ShardedStore

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
    files = ShardFiles(shards, facts.dim, resident_scales, True, resident_bytes)
    return ShardedStore(path, facts, files, list(paths), resident_scales, _different_kinds(found, shards))


def _different_kinds(found: Sequence[Facts], shards: Sequence[Shard]) -> dict[str, KeyKind | None]:
    """The first file with rows that has keys of each kind, or none, where there are several of these."""
    first: dict[KeyKind | None, str] = {}
    for other, shard in zip(found, shards, strict=True):
        if other.rows:
            first.setdefault(other.key_kind, shard.path)
    return {path: kind for kind, path in first.items()} if len(first) > 1 else {}


def describe_file(path: str, *, follow: bool = True) -> Facts:
    """The checked header of a store's file; nothing else of it is read, and it is closed again."""
    fd = durable_files.open_regular(path, follow=follow)
    try:
        return inspect_file(fd, path)
    finally:
        os.close(fd)


def common_facts(found: Sequence[Facts], shards: Sequence[Shard]) -> Facts:
    """Facts of a store of these shards; FormatError if their columns differ."""
    from .format.manifest import sharded_content_id

    one = found[0]
    for other, shard in zip(found, shards, strict=True):
        if other.dim != one.dim:
            raise FormatError(
                f"{shard.path} has {other.dim} columns, expected {one.dim} as {shards[0].path} has"
            )
    kinds = {other.key_kind for other in found if other.rows} or {one.key_kind}
    same_tensor = all(other.tensor == one.tensor for other in found)
    same_dtype = all(other.source_dtype == one.source_dtype for other in found)
    return Facts(
        rows=sum(shard.rows for shard in shards),
        dim=one.dim,
        version=max(other.version for other in found),
        content_id=sharded_content_id(one.dim, shards),
        tensor=one.tensor if same_tensor else "",
        source_dtype=one.source_dtype if same_dtype else "",
        key_kind=kinds.pop() if len(kinds) == 1 else None,
    )
