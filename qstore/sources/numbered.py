"""Tensors that are one matrix together: their names are alike but for a number, and that is their order.

As texts the names of such tensors sort otherwise (``shard_10`` before ``shard_2``), which would permute the
rows: nothing here compares them so.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import SourceError
from .base import TensorInfo
from .checks import shortened
from .tensor_choice import is_matrix, unknown_tensor

__all__ = ["Numbered", "chosen", "names_several", "numbered_tensors"]

_NUMBER = re.compile(r"[0-9]+")
# Of names in which a listing looks for numbers: hostile files hold long ones, and many.
_LONGEST_NAME = 256
_MOST_NUMBERS = 8
_MOST_TENSORS = 100_000
# Python reads no number of more than 4,300 digits.
_MOST_DIGITS = 18
_SHOWN = 6


@dataclass(frozen=True)
class Numbered:
    """Tensors whose rows follow one another.

    Attributes
    ----------
    name : str
        What their names have in common, with ``*`` in the place of the number.
    members : tuple of TensorInfo
        In the order of the numbers, which are consecutive and begin with 0 or 1.
    """

    name: str
    members: tuple[TensorInfo, ...]


def chosen(where: str, tensors: Sequence[TensorInfo], pattern: str, missing: Sequence[str] = ()) -> Numbered:
    """The tensors whose names match a pattern, in the order of their numbers.

    Parameters
    ----------
    where : str
        What holds them; starts errors.
    tensors : sequence of TensorInfo
        All that it holds and can be read.
    pattern : str
        As of :func:`fnmatch.fnmatchcase`: ``*`` stands for anything, ``?`` for one character, ``[…]`` for one
        of several. Where nothing matches, the first ``*`` stands for a number and anything else for itself.
    missing : sequence of str
        Names of what it holds and cannot be read, since files of it are missing or damaged.

    Raises
    ------
    TensorError
        No name matches.
    SourceError
        One tensor alone does, or the names differ in other things than one number; numbers are missing or
        there twice; some of the tensors cannot be read; or they are no matrices, of several widths or of
        several types. Tensors are named.

    Examples
    --------
    >>> from qstore.sources import TensorInfo
    >>> names = [f"shard_{number}" for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)]
    >>> found = chosen("model", [TensorInfo(name, (5, 4), "float32") for name in names], "shard_*")
    >>> found.name, [info.name for info in found.members][-3:]
    ('shard_*', ['shard_8', 'shard_9', 'shard_10'])
    """
    _check_none_missing(where, _matching(missing, pattern))
    by_name = {info.name: info for info in tensors}
    names = _matching(list(by_name), pattern)
    if not names:
        raise unknown_tensor(where, pattern, [info.name for info in tensors if is_matrix(info)])
    if len(names) == 1:
        raise SourceError(
            f"{where}: only {_quoted(names[0])} matches {_quoted(pattern)}, expected several: "
            f"leave join=True (--join) out, or give a wider pattern"
        )
    family, by_number = _by_number(where, names)
    _check_none_missing(where, _lost(family, missing))
    numbers = sorted(by_number)
    _check_complete(f"{where}: {_quoted(family)}", numbers, by_number)
    members = tuple(by_name[by_number[number]] for number in numbers)
    _check_alike(where, members)
    return Numbered(family, members)


def names_several(names: Sequence[str], pattern: str) -> bool:
    """Whether a pattern, such as the name of a store of joined tensors, matches some of the names."""
    return "*" in pattern and bool(_matching(names, pattern))


def _matching(names: Sequence[str], pattern: str) -> list[str]:
    found = [name for name in names if fnmatchcase(name, pattern)]
    if found or "*" not in pattern:
        return found
    begin, _, end = pattern.partition("*")
    literal = re.compile(f"{re.escape(begin)}[0-9]+{re.escape(end)}")
    return [name for name in names if literal.fullmatch(name)]


def _check_none_missing(where: str, lost: Sequence[str]) -> None:
    if lost:
        shown = ", ".join(map(_quoted, lost[:_SHOWN]))
        raise SourceError(
            f"{where}: {len(lost)} of the tensors to join cannot be read, as files are missing or damaged: "
            f"{shown}; get these files again (qstore ls names them)"
        )


def _lost(family: str, missing: Sequence[str]) -> list[str]:
    """Missing tensors that may belong to a family: scales and packed codes have other ends of their names."""
    member = re.compile(f"{re.escape(family.partition('*')[0])}[0-9]")
    return [name for name in missing if member.match(name)]


def _by_number(where: str, names: Sequence[str]) -> tuple[str, dict[int, str]]:
    """What names have in common, and the names by the one number in which they differ."""
    first, *others = names
    texts, digits = _NUMBER.split(first), _NUMBER.findall(first)
    differing: dict[int, str] = {}
    for name in others:
        if _NUMBER.split(name) != texts:
            raise SourceError(
                f"{where}: {_quoted(first)} and {_quoted(name)} both match, and differ in more than numbers: "
                f"expected the parts of one matrix; give a narrower pattern"
            )
        for place, (one, other) in enumerate(zip(digits, _NUMBER.findall(name), strict=True)):
            if one != other:
                differing.setdefault(place, name)
    if len(differing) > 1:
        shown = ", ".join(map(_quoted, dict.fromkeys([first, *differing.values()])))
        raise SourceError(
            f"{where}: names that match differ in {len(differing)} numbers ({shown}): expected one, which is "
            f"the order of the parts; give a narrower pattern"
        )
    place = next(iter(differing))
    words = ["*" if number == place else word for number, word in enumerate(digits)]
    family = texts[0] + "".join(word + text for word, text in zip(words, texts[1:], strict=True))
    return family, _numbers(where, names, place)


def _numbers(where: str, names: Sequence[str], place: int) -> dict[int, str]:
    by_number: dict[int, str] = {}
    for name in names:
        text = _NUMBER.findall(name)[place]
        if len(text) > _MOST_DIGITS:
            raise SourceError(
                f"{where}: {_quoted(name)} has a number of {len(text)} digits, more than {_MOST_DIGITS}"
            )
        other = by_number.setdefault(int(text), name)
        if other != name:
            raise SourceError(
                f"{where}: {_quoted(other)} and {_quoted(name)} have the same number: expected one tensor of "
                f"each; give a narrower pattern"
            )
    return by_number


def _check_complete(where: str, numbers: list[int], by_number: dict[int, str]) -> None:
    if numbers[0] > 1:
        raise SourceError(
            f"{where} begins with {_quoted(by_number[numbers[0]])}, expected number 0 or 1: get the tensors "
            f"before it, too"
        )
    gaps = [(before, after) for before, after in itertools.pairwise(numbers) if after != before + 1]
    if gaps:
        shown = "; ".join(
            f"{_quoted(by_number[before])} is followed by {_quoted(by_number[after])}"
            for before, after in gaps[:_SHOWN]
        )
        raise SourceError(
            f"{where} has {len(numbers)} tensors, and some are missing: {shown}; expected all numbers from "
            f"{numbers[0]} to {numbers[-1]}: get the others, too"
        )


def _check_alike(where: str, members: tuple[TensorInfo, ...]) -> None:
    """By what headers say; the sources of them are compared when they are opened."""
    first = members[0]
    for info in members:
        if not is_matrix(info):
            raise SourceError(
                f"{where}: {_quoted(info.name)} has shape {info.shape} and type "
                f"{shortened(info.stored or info.dtype)}: expected matrices of numbers alone"
            )
        for what, found, expected in (
            ("columns", info.shape[1], first.shape[1]),
            ("type", info.stored or info.dtype, first.stored or first.dtype),
        ):
            if found != expected:
                raise SourceError(
                    f"{where}: {_quoted(info.name)} cannot be put behind {_quoted(first.name)}: {what} "
                    f"expected {expected}, found {found}; build a store of each instead"
                )


def _quoted(name: str) -> str:
    return shortened(repr(name))


# Listing -------------------------------------------------------------------------------------------------


def numbered_tensors(tensors: Sequence[TensorInfo], missing: Sequence[str] = ()) -> list[Numbered]:
    """Tensors that look like one matrix in pieces, as a listing shows them; sorted by name.

    Those are two or more matrices of one width and type whose names are alike but for a number, all numbers
    from 0 or 1 on; and nothing else of the checkpoint has such a number: ``shard_0.weight`` is one of them,
    ``layers.0.mlp.up.weight`` is not, since layer 0 has other matrices, too. :func:`chosen` finds the same by
    their name. None is given of which tensors are `missing`.

    Examples
    --------
    >>> from qstore.sources import TensorInfo
    >>> names = ["shard_0.weight", "shard_1.weight", "layers.0.up", "layers.0.down", "layers.1.up"]
    >>> [found.name for found in numbered_tensors([TensorInfo(name, (5, 4), "float32") for name in names])]
    ['shard_*.weight']
    """
    if len(tensors) > _MOST_TENSORS:
        return []
    families: dict[tuple[str, str], list[tuple[str, TensorInfo]]] = {}
    behind: dict[str, set[str]] = {}
    for info in filter(is_matrix, tensors):
        places = list(_NUMBER.finditer(info.name)) if len(info.name) <= _LONGEST_NAME else []
        for place in places[:_MOST_NUMBERS]:
            begin, end = info.name[: place.start()], info.name[place.end() :]
            families.setdefault((begin, end), []).append((place.group(), info))
            behind.setdefault(begin, set()).add(end)
    names = sorted(info.name for info in tensors)
    found = (
        _family(*ends, members)
        for ends, members in families.items()
        if len(members) > 1 and len(behind[ends[0]]) == 1 and _is_all(names, *ends, len(members))
    )
    whole = [one for one in found if one is not None and not _lost(one.name, missing)]
    return sorted(whole, key=lambda one: one.name)


def _is_all(names: list[str], begin: str, end: str, count: int) -> bool:
    """Whether names with those ends are so many, and none of them has something else between."""
    first = bisect.bisect_left(names, begin)
    last = bisect.bisect_right(names, begin + "\U0010ffff")
    return (
        sum(name.endswith(end) for name in names[first:last] if len(name) >= len(begin) + len(end)) == count
    )


def _family(begin: str, end: str, members: Sequence[tuple[str, TensorInfo]]) -> Numbered | None:
    by_number = {int(digits): info for digits, info in members if len(digits) <= _MOST_DIGITS}
    numbers = sorted(by_number)
    infos = tuple(by_number[number] for number in numbers)
    alike = {(info.shape[1], info.dtype, info.stored) for info in infos}
    if len(infos) != len(members) or len(alike) != 1 or numbers[0] > 1:
        return None
    if numbers[-1] - numbers[0] != len(numbers) - 1:
        return None
    return Numbered(f"{begin}*{end}", infos)
