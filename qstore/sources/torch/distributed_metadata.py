"""The `.metadata` of a distributed checkpoint: which tensors there are, and where their pieces lie.

It is a pickle of classes of torch's (torch/distributed/checkpoint/metadata.py, filesystem.py). The restricted
reader gives the attributes of their objects, and makes nothing of any other class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from ...errors import SourceError
from ..checks import shortened
from ..containers.checkpoint_index import is_plain_name
from ..files import RawFile
from .pickle_rebuilders import NAMES
from .restricted_pickle import Opaque, Pairs, PickleRefused, Record, RecordType, read_pickle
from .types import DTYPES

__all__ = ["Piece", "Place", "Saved", "read_metadata"]

_MODULE = "torch.distributed.checkpoint"
_TENSOR, _BYTES = "TensorStorageMetadata", "BytesStorageMetadata"
_NAMES: dict[tuple[str, str], Any] = {
    **{
        (f"{_MODULE}.metadata", name): RecordType(name)
        for name in (
            "Metadata",
            _TENSOR,
            _BYTES,
            "TensorProperties",
            "ChunkStorageMetadata",
            "MetadataIndex",
        )
    },
    # Where it stood before torch 2.3.
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"): RecordType("TensorProperties"),
    (f"{_MODULE}.filesystem", "_StorageInfo"): RecordType("_StorageInfo"),
    **{key: NAMES[key] for key in (("torch", "Size"), ("torch.serialization", "_get_layout"))},
    **{("torch", name): name for name in DTYPES},
}

_LONGEST = 100_000_000
# A piece takes about 90 steps: 170,000 of them.
_MOST_STEPS = 16_000_000
_MOST_PIECES = 1 << 18
_MOST_ATTRIBUTES = 16
_MOST_DIMENSIONS = 64
_LARGEST = 1 << 63

Offsets = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where an item lies.

    Attributes
    ----------
    file : str
        Name of a file beside `.metadata`.
    begin, size : int
        In bytes.
    packed : str
        What the item was packed with; "" where it is as torch.save writes it.
    """

    file: str
    begin: int
    size: int
    packed: str


@dataclass(frozen=True)
class Piece:
    """A part of a tensor.

    Attributes
    ----------
    offsets, sizes : tuple of int
    place : Place or None
        None: nothing is said of where.
    """

    offsets: Offsets
    sizes: Offsets
    place: Place | None


@dataclass(frozen=True)
class Saved:
    """What goes by one name.

    Attributes
    ----------
    dtype : str
        Name in torch; "" for an object that is no tensor.
    shape : tuple of int
    pieces : tuple of Piece
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


def read_metadata(file: RawFile) -> dict[str, Saved]:
    """What a `.metadata` file says was saved, by name. All is checked but the files that it names.

    Raises
    ------
    SourceError
        It is malformed or too large, two items lie in the same bytes, or a name or place stands twice.
    """
    if file.size > _LONGEST:
        raise SourceError(f"{file.path}: expected at most {_LONGEST} bytes, found {file.size}")
    data = file.read_bytes(0, file.size)
    try:
        root = read_pickle(data, _NAMES, _refuse_storages, _MOST_STEPS)
        return _saved(root)
    except PickleRefused as error:
        raise SourceError(
            f"{file.path} cannot be read: {error}; nothing of it was run; get it again"
        ) from error
    except SourceError as error:
        raise SourceError(f"{file.path}: {error}") from error


def _refuse_storages(key: Any) -> NoReturn:
    raise PickleRefused("its pickle has a persistent id: expected none, the tensors lie in other files")


def _saved(root: Any) -> dict[str, Saved]:
    attributes = _attributes(root, "Metadata")
    places = _places(attributes.get("storage_data"))
    saved: dict[str, Saved] = {}
    pieces = 0
    for name, found in _pairs(attributes.get("state_dict_metadata"), "names and tensors"):
        if not isinstance(name, str) or name in saved:
            raise SourceError(f"expected names that stand once each, found {_shown(name)}")
        if isinstance(found, Record) and found.name == _BYTES:
            saved[name] = Saved("", (), ())
            continue
        tensor = _attributes(found, _TENSOR)
        chunks = tensor.get("chunks")
        if not isinstance(chunks, list):
            raise _unexpected("a list of pieces", chunks)
        pieces += len(chunks)
        if pieces > _MOST_PIECES:
            raise SourceError(f"expected at most {_MOST_PIECES} pieces of tensors, found more")
        shape = _sizes(tensor.get("size"))
        where = f"tensor {shortened(repr(name))}"
        cut = tuple(_piece(where, name, shape, chunk, places) for chunk in chunks)
        saved[name] = Saved(_dtype(tensor.get("properties")), shape, cut)
    return saved


def _piece(
    where: str, name: str, shape: Offsets, chunk: Any, places: dict[tuple[str, Offsets | None], Place]
) -> Piece:
    attributes = _attributes(chunk, "ChunkStorageMetadata")
    offsets, sizes = _sizes(attributes.get("offsets")), _sizes(attributes.get("sizes"))
    inside = len(offsets) == len(sizes) == len(shape) and all(
        offset + size <= length for offset, size, length in zip(offsets, sizes, shape, strict=True)
    )
    if not inside:
        raise SourceError(
            f"{where} of shape {shape} expected pieces inside of it, found one of shape {sizes} at {offsets}"
        )
    return Piece(offsets, sizes, places.get((name, offsets)))


def _places(found: Any) -> dict[tuple[str, Offsets | None], Place]:
    places: dict[tuple[str, Offsets | None], Place] = {}
    for index, info in _pairs(found, "places of items"):
        key = _attributes(index, "MetadataIndex")
        name, offsets = key.get("fqn"), key.get("offset")
        if not isinstance(name, str):
            raise _unexpected("the name of an item", name)
        one = name, None if offsets is None else _sizes(offsets)
        if one in places:
            raise SourceError(f"expected one place for each piece of {_shown(name)}, found two for {one[1]}")
        places[one] = _place(name, _attributes(info, "_StorageInfo"))
    _check_apart(places.values())
    return places


def _place(name: str, info: dict[str, Any]) -> Place:
    file, begin, size = info.get("relative_path"), info.get("offset"), info.get("length")
    if not is_plain_name(file):
        raise SourceError(f"{_shown(name)} expected the plain name of a file beside it, found {_shown(file)}")
    if not _is_size(begin) or not _is_size(size):
        raise SourceError(
            f"{_shown(name)} expected a position and a length, found {_shown(begin)}, {_shown(size)}"
        )
    packed = info.get("transform_descriptors")
    if not isinstance(packed, (list, tuple, type(None))):
        raise _unexpected("a list of what an item was packed with", packed)
    first = packed[0] if packed else ""
    return Place(file, begin, size, first if isinstance(first, str) else "?")


def _check_apart(places: Iterable[Place]) -> None:
    before: Place | None = None
    for place in sorted(places, key=lambda one: (one.file, one.begin, one.size)):
        if before and before.file == place.file and before.begin + before.size > place.begin:
            raise SourceError(
                f"expected items of {shortened(place.file)} one behind the other, found one from byte "
                f"{place.begin} on, before the end of another at {before.begin + before.size}"
            )
        before = place


def _dtype(properties: Any) -> str:
    if not isinstance(properties, Record) or properties.name != "TensorProperties":
        raise _unexpected("the properties of a tensor", properties)
    state = properties.state
    found = state[0] if type(state) is tuple and state else None
    if isinstance(found, Opaque):
        return f"opaque ({found.name})"
    if not isinstance(found, str) or found not in DTYPES:
        raise _unexpected("a type of torch", found)
    return found


def _attributes(found: Any, name: str) -> dict[str, Any]:
    """Attributes of an object of this class, by name."""
    if not isinstance(found, Record) or found.name != name:
        raise _unexpected(f"torch's {name}", found)
    if found.state is None:
        return {}
    items = _pairs(found.state, f"attributes of {name}")
    if len(items) > _MOST_ATTRIBUTES:
        raise SourceError(f"expected at most {_MOST_ATTRIBUTES} attributes of {name}, found {len(items)}")
    return {key: value for key, value in items if isinstance(key, str)}


def _pairs(found: Any, what: str) -> list[tuple[Any, Any]]:
    if not isinstance(found, Pairs):
        raise _unexpected(what, found)
    return found.items


def _sizes(found: Any) -> Offsets:
    if type(found) is tuple and len(found) <= _MOST_DIMENSIONS and all(map(_is_size, found)):
        return found
    raise _unexpected("a shape or a place in one", found)


def _is_size(found: Any) -> TypeGuard[int]:
    return type(found) is int and 0 <= found < _LARGEST


def _unexpected(expected: str, found: Any) -> SourceError:
    name = found.name if isinstance(found, (Record, Opaque)) else type(found).__name__
    return SourceError(f"expected {expected}, found {shortened(name)}")


def _shown(found: Any) -> str:
    """A text or a number as it is, of anything else its type: values can be nested a million deep."""
    if isinstance(found, (str, int)) and not (isinstance(found, int) and abs(found) >= _LARGEST << 1):
        return shortened(repr(found))
    return type(found).__name__
