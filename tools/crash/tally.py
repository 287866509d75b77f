"""What a part of the suite counts, and the table of all parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["VIOLATIONS", "Tally", "table"]

VIOLATIONS = ("corrupt", "half_open", "false_success", "resume_differs", "other")
"""Counts that must be 0."""

_COLUMNS = {
    "injected": "faults injected",
    "corrupt": "corrupt files",
    "half_open": "incomplete partials that open",
    "false_success": "false successes",
    "resume_differs": "resumed files that differ",
    "other": "other violations",
    "resumed": "resumed byte-identical",
    "refused": "refused with a reason",
}
_SHOWN = 12


@dataclass
class Tally:
    """Counts of one part.

    Attributes
    ----------
    name : str
    counts : Counter
        The names of `_COLUMNS`; what is in `VIOLATIONS` must stay 0.
    notes : list of str
        A line for each violation.
    facts : dict
        Further figures worth printing.
    skipped : str
        Why the part could not run; empty if it did.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def wrong(self, kind: str, message: str) -> None:
        """Note a violation."""
        self.counts[kind] += 1
        self.notes.append(f"{kind}: {message}")

    @property
    def violations(self) -> int:
        """Number of violations."""
        return sum(self.counts[kind] for kind in VIOLATIONS)

    def line(self) -> str:
        """What was counted, in words, and the first violations."""
        if self.skipped:
            return f"{self.name}: skipped, {self.skipped}"
        counted = [f"{self.counts[key]} {words}" for key, words in _COLUMNS.items() if self.counts[key]]
        facts = [f"{key} {value}" for key, value in self.facts.items()]
        more = len(self.notes) - _SHOWN
        notes = [f"\n  {note}" for note in self.notes[:_SHOWN]] + (
            [f"\n  and {more} more"] if more > 0 else []
        )
        return f"{self.name}: " + ", ".join(counted + facts) + "".join(notes)

    def as_dict(self) -> dict[str, Any]:
        """The same for ``--json``."""
        counts = {key: self.counts[key] for key in _COLUMNS}
        return {"part": self.name, **counts, **self.facts, "skipped": self.skipped, "notes": self.notes}


def table(tallies: list[Tally]) -> str:
    """The sums over all parts, a line each."""
    total = sum((tally.counts for tally in tallies), Counter[str]())
    return "\n".join(f"{total[key]:>8,}  {words}" for key, words in _COLUMNS.items())
