"""Consecutive rows as users name them: a slice, or a tuple (start, stop). The same everywhere."""

from __future__ import annotations

from operator import index
from typing import Any

__all__ = ["as_range"]


def as_range(rows: Any) -> slice:
    """The rows that `rows` names; all of them for None.

    Parameters
    ----------
    rows : slice, (start, stop), range or None
        A tuple of two numbers is a range wherever rows are asked for; single rows are picked by a list or an
        array, where they can be.

    Raises
    ------
    TypeError
        Anything else.

    Examples
    --------
    >>> as_range((17, 4321)), as_range(range(3, 9)), as_range(None)
    (slice(17, 4321, None), slice(3, 9, 1), slice(None, None, None))
    """
    if rows is None:
        return slice(None)
    if isinstance(rows, slice):
        return rows
    if isinstance(rows, range) and rows.step > 0:
        return slice(rows.start, rows.stop, rows.step)
    if isinstance(rows, tuple) and len(rows) == 2:
        try:
            return slice(*(None if bound is None else index(bound) for bound in rows))
        except TypeError:
            pass
    raise TypeError(
        f"rows is {rows!r:.200}: expected consecutive rows, as slice(start, stop) or a tuple (start, stop)"
    )
