"""The manifest of a sharded store: ``qstore.json``, which names the files of a directory in order.

``docs/format.md`` is the specification. A manifest is not to be trusted: whatever is not exactly as it should
be is a :class:`FormatError`.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

from ..errors import FormatError, VersionError
from ..format.layout import Shard
from ..system import durable_files
from ..system.stand_ins import pointer
from . import layout
from .layout import Facts

__all__ = [
    "MANIFEST",
    "MANIFEST_VERSION",
    "Manifest",
    "check_name",
    "read_manifest",
    "sharded_content_id",
]

MANIFEST = "qstore.json"
"""Its name in the directory."""

MANIFEST_VERSION = (1, 0)
_LONGEST = 64 << 20
_MOST_ROWS = 1 << 62
_CHECKSUM = re.compile(rb'"checksum": "([0-9a-f]{8})"')
_SHARD_MEMBERS = {"name": str, "rows": int, "bytes": int, "content_id": str}


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, checked.

    Attributes
    ----------
    facts : Facts
        Of the whole store; the version is the manifest's.
    shards : tuple of Shard
    sizes : tuple of int
        Bytes of each shard's file.
    """

    facts: Facts
    shards: tuple[Shard, ...]
    sizes: tuple[int, ...]

    def with_shards(self, shards: Sequence[Shard], sizes: Sequence[int]) -> Manifest:
        """The same store with these shards, whose `first` is put right."""
        firsts = accumulate((shard.rows for shard in shards), initial=0)
        placed = tuple(shard._replace(first=first) for shard, first in zip(shards, firsts, strict=False))
        facts = self.facts._replace(
            rows=sum(shard.rows for shard in placed),
            content_id=sharded_content_id(self.facts.dim, placed),
        )
        return Manifest(facts, placed, tuple(sizes))

    def encoded(self) -> bytes:
        """The file: JSON, a line a shard, with the CRC-32 of itself."""
        head = {
            "format": "qstore shards",
            "version": list(MANIFEST_VERSION),
            "checksum": "0" * 8,
            "dim": self.facts.dim,
            "rows": self.facts.rows,
            "content_id": self.facts.content_id,
            "tensor": self.facts.tensor,
            "source_dtype": self.facts.source_dtype,
            "keys": self.facts.key_kind,
        }
        members = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        lines = [
            "    " + json.dumps({**dict.fromkeys(_SHARD_MEMBERS), **self._entry(shard, size)})
            for shard, size in zip(self.shards, self.sizes, strict=True)
        ]
        listed = "[\n" + ",\n".join(lines) + "\n  ]" if lines else "[]"
        text = ("{\n" + ",\n".join([*members, f'  "shards": {listed}']) + "\n}\n").encode()
        return _CHECKSUM.sub(b'"checksum": "%08x"' % zlib.crc32(text), text, count=1)

    @staticmethod
    def _entry(shard: Shard, size: int) -> dict[str, Any]:
        name = os.path.basename(shard.path)
        return {"name": name, "rows": shard.rows, "bytes": size, "content_id": shard.content_id}


def sharded_content_id(dim: int, shards: Sequence[Shard]) -> str:
    """Identity of the content: 32 hexadecimal digits over the columns and the rows and id of each shard.

    Where the cuts are is part of it: one file of the same rows has another id.
    """
    import hashlib  # 4 ms, as in layout

    digest = hashlib.sha256(b"qstore shards 1\n" + struct.pack("<QQ", dim, len(shards)))
    for shard in shards:
        digest.update(struct.pack("<Q", shard.rows) + bytes.fromhex(shard.content_id))
    return digest.hexdigest()[:32]


def read_manifest(directory: str) -> Manifest:
    """Read and check the manifest of a directory.

    Raises
    ------
    FormatError, VersionError
        There is none, or it is not exactly as it should be.
    OSError
        It cannot be read.
    """
    path = os.path.join(directory, MANIFEST)
    try:
        return _checked(_read(path), directory)
    except FormatError as error:
        raise type(error)(f"{path}: {error}") from None


def _read(path: str) -> bytes:
    try:
        fd = durable_files.open_regular(path, follow=False)
    except FileNotFoundError:
        names = sorted(name for name in os.listdir(os.path.dirname(path)) if name.endswith(".h5"))
        one = f"open one of its {len(names)} files ending in .h5, such as {names[0]!r:.80}; " if names else ""
        raise FormatError(
            f"there is no manifest, expected one in the directory of a sharded store; {one}where they are "
            f"parts of one matrix, qstore.publish_shards(directory) (qstore append DIR) makes a manifest"
        ) from None
    try:
        size = os.fstat(fd).st_size
        if size > _LONGEST:
            raise FormatError(f"the manifest has {size} bytes, expected at most {_LONGEST}")
        return durable_files.read_exactly(fd, size, 0)
    finally:
        os.close(fd)


def _checked(text: bytes, directory: str) -> Manifest:
    found = _parsed(text)
    if found.get("format") != "qstore shards":
        raise FormatError(f'"format" is {found.get("format")!r:.80}, expected "qstore shards"')
    version = _version(found)
    _check_checksum(text)
    dim, rows = _member(found, "dim", int), _member(found, "rows", int)
    if not 1 <= dim <= layout.MOST_COLUMNS:
        raise FormatError(f'"dim" is {dim}, expected 1 to {layout.MOST_COLUMNS}')
    listed = _member(found, "shards", list)
    shards = [_shard(entry, directory) for entry in listed]
    _check_names(shards)
    facts = Facts(
        rows=rows,
        dim=dim,
        version=version,
        content_id=_member(found, "content_id", str),
        tensor=_text(found, "tensor", layout.NAME_LIMIT),
        source_dtype=_text(found, "source_dtype", layout.DTYPE_LIMIT),
        key_kind=_key_kind(found),
    )
    if sum(shard.rows for shard in shards) > _MOST_ROWS:
        raise FormatError(f"the shards have more than {_MOST_ROWS:,} rows")
    manifest = Manifest(facts, (), ()).with_shards(shards, [entry["bytes"] for entry in listed])
    if manifest.facts.rows != rows:
        raise FormatError(f'"rows" is {rows}, but the shards have {manifest.facts.rows}')
    if manifest.facts.content_id != facts.content_id:
        raise FormatError('"content_id" does not belong to the shards')
    return manifest


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        other = pointer(text)
        reason = (
            f"expected JSON, found something else: {error!s:.200}" if other is None else f"this is {other}"
        )
        raise FormatError(reason) from None
    if not isinstance(found, dict):
        raise FormatError(f"expected a JSON object, found {type(found).__name__}")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError(f"a name stands twice among {', '.join(name for name, _ in pairs):.100}")
    return members


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _version(found: dict[str, Any]) -> tuple[int, int]:
    version = _member(found, "version", list)
    if len(version) != 2 or any(type(number) is not int or number < 0 for number in version):
        raise FormatError(f'"version" is {version!r:.80}, expected two whole numbers')
    major, minor = version
    if major > MANIFEST_VERSION[0]:
        raise VersionError(
            f"manifest version {major}.{minor} is newer than this library reads: upgrade qstore"
        )
    if major < MANIFEST_VERSION[0]:
        raise FormatError(f"manifest version {major}.{minor} was never published")
    return major, minor


def _check_checksum(text: bytes) -> None:
    found = _CHECKSUM.search(text)
    if found is None:
        raise FormatError('there is no "checksum" of eight hexadecimal digits')
    zeroed = text[: found.start(1)] + b"0" * 8 + text[found.end(1) :]
    if b"%08x" % zlib.crc32(zeroed) != found.group(1):
        raise FormatError("the checksum does not agree: the manifest was damaged or edited")


def _member(found: dict[str, Any], name: str, kind: type) -> Any:
    value = found.get(name)
    if type(value) is not kind:  # not isinstance: True is no number of rows
        raise FormatError(f'"{name}" is {value!r:.80}, expected {kind.__name__}')
    return value


def _text(found: dict[str, Any], name: str, limit: int) -> str:
    text: str = _member(found, name, str)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise FormatError(f'"{name}" is no text') from None
    if size > limit:
        raise FormatError(f'"{name}" has {size} bytes, expected at most {limit}')
    return text


def _key_kind(found: dict[str, Any]) -> Literal["text", "integer"] | None:
    kind: Any = found.get("keys")
    if kind not in (None, "text", "integer"):
        raise FormatError(f'"keys" is {kind!r:.80}, expected "text", "integer" or null')
    return None if kind is None else "text" if kind == "text" else "integer"


def _shard(entry: Any, directory: str) -> Shard:
    if not isinstance(entry, dict):
        raise FormatError(f"a shard is {entry!r:.80}, expected an object")
    name, rows, size, content_id = (_member(entry, key, kind) for key, kind in _SHARD_MEMBERS.items())
    check_name(name)
    if not (0 <= rows <= _MOST_ROWS and 0 <= size <= _MOST_ROWS):
        raise FormatError(f"shard {name} has {rows:,} rows and {size} bytes, which cannot be")
    if not re.fullmatch("[0-9a-f]{32}", content_id):
        raise FormatError(f'the "content_id" of shard {name} is not 32 hexadecimal digits')
    return Shard(os.path.join(directory, name), 0, rows, content_id)


def check_name(name: str) -> None:
    """FormatError unless `name` is the plain name of a file in the same directory."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        size = 0
    plain = not name.startswith(".") and not set(name) & set("/\\\0") and name != MANIFEST
    if not plain or not 1 <= size <= 255:
        raise FormatError(f"{name!r:.300} cannot be the name of a shard: expected that of a plain file")


def _check_names(shards: Sequence[Shard]) -> None:
    names = sorted(shard.path for shard in shards)
    for one, after in pairwise(names):
        if one == after:
            raise FormatError(f"shard {Path(one).name} stands twice")
