"""Format v1: names, places and attributes, and the metadata of a store to be written.

``docs/format.md`` is the specification. h5py makes the metadata, through a sparse in-memory file object.
What is read is checked in :mod:`.inspection`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..system.extent import Extent

if TYPE_CHECKING:
    pass

__all__ = [
    "ALIGNMENT",
    "CODES_OFFSET",
    "DTYPE_LIMIT",
    "FIDELITY_NUMBERS",
    "FORMAT_VERSION",
    "FORMULA",
    "KEY_NAMES",
    "MOST_COLUMNS",
    "NAME_LIMIT",
    "NO_KEY",
    "NO_PARTS",
    "SIGNATURE",
    "SUPERBLOCK_SIZE",
    "TYPES",
    "Extent",
    "Facts",
    "KeyPart",
    "Parts",
    "Shard",
    "block_rows",
    "content_id",
    "fidelity_checksum",
    "fidelity_intact",
    "places",
    "sampled_rows",
    "shapes",
    "size_of",
    "version_of",
]

FORMAT_VERSION = (1, 1)
"""The newest version that is written; :func:`version_of` tells that of one store."""
FORMULA = "(codes - 128) * scales"
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK_SIZE = 48
ALIGNMENT = 4096
CODES_OFFSET = 12288
NAME_LIMIT = 2048
"""Longest tensor name in bytes of UTF-8: all attributes together stay below 3 KB."""
DTYPE_LIMIT = 64
"""Longest name of an element type in bytes."""

MOST_COLUMNS = 1 << 40
"""Without rows the file's size bounds nothing, and NumPy refuses shapes it cannot count in bytes."""

_BLOCK_CODES = 1 << 20
_SAMPLED_SHARE = 64

FIDELITY_NUMBERS = 45
"""Length of ``/fidelity``; :mod:`.fidelity` knows what they are."""

KEY_NAMES = {
    "text": ("hashes", "rows", "offsets", "bytes", "checksums"),
    "integer": ("ids", "sorted", "rows", "checksums"),
}
"""The datasets of the group ``/keys``, in the order they are made; the first one tells the kind of keys."""

NO_KEY = "\uffffno key"
"""The text that stands in ``/keys`` for a row that has no key. U+FFFF is no character: no word has it."""

TYPES = {
    "codes": "<u1",
    "scales": "<f8",
    "checksums": "<u4",
    "fidelity": "<f8",
    "keys/hashes": "<u8",
    "keys/rows": "<i8",
    "keys/offsets": "<i8",
    "keys/bytes": "<u1",
    "keys/ids": "<i8",
    "keys/sorted": "<i8",
    "keys/checksums": "<u4",
}
"""Element type of each dataset, in NumPy's words."""


class KeyPart(NamedTuple):
    """What the shapes of the key datasets follow from, besides the number of rows.

    Attributes
    ----------
    kind : {"text", "integer"}
    text_bytes : int
        Bytes of all texts together, in UTF-8; 0 for integers.
    """

    kind: Literal["text", "integer"]
    text_bytes: int


class Parts(NamedTuple):
    """What a store may have or not; None or False: it has not."""

    keys: KeyPart | None = None
    fidelity: bool = False


NO_PARTS = Parts()


class Facts(NamedTuple):
    """What a store says of itself.

    Attributes
    ----------
    rows, dim : int
        Shape of the matrix.
    version : tuple of int
        Major and minor version of the format.
    content_id : str
        32 hexadecimal digits.
    tensor, source_dtype : str
        What it was built from; empty if unknown.
    key_kind : {"text", "integer"} or None
        What the keys of the rows are, if they have any.
    extents : mapping of str to Extent
        Where the data of each dataset lies, if it is one file.
    """

    rows: int
    dim: int
    version: tuple[int, int]
    content_id: str
    tensor: str
    source_dtype: str
    key_kind: Literal["text", "integer"] | None = None
    extents: Mapping[str, Extent] = MappingProxyType({})


class Shard(NamedTuple):
    """One file of a store.

    Attributes
    ----------
    path : str
        Absolute path.
    first, rows : int
        Number of its first row in the whole store, and how many there are.
    content_id : str
        Of the file.
    """

    path: str
    first: int
    rows: int
    content_id: str

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints.

        Returns
        -------
        dict
            The attributes by name.
        """
        return self._asdict()


def block_rows(dim: int) -> int:
    """Rows of one checksum block."""
    return max(1, _BLOCK_CODES // dim)


def sampled_rows(dim: int) -> int:
    """How many rows of each checksum block, the first ones, have their errors measured for ``/fidelity``."""
    return max(1, block_rows(dim) // _SAMPLED_SHARE)


def block_count(rows: int, dim: int) -> int:
    """Number of checksum blocks."""
    return -(-rows // block_rows(dim))


def shapes(rows: int, dim: int, parts: Parts = NO_PARTS) -> dict[str, tuple[int, ...]]:
    """Shape of each dataset, in the order they are made. Members of a group are called ``group/name``."""
    found: dict[str, tuple[int, ...]] = {
        "codes": (rows, dim),
        "scales": (rows,),
        "checksums": (block_count(rows, dim), 2),
    }
    if parts.keys is not None:
        names = KEY_NAMES[parts.keys.kind]
        special = {"offsets": rows + 1, "bytes": parts.keys.text_bytes, "checksums": len(names) - 1}
        found |= {f"keys/{name}": (special.get(name, rows),) for name in names}
    if parts.fidelity:
        found["fidelity"] = (FIDELITY_NUMBERS,)
    return found


def size_of(name: str, shape: tuple[int, ...]) -> int:
    """Bytes of the data of a dataset."""
    return math.prod(shape) * int(TYPES[name][-1])


def places(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Extent]:
    """Where the data of each dataset lies: it follows from the shapes.

    Each dataset, and each group before its members, has its header at the next multiple of 4096; the data
    begins 4096 bytes behind the header. The offset of a dataset without data is 0.
    """
    found: dict[str, Extent] = {}
    position, group = CODES_OFFSET - ALIGNMENT, ""
    for name, shape in shapes.items():
        previous, group = group, name.rpartition("/")[0]
        if group and group != previous:
            position += ALIGNMENT
        data, size = position + ALIGNMENT, size_of(name, shape)
        found[name] = Extent(data if size else 0, size)
        position = -(-(data + size) // ALIGNMENT) * ALIGNMENT
    return found


def version_of(parts: Parts) -> tuple[int, int]:
    """The lowest version of the format that has these parts."""
    return (1, 0) if parts == NO_PARTS else FORMAT_VERSION


def content_id(
    rows: int, dim: int, checksums: NDArray[np.uint32], key_checksums: NDArray[np.uint32] | None = None
) -> str:
    """Identity of the content: 32 hexadecimal digits over shape and checksums, those of the keys included.

    The same matrix with the same keys gives the same id on every machine. It tells contents apart; it is no
    signature.
    """
    import hashlib  # loads OpenSSL: 4 ms that reading rows does not need

    digest = hashlib.sha256(b"qstore content 1\n" + struct.pack("<QQ", rows, dim))
    digest.update(np.ascontiguousarray(checksums, dtype="<u4").tobytes())
    if key_checksums is not None:
        digest.update(b"keys\n" + np.ascontiguousarray(key_checksums, dtype="<u4").tobytes())
    return digest.hexdigest()[:32]


def fidelity_checksum(numbers: NDArray[np.float64]) -> int:
    """The last number of ``/fidelity``: CRC-32 of those before it."""
    return zlib.crc32(numbers.astype("<f8").tobytes())


def fidelity_intact(numbers: NDArray[np.float64]) -> bool:
    """Whether the numbers of ``/fidelity`` agree with their checksum."""
    return fidelity_checksum(numbers[:-1]) == float(numbers[-1])
