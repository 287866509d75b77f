"""What the pickle of a torch checkpoint holds, by name: tensors, and objects of other programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import SourceError
from ..checks import shortened
from .pickle_rebuilders import NAMES, storage_of
from .restricted_pickle import Opaque, Pairs, read_pickle
from .types import OpaqueTensor, Tensor

__all__ = ["Found", "read_tensors"]

Found = Tensor | OpaqueTensor | Opaque

_NAMED = frozenset({Tensor, OpaqueTensor, Opaque, Pairs, list, tuple})
_MOST_DEEP = 100
_MOST_VALUES = 8_000_000
_MOST_NAMES = 200_000
_LONGEST_NAMES = 64 << 20
# Opaque objects can be as many as the values of a log. More are passed over.
_MOST_OPAQUE = 1_000


def read_tensors(data: bytes) -> dict[str, Found]:
    """Tensors of a checkpoint by name, and the first 1000 opaque objects.

    The keys of nested containers are joined by dots. A key that is neither text nor a number, such as a
    tuple, counts by its place.

    Raises
    ------
    SourceError
        The pickle is malformed or too large, or a tensor leaves its storage.
    """
    found: dict[str, Found] = {}
    for name, value in _named(read_pickle(data, NAMES, storage_of)):
        other = found.get(name)
        if other is None or isinstance(other, Opaque):
            found[name] = value
        elif not isinstance(value, Opaque):
            raise SourceError(f"the name {shortened(repr(name))} stands for two tensors")
    return found


def _named(root: Any) -> Iterator[tuple[str, Found]]:
    # The same container may stand in many places: ten lists of ten times the one before are 10^10 names.
    values = names = letters = opaque = 0
    waiting: list[tuple[str, int, Any]] = [("", 0, root)]
    while waiting:
        name, depth, value = waiting.pop()
        if isinstance(value, Found):
            yield name, value
            continue
        members = value.items if isinstance(value, Pairs) else value
        if not isinstance(members, (list, tuple)):
            continue
        values += len(members)
        if depth == _MOST_DEEP or values > _MOST_VALUES:
            raise _too_much(f"{_MOST_DEEP} levels and {_MOST_VALUES} values")
        pairs = members if isinstance(value, Pairs) else enumerate(members)
        for place, (key, member) in enumerate(pairs):
            if type(member) is Opaque:
                opaque += 1
                if opaque > _MOST_OPAQUE:
                    continue
            if type(member) in _NAMED:
                longer = _joined(name, key, place)
                names, letters = names + 1, letters + len(longer)
                if names > _MOST_NAMES or letters > _LONGEST_NAMES:
                    raise _too_much(f"{_MOST_NAMES} names of {_LONGEST_NAMES} characters together")
                waiting.append((longer, depth + 1, member))


def _too_much(expected: str) -> SourceError:
    return SourceError(f"it holds containers in containers: expected at most {expected}, found more")


def _joined(name: str, key: Any, place: int) -> str:
    if isinstance(key, (str, int, float, type(None))):
        return f"{name}.{key}" if name else str(key)
    if isinstance(key, (list, Pairs)):
        raise SourceError(f"a tensor has a {type(key).__name__} for a name: expected text or a number")
    # The text of other keys, tuples for instance, could be endless.
    return _joined(name, f"<key {place}>", place)
