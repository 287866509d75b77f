"""Several finished stores made one: the manifest of a directory, published and extended atomically."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import ExistsError, FormatError, OutputError, SourceError
from ..format.layout import Facts, Shard
from ..format.manifest import MANIFEST, Manifest, check_name, read_manifest
from ..keys.equal_keys import check_duplicates, refused
from ..keys.packed import KeyKind, said
from ..keys.repeats import find_repeats
from ..opening import common_facts, describe_file, natural_order
from ..reading.shard_files import ShardFiles, check_shard
from ..system import durable_files
from ..system.messages import tell
from ..system.options import shown, without
from ..writing.output_paths import check_output

__all__ = ["append_shards", "other_kind", "publish_shards"]

Duplicates = Literal["error", "first"]

_WITHOUT = "build it again with such keys, or leave all keys out with keys=False (--no-keys)"


def publish_shards(
    directory: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    *,
    keys: Literal[False] | None = None,
    duplicates: Duplicates = "error",
    overwrite: bool = False,
) -> tuple[Shard, ...]:
    """Make finished stores in a directory one store, by publishing a manifest of them.

    Only their headers are read, and of keys what tells equal ones: 8 bytes a row. The manifest appears whole
    or not at all, and is durable: readers see the directory as it was or as it is now. Any number of
    processes may have written the stores.

    Parameters
    ----------
    directory : path-like
        Where the stores are.
    names : sequence of str, optional
        Their file names, in the order of their rows; by default all ``*.h5``, in natural order (``part-9``
        before ``part-10``).
    keys : False, optional
        Rows are found by their numbers only, whatever keys the stores have.
    duplicates : {"error", "first"}
        What to do where two rows, of whichever stores, have the same key: publish nothing; or do not look for
        such, and let the key stand for the first of them.
    overwrite : bool
        Replace a manifest that says something else. One that says the same is left as it is.

    Returns
    -------
    tuple of Shard

    Raises
    ------
    FormatError
        A file is not a finished store, a name is not that of a file in the directory, columns differ, or some
        stores have keys and others none or of another kind.
    SourceError
        Two rows have the same key.
    ExistsError, OutputError
        There is another manifest, or it cannot be written.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for number in range(3):
    ...     _ = qstore.build(np.eye(4, 2) + number, os.path.join(folder, f"part-{number}.h5"))
    >>> [(shard.first, shard.rows) for shard in qstore.publish_shards(folder)]
    [(0, 4), (4, 4), (8, 4)]
    >>> qstore.open(folder).shape
    (12, 2)
    """
    unique, unkeyed = check_duplicates(duplicates), without("keys", keys)
    place = Path(os.path.abspath(directory))
    target = place / MANIFEST
    with durable_files.output_errors(target), durable_files.alone_in(place):
        found = _described(place, _all_names(place) if names is None else names)
        manifest = _manifest_of(place, found, keyed=not unkeyed)
        if unique:
            _check_unique(manifest)
        if not _says(place, manifest):
            check_output(target, overwrite)
            _write(target, manifest)
            tell(f"{place}: published as {len(manifest.shards):,} shards")
    return manifest.shards


def append_shards(
    directory: str | os.PathLike[str],
    names: Iterable[str],
    *,
    keys: Literal[False] | None = None,
    duplicates: Duplicates = "error",
) -> tuple[Shard, ...]:
    """Add finished stores of the same directory behind the shards that its manifest has.

    As :func:`publish_shards`: readers see the old manifest or the new one. Of several processes that append
    at the same time one comes after the other, and none is lost.

    Parameters
    ----------
    directory : path-like
        Where the manifest and the stores are.
    names : iterable of str
        File names of the stores to add, in the order of their rows.
    keys : False, optional
        Where the manifest has no keys, these may have some, which are not looked at.
    duplicates : {"error", "first"}
        As for :func:`publish_shards`: of all shards, the new ones and those that are there.

    Returns
    -------
    tuple of Shard
        All of them, the old ones first.

    Raises
    ------
    FormatError
        There is no good manifest, a file is not a finished store, is in it already, or has other columns or
        keys of another kind.
    SourceError
        Two rows have the same key.
    OutputError
        A file is not there, or the manifest cannot be written.
    TypeError
        One name instead of several.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> for number in range(2):
    ...     _ = qstore.build(np.eye(4, 2) + number, os.path.join(folder, f"part-{number}.h5"))
    >>> _ = qstore.publish_shards(folder, ["part-0.h5"])
    >>> [(shard.first, shard.rows) for shard in qstore.append_shards(folder, ["part-1.h5"])]
    [(0, 4), (4, 4)]
    """
    unique, unkeyed = check_duplicates(duplicates), without("keys", keys)
    place = Path(os.path.abspath(directory))
    target = place / MANIFEST
    with durable_files.output_errors(target), durable_files.alone_in(place):
        manifest = read_manifest(str(place))
        added = _described(place, names)
        known = {shard.path for shard in manifest.shards}
        for shard, _, found in added:
            check_shard(shard, manifest.facts.dim, found)
            if shard.path in known:
                raise FormatError(f"{shard.path} is a shard already")
            kind = manifest.facts.key_kind
            if found.rows and found.key_kind != kind and (not unkeyed or kind is not None):
                way = "leave them out with keys=False (--no-keys)"
                other = "build it again with such keys, or join all without: qstore.concat(…, keys=False)"
                before = f"the shards of {place} have"
                raise other_kind(shard.path, found.key_kind, kind, before, other if kind else way)
        shards = [*manifest.shards, *(shard for shard, _, _ in added)]
        grown = manifest.with_shards(shards, [*manifest.sizes, *(size for _, size, _ in added)])
        if unique:
            _check_unique(grown)
        _write(target, grown)
        tell(f"{place}: published as {len(grown.shards):,} shards, {len(added):,} of them new")
    return grown.shards


def other_kind(
    path: str, kind: KeyKind | None, expected: KeyKind | None, before: str, remedy: str = _WITHOUT
) -> FormatError:
    """What to raise where a store has other keys than those before it that it is to be one with."""
    return FormatError(f"{path} has {said(kind)}, expected {said(expected)} as {before}: {remedy}")


def _check_unique(manifest: Manifest) -> None:
    """SourceError where two rows have the same key. The files are not closed, but let go of."""
    if manifest.facts.key_kind is None:
        return
    files = ShardFiles(manifest.shards, manifest.facts.dim, resident_scales=False, follow=False)
    for repeat in find_repeats(manifest.facts.key_kind, files.key_parts()):
        raise refused(repeat)


_Found = tuple[Shard, int, Facts]


def _all_names(place: Path) -> list[str]:
    names = sorted((name for name in os.listdir(place) if name.endswith(".h5")), key=natural_order)
    if not names:
        raise SourceError(f"{place} holds no *.h5 to publish; name the files, or build some")
    return names


def _described(place: Path, names: Iterable[str]) -> list[_Found]:
    listed: list[Any]
    try:
        listed = [names] if isinstance(names, (str, bytes)) else list(names)
    except (TypeError, NotImplementedError, RuntimeError):
        listed = [None]
    if isinstance(names, (str, bytes)) or not all(isinstance(name, (str, os.PathLike)) for name in listed):
        raise TypeError(f"names is {shown(names)}, expected a list of file names")
    files = [os.fspath(name) for name in listed]
    twice = [name for name, count in Counter(files).items() if count > 1]
    if twice:
        raise FormatError(f"shard {twice[0]} stands twice")
    return [_describe(place, name) for name in files]


def _describe(place: Path, name: str) -> _Found:
    check_name(name)
    path = place / name
    try:
        found = describe_file(str(path), follow=False)
    except OSError as error:
        reason = "a link, expected a file" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(error.errno, f"cannot publish {path}: {reason}", str(path)) from None
    return Shard(str(path), 0, found.rows, found.content_id), os.stat(path).st_size, found


def _manifest_of(place: Path, found: Sequence[_Found], keyed: bool) -> Manifest:
    if not found:
        raise SourceError(f"there are no shards to publish in {place}: name at least one")
    shards = [shard for shard, _, _ in found]
    facts = common_facts([description for _, _, description in found], shards)
    with_rows = [(shard.path, description.key_kind) for shard, _, description in found if description.rows]
    for path, kind in with_rows if keyed else ():
        if kind != with_rows[0][1]:
            raise other_kind(path, kind, with_rows[0][1], f"{with_rows[0][0]} has")
    if not keyed:
        facts = facts._replace(key_kind=None)
    return Manifest(facts, (), ()).with_shards(shards, [size for _, size, _ in found])


def _says(place: Path, manifest: Manifest) -> bool:
    """Whether the manifest that is there, if any, is this one."""
    try:
        return (place / MANIFEST).read_bytes() == manifest.encoded()
    except FileNotFoundError:
        return False


def _write(target: Path, manifest: Manifest) -> None:
    # The lock is held: what other writers left behind when they were killed is nobody's.
    for left in target.parent.glob(f"{MANIFEST}.*.tmp"):
        durable_files.free_path(left)
    if target.is_symlink():
        raise ExistsError(errno.EEXIST, f"{target} is a link, expected a manifest; remove it", str(target))
    with durable_files.atomic_output(target) as file:
        file.write(manifest.encoded())
