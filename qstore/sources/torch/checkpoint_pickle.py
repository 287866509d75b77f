"""What the pickle of a torch checkpoint holds, by name: tensors, and objects of other programs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import SourceError
from ..checks import shortened
from .pickle_rebuilders import NAMES, storage_of
from .restricted_pickle import Opaque, Pairs, read_pickle
from .types import OpaqueTensor, Tensor

__all__ = ["Found", "read_tensors"]

Found = Tensor | OpaqueTensor | Opaque

_TENSORS = frozenset({Tensor, OpaqueTensor})
_OPAQUE = frozenset({Opaque})
_CONTAINERS = frozenset({Pairs, list, tuple})
_MOST_DEEP = 100
_MOST_NAMES = 200_000
_LONGEST_NAMES = 64 << 20
# Opaque objects can be as many as the values of a log. More are passed over.
_MOST_OPAQUE = 1_000


def read_tensors(data: bytes) -> dict[str, Found]:
    """Tensors of a checkpoint by name, and the first 1000 opaque objects.

    The keys of nested containers are joined by dots. A key that is neither text nor a number, such as a
    tuple, counts by its place. A container that holds itself, or lies more than 100 deep, is opaque.

    Raises
    ------
    SourceError
        The pickle is malformed or too large, has too many names for its tensors, or a tensor leaves its
        storage.
    """
    root = read_pickle(data, NAMES, storage_of)
    found: dict[str, Found] = {}
    for name, value in _named(root, _TENSORS):
        other = found.get(name)
        if other is None or isinstance(other, Opaque):
            found[name] = value
        elif not isinstance(value, Opaque):
            raise SourceError(f"the name {shortened(repr(name))} stands for two tensors")
    with contextlib.suppress(_TooMuch):
        for name, value in itertools.islice(_named(root, _OPAQUE), _MOST_OPAQUE):
            found.setdefault(name, value)
    return found


class _TooMuch(SourceError):
    """There are more names than are listed."""


class _Branch(NamedTuple):
    """A container on the way to a value."""

    container: Any
    above: _Branch | None

    def holds(self, container: Any) -> bool:
        """Whether the way leads through it."""
        branch: _Branch | None = self
        while branch is not None:
            if branch.container is container:
                return True
            branch = branch.above
        return False


def _named(root: Any, kinds: frozenset[type]) -> Iterator[tuple[str, Found]]:
    """Values of these kinds with their names; opaque in the place of containers that are not gone into."""
    if type(root) in kinds:
        yield "", root
    # The same container may stand in many places: ten lists of ten times the one before are 10^10 names.
    names = letters = 0
    leading = _leading_to(root, kinds)
    waiting: list[tuple[str, int, _Branch]] = []
    if id(root) in leading:
        waiting.append(("", 1, _Branch(root, None)))
    while waiting:
        name, depth, branch = waiting.pop()
        for place, key, member in leading[id(branch.container)]:
            longer = _joined(name, key, place)
            names, letters = names + 1, letters + len(longer)
            if names > _MOST_NAMES or letters > _LONGEST_NAMES:
                raise _TooMuch(
                    f"it holds containers in containers: expected at most {_MOST_NAMES} names of "
                    f"{_LONGEST_NAMES} characters together, found more"
                )
            if type(member) in kinds:
                yield longer, member
            elif branch.holds(member):
                yield longer, Opaque("a container that holds itself")
            elif depth == _MOST_DEEP:
                yield longer, Opaque(f"a container more than {_MOST_DEEP} deep")
            else:
                waiting.append((longer, depth + 1, _Branch(member, branch)))


_Members = list[tuple[int, Any, Any]]
"""Members of a container that matter: place, key and value."""


def _leading_to(root: Any, kinds: frozenset[type]) -> dict[int, _Members]:
    """Containers below `root` that lead to values of these kinds, by their `id`. Each is looked at once."""
    looked_at: dict[int, _Members] = {}
    above: dict[int, list[int]] = {}
    found: list[int] = []
    waiting = [root] if type(root) in _CONTAINERS else []
    seen = set(map(id, waiting))
    while waiting:
        container = waiting.pop()
        number, members = id(container), _members(container, kinds)
        if not members:
            continue
        looked_at[number] = members
        if any(type(member) in kinds for _, _, member in members):
            found.append(number)
        for _, _, member in members:
            if type(member) in _CONTAINERS:
                above.setdefault(id(member), []).append(number)
                if id(member) not in seen:
                    seen.add(id(member))
                    waiting.append(member)
    leading = set(found)
    while found:
        more = set(above.get(found.pop(), ())) - leading
        leading |= more
        found += more
    return {
        number: [one for one in looked_at[number] if type(one[2]) in kinds or id(one[2]) in leading]
        for number in leading
    }


def _members(container: Any, kinds: frozenset[type]) -> _Members:
    pairs = container.items if isinstance(container, Pairs) else enumerate(container)
    return [
        (place, key, member)
        for place, (key, member) in enumerate(pairs)
        if type(member) in kinds or (type(member) in _CONTAINERS and _is_filled(member))
    ]


def _is_filled(container: Any) -> bool:
    return bool(container.items if isinstance(container, Pairs) else container)


def _joined(name: str, key: Any, place: int) -> str:
    if isinstance(key, (str, int, float, type(None))):
        return f"{name}.{key}" if name else str(key)
    if isinstance(key, (list, Pairs)):
        raise SourceError(f"a tensor has a {type(key).__name__} for a name: expected text or a number")
    # The text of other keys, tuples for instance, could be endless.
    return _joined(name, f"<key {place}>", place)
