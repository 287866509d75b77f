"""Consecutive rows as users name them: a slice, or a tuple (start, stop). The same everywhere."""

from __future__ import annotations

from operator import index
from typing import Any

from ..system.options import shown

__all__ = ["as_range"]

_SHORT = (int, float, str, type(None))


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
    if isinstance(rows, range) and rows.step > 0:
        return slice(rows.start, rows.stop, rows.step)
    bounds: tuple[Any, ...] = ()
    if isinstance(rows, slice):
        bounds = rows.start, rows.stop, rows.step
    elif isinstance(rows, tuple) and len(rows) == 2:
        bounds = rows
    try:
        whole = [None if bound is None else index(bound) for bound in bounds]
    except (TypeError, ValueError, RuntimeError):  # tensors and arrays have their own ways to be no number
        whole = []
    if not whole or whole[2:] == [0]:
        found = f"{rows!r:.200}" if all(isinstance(bound, _SHORT) for bound in bounds) else shown(rows)
        raise TypeError(
            f"rows is {found}: expected consecutive rows, as slice(start, stop) or a tuple (start, stop)"
        )
    return slice(*whole)
