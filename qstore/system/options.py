"""What users say beside data: a word of several, a number of threads, a path.

Each is judged by its type, never by its truth or by comparing it: an array has no truth, and a list times a
size takes all memory.
"""

from __future__ import annotations

import numbers
import operator
import os
from collections.abc import Sequence
from typing import Any

__all__ = ["check_path", "flag", "one_of", "shown", "whole_number", "without"]

_TROUBLE = (TypeError, ValueError, RuntimeError, OverflowError)


def shown(value: Any) -> str:
    """A value in an error: as it is written where that is short for sure, else its type.

    Examples
    --------
    >>> shown("max"), shown(3), shown([1] * 1000)
    ("'max'", '3', 'a list')
    """
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    of_numpy = type(value).__module__ == "numpy" and isinstance(value, numbers.Number)
    if value is None or isinstance(value, (int, float)) or of_numpy:
        return str(value)
    name = type(value).__name__
    return f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


def one_of(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value`; ValueError unless it is one of these words.

    Examples
    --------
    >>> one_of("mode", "sum", ("sum", "mean"))
    'sum'
    """
    if isinstance(value, str) and value in choices:
        return value
    *others, last = (f'"{word}"' for word in choices)
    words = f"{', '.join(others)} or {last}"
    raise ValueError(f"{name} is {shown(value)}, expected {words}")


def flag(name: str, value: Any) -> bool:
    """`value` as True or False; TypeError for what has no plain truth, such as an array or a word.

    Examples
    --------
    >>> flag("overwrite", True)
    True
    """
    if value is None or isinstance(value, int) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} is {shown(value)}, expected True or False")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int; ValueError unless it is a whole number of at least `least`."""
    try:
        number = operator.index(value)
    except _TROUBLE:
        raise ValueError(f"{name} is {shown(value)}, expected a whole number of at least {least}") from None
    if number < least:
        raise ValueError(f"{name} is {shown(number)}, expected at least {least}")
    return number


def check_path(path: Any) -> None:
    """Raise unless an operating system can be asked for this path.

    Raises
    ------
    TypeError
        It is no path.
    ValueError
        It holds a NUL, or a character that no file's name can have.
    """
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"the path {path!r:.200} has half of a surrogate pair, expected text") from None
    if b"\0" in raw:
        raise ValueError(f"the path {path!r:.200} holds a NUL, expected the name of a file")


def without(name: str, value: Any) -> bool:
    """True for False, which leaves something out, False for None; TypeError for all else."""
    if value is None or value is False:
        return value is False
    raise TypeError(f"{name} is {shown(value)}, expected None, or False to leave them out")
