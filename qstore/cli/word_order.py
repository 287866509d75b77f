"""The words of a command in any order, brought into the one that argparse takes: options, then all others.

argparse fills a list of positional arguments where it meets the first of them, and an option of several
values takes every word that follows. People write ``get FILE --columns :3 5``, ``verify --against SRC FILE``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence

__all__ = ["in_order"]

# Row numbers and slices, which argparse would take for options: -1, -5:, -5:-1
_NEGATIVE = re.compile(r"-\d[-+\d:]*")


def in_order(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Words of a command line, such that `parser` takes them all.

    Where an argument that must be there is missing, and an option of several values took more than one, its
    last value is that argument.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> _ = parser.add_argument("file")
    >>> _ = parser.add_argument("rows", nargs="*")
    >>> _ = parser.add_argument("--columns")
    >>> _ = parser.add_argument("--against", nargs="+")
    >>> in_order(["f.h5", "--columns", "-3:", "5", "-1"], parser)
    ['--columns=-3:', '--', 'f.h5', '5', '-1']
    >>> in_order(["--against", "a.npy", "b.npy", "f.h5"], parser)
    ['--against', 'a.npy', 'b.npy', '--', 'f.h5']
    """
    options = {name: action for action in parser._actions for name in action.option_strings}
    groups, others = _grouped(words, options)
    needed = sum(action.nargs in (None, "+") and not action.option_strings for action in parser._actions)
    if len(others) < needed:
        several = next((group for group in reversed(groups) if _takes_many(group[0], options)), [])
        if len(several) > 2:
            others.append(several.pop())
    first = [word for group in groups for word in _joined(group, options)]
    return [*first, "--", *others] if others else first


def _grouped(words: Sequence[str], options: dict[str, argparse.Action]) -> tuple[list[list[str]], list[str]]:
    """Each option with its values, and the words that belong to none."""
    groups: list[list[str]] = []
    others: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            return groups, others + left
        if not _is_option(word):
            others.append(word)
            continue
        groups.append([word])
        while left and len(groups[-1]) <= _most_values(word, options) and left[0] not in (*options, "--"):
            if _is_option(left[0]) and _takes_many(word, options):
                break
            groups[-1].append(left.pop(0))
    return groups, others


def _is_option(word: str) -> bool:
    return word.startswith("-") and word != "-" and not _NEGATIVE.fullmatch(word)


def _takes_many(word: str, options: dict[str, argparse.Action]) -> bool:
    return word in options and options[word].nargs in ("+", "*")


def _most_values(word: str, options: dict[str, argparse.Action]) -> float:
    if word not in options or options[word].nargs == 0:
        return 0
    return float("inf") if _takes_many(word, options) else 1


def _joined(group: list[str], options: dict[str, argparse.Action]) -> Iterator[str]:
    """``--option=value``, which may begin with a dash."""
    if len(group) == 2 and group[0].startswith("--") and not _takes_many(group[0], options):
        yield "=".join(group)
    else:
        yield from group
