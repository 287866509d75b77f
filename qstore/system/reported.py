"""Reports: what an operation found, as a dataclass that JSON can have and that is short to look at."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Reported", "jsonable"]

_SHOWN = 3
_LONGEST = 60


class Reported:
    """Base of the reports, which are dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """The report in types that JSON has: what ``--json`` prints.

        Returns
        -------
        dict
            By name of the attribute: reports in it as dicts, arrays and tuples as lists, NaN and infinities
            as None.
        """
        found: dict[str, Any] = jsonable(self)
        return found

    def __repr__(self) -> str:
        fields = getattr(type(self), "__dataclass_fields__", ())
        shown = ", ".join(f"{name}={_short(getattr(self, name))}" for name in fields)
        return f"{type(self).__name__}({shown})"


def jsonable(value: Any) -> Any:
    """`value` with reports as objects, arrays as lists, and null for numbers that JSON does not have.

    Examples
    --------
    >>> jsonable({"scales": (0.5, float("nan"))})
    {'scales': [0.5, None]}
    """
    if hasattr(value, "__dataclass_fields__"):  # its module takes a third of the time of --help
        return {name: jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers, without importing it for --help
        return jsonable(value.tolist())
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _short(value: Any) -> str:
    """What a value is, in a few words: long ones by how much they hold."""
    if isinstance(value, Reported):
        return f"{type(value).__name__}(…)"
    if hasattr(value, "shape"):
        return f"<{'×'.join(map(str, value.shape))} {value.dtype}>"
    if isinstance(value, dict):
        return "{}" if not value else f"<{len(value)} by name>"
    if isinstance(value, (list, tuple)) and (len(value) > _SHOWN or any(map(_is_long, value))):
        return f"<{len(value)} of them>"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _is_long(value: Any) -> bool:
    return isinstance(value, (Reported, list, dict)) or len(repr(value)) > _LONGEST
