"""Headers and indexes in JSON: one object, of a bounded size, in which no name stands twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ...errors import SourceError
from ..checks import shortened

__all__ = ["LONGEST_JSON", "once_each", "parse_json"]

LONGEST_JSON = 100_000_000
"""Most bytes of JSON that are parsed; the limit of the safetensors library for its headers."""


def parse_json(path: str, text: bytes) -> dict[str, Any]:
    """JSON object in which no name stands twice.

    Raises
    ------
    SourceError
    """
    try:
        members = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected JSON, found something else: {shortened(str(error))}") from error
    if not isinstance(members, dict):
        raise SourceError(f"{path}: expected a JSON object, found {type(members).__name__}")
    return members


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Members of an object, for `json.load`; ValueError where a name stands twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {shortened(repr(twice))} stands twice")
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = once_each(pairs)
    for name in members:
        name.encode()  # a lone surrogate is no name: UnicodeEncodeError is a ValueError
    return members
