"""How facts are printed: aligned for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..system.reported import jsonable

__all__ = [
    "KEY_WORDS",
    "byte_size",
    "counted_keys",
    "print_facts",
    "print_json",
    "print_line",
    "print_table",
    "printable",
    "show_progress",
]


KEY_WORDS = {"text": "texts", "integer": "whole numbers"}
"""What keys of each kind are called."""


def counted_keys(rows: int, unkeyed: int, kind: str) -> str:
    """How many keys there are, of what kind, and how many rows have none.

    Examples
    --------
    >>> counted_keys(8000, 0, "integer"), counted_keys(8, 2, "text")
    ('8,000, whole numbers', '6, texts; 2 rows have none')
    """
    none = f"; {unkeyed:,} rows have none" if unkeyed else ""
    return f"{rows - unkeyed:,}, {KEY_WORDS[kind]}{none}"


def show_progress(quiet: bool) -> bool:
    """Whether a progress bar on stderr would be seen and is wanted."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


def print_json(value: Any) -> None:
    """One JSON value, indented. Only ASCII: it must get through any terminal and locale."""
    import json

    print(json.dumps(jsonable(value), indent=2))


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Name and value pairs, a line each, values aligned."""
    print_table(facts)


def print_table(rows: Iterable[Sequence[object]]) -> None:
    """Columns padded to the same width; the last one is left as it is."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in cells), strict=True)]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print_line("  ".join([*padded, row[-1]]).rstrip())


def print_line(text: str) -> None:
    """Print text that stdout's encoding may not have: such characters are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates escaped: names in files are not to be trusted.

    Examples
    --------
    >>> print(printable("naïve\\x1b[2J"))
    naïve\\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def byte_size(count: int) -> str:
    """A number of bytes in decimal units.

    Examples
    --------
    >>> byte_size(999), byte_size(46_881_792), byte_size(8_200_000_000)
    ('999 B', '46.9 MB', '8.2 GB')
    """
    if count < 1000:
        return f"{count} B"
    # 999.95 kB would be rounded to 1000.0 kB.
    power = next((power for power in (1, 2, 3) if count < 999.95 * 1000**power), 4)
    return f"{count / 1000**power:,.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
