"""What an unfinished build has left behind, looked at without touching it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .journal import Journal
from .origin import Origin
from .output_paths import journal_path, partial_path

__all__ = ["LeftBehind", "left_behind"]


class LeftBehind(NamedTuple):
    """What a build of the same name would find.

    Attributes
    ----------
    rows : int
        Rows it would go on with, as the journal tells.
    stale : bool
        They are of a source with another time of change.
    reason : str
        Why there are none, although some have been done.
    """

    rows: int
    stale: bool
    reason: str


def left_behind(path: Path, origin: Origin, rows: int | None) -> LeftBehind:
    """What a build of `origin`, of so many rows, finds beside `path`.

    Raises
    ------
    ResumeError
        It would be refused.
    """
    try:
        begun = partial_path(path).stat().st_size > 0
        journal = Journal(journal_path(path), looking=True)
    except OSError:
        return LeftBehind(0, False, "")
    try:
        found = journal.parameters() if begun else None
    finally:
        journal.close()
    if found is None or not journal.listed:
        return LeftBehind(0, False, "")
    reason = origin.judge(journal, rows, partial_path(path))
    return LeftBehind(0 if reason else journal.listed, origin.adopt(found) or journal.mixed, reason)
