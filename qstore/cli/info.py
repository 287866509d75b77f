"""``qstore info``: what a store says about itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..reports.wording import fidelity_facts
from ..system.reported import Reported
from ..system.urls import is_url, printable_url, without_file_scheme
from .arguments import Command, add_json
from .printing import byte_size, counted_keys, print_facts
from .several_stores import add_stores, each_store

if TYPE_CHECKING:
    from ..format.fidelity import Fidelity
    from ..format.layout import Extent, Facts

__all__ = ["COMMAND", "StoreInfo"]

_DESCRIPTION = """\
Show shape, origin, sizes and data places of a store. The structure of the file is checked, the data is not
read: that is "qstore verify"."""

_EXAMPLES = """\
  qstore info words.h5
  qstore info tables/
  qstore info words.h5 --json"""


@dataclass(frozen=True, repr=False)
class StoreInfo(Reported):
    """Facts about a store.

    Attributes
    ----------
    path : str
    rows, dim : int
    tensor, source_dtype : str
        What it was built from; empty if unknown.
    format_version : str
    content_id : str
        32 hexadecimal digits that tell this content from any other.
    file_bytes, float32_bytes : int
        Size of the file, and of the matrix as float32.
    ratio : float
        The second by the first.
    key_kind : {"text", "integer"} or None
        What the keys of the rows are; None where they have none.
    unkeyed_rows : int or None
        Rows that have no key, where the others have one; None for a directory or a URL, whose keys would
        have to be read for it.
    datasets : dict
        Where the data of each dataset lies: offset and bytes. Empty for a directory.
    shards : int or None
        Number of files in a directory.
    fidelity : Fidelity or None
        Errors against the source, measured at the build on one row in 64; None for a directory.
    """

    path: str
    rows: int
    dim: int
    tensor: str
    source_dtype: str
    format_version: str
    content_id: str
    file_bytes: int
    float32_bytes: int
    ratio: float
    key_kind: str | None
    unkeyed_rows: int | None
    datasets: dict[str, dict[str, int]]
    shards: int | None
    fidelity: Fidelity | None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_stores(parser)
    add_json(parser)


def _run(arguments: argparse.Namespace) -> int:
    return each_store(arguments.files, _inspect, lambda found: print_facts(_facts(found)), arguments.json)


def _inspect(path: str) -> StoreInfo:
    from ..format.fidelity import fidelity_of
    from ..format.manifest import read_manifest
    from ..reading.local_store import LocalStore
    from ..reading.shard_files import check_files

    if is_url(path):
        from ..remote import inspect_url

        size, about, numbers = inspect_url(path)
        measured = None if numbers is None else fidelity_of(numbers, about.dim)
        return _info(printable_url(path), about, size, about.extents, fidelity=measured)
    place = os.path.abspath(without_file_scheme(path))
    if os.path.isdir(place):
        manifest = read_manifest(place)
        check_files(place, manifest)
        return _info(place, manifest.facts, sum(manifest.sizes), {}, shards=len(manifest.shards))
    with closing(LocalStore(place)) as store:
        about, held = store.facts, store.fidelity_numbers()
        numbers = held = None if held is None else held.copy()  # a view would keep the store from closing
        measured = None if numbers is None else fidelity_of(numbers, about.dim)
        unkeyed = store.key_index().unkeyed_rows() if about.key_kind else 0
        size = os.stat(place).st_size
        return _info(place, about, size, about.extents, fidelity=measured, unkeyed_rows=unkeyed)


def _info(
    path: str,
    about: Facts,
    file_bytes: int,
    extents: Mapping[str, Extent],
    *,
    shards: int | None = None,
    fidelity: Fidelity | None = None,
    unkeyed_rows: int | None = None,
) -> StoreInfo:
    float32_bytes = about.rows * about.dim * 4
    return StoreInfo(
        path=path,
        rows=about.rows,
        dim=about.dim,
        tensor=about.tensor,
        source_dtype=about.source_dtype,
        format_version=".".join(map(str, about.version)),
        content_id=about.content_id,
        file_bytes=file_bytes,
        float32_bytes=float32_bytes,
        ratio=float32_bytes / max(file_bytes, 1),
        key_kind=about.key_kind,
        unkeyed_rows=unkeyed_rows if about.key_kind == "text" else 0,
        datasets={name: {"offset": at.offset, "bytes": at.size} for name, at in extents.items()},
        shards=shards,
        fidelity=fidelity,
    )


def _facts(found: StoreInfo) -> list[tuple[str, object]]:
    size = f"{byte_size(found.file_bytes)} ({found.file_bytes:,} bytes)"
    return [
        ("store", found.path),
        ("shape", f"{found.rows:,} × {found.dim:,}"),
        ("tensor", found.tensor or "(no name)"),
        ("built from", found.source_dtype or "(unknown)"),
        ("format", f"qstore {found.format_version}"),
        ("keys", _keys(found)),
        ("content id", found.content_id),
        ("file" if found.shards is None else f"{found.shards:,} shards", size),
        ("as float32", f"{byte_size(found.float32_bytes)}, {found.ratio:.2f} times the file"),
        *((f"/{name}", f"{at['bytes']:,} bytes at {at['offset']:,}") for name, at in found.datasets.items()),
        *(_measured(found.fidelity, found.rows) if found.fidelity else ()),
    ]


def _keys(found: StoreInfo) -> str:
    if found.key_kind is None:
        return "(none)"
    unknown = "at most " if found.unkeyed_rows is None else ""
    return unknown + counted_keys(found.rows, found.unkeyed_rows or 0, found.key_kind)


def _measured(fidelity: Fidelity, rows: int) -> list[tuple[str, object]]:
    return [("measured", f"{fidelity.rows:,} of {rows:,} rows, at the build"), *fidelity_facts(fidelity)]


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
