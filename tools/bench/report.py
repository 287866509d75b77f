"""Results as words, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from qstore import environment

from .peers import versions
from .rounds import Contest, Outcome

__all__ = ["contest_table", "facts", "heading", "load", "save"]


def facts() -> dict[str, Any]:
    """What the figures depend on: machine, engine, versions."""
    return {**dataclasses.asdict(environment.environment()), "peers": versions()}


def heading() -> str:
    """The same in a few lines."""
    peers = (f"{name} {version or 'missing'}" for name, version in versions().items())
    return f"{environment.headline()}\n\nPeers: {', '.join(peers)}."


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def _words(setting: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in setting.items()
    )


def contest_table(contest: Contest, outcomes: list[Outcome]) -> str:
    """Markdown table of one contest. Ratios come first: how many times the time of the first line."""
    first = outcomes[0]
    figures = sorted({name for outcome in outcomes for name in outcome.figures})
    heads = ["", "× time of the first", "median", "quartiles", "GB/s", *figures, "samples"]
    lines = [f"### {contest.case}: {_words(contest.setting)}", ""]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for outcome in outcomes:
        cells = [
            outcome.name,
            f"{outcome.seconds / first.seconds:.2f}",
            _time(outcome.seconds),
            f"{_time(outcome.low)} – {_time(outcome.high)}",
            f"{outcome.moved / outcome.seconds / 1e9:.2f}" if outcome.moved else "",
            *(f"{outcome.figures[name]:,.0f}" if name in outcome.figures else "" for name in figures),
            str(outcome.samples),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [""]
    if contest.skipped:
        lines += ["Skipped: " + "; ".join(f"{name}: {why}" for name, why in contest.skipped.items()), ""]
    return "\n".join(lines)


def save(path: Path, about: dict[str, Any], outcomes: list[Outcome], skipped: dict[str, str]) -> None:
    """Everything measured, as JSON; `about` are the :func:`facts`."""
    found = [dataclasses.asdict(outcome) for outcome in outcomes]
    path.write_text(json.dumps({"facts": about, "skipped": skipped, "outcomes": found}, indent=1) + "\n")


def load(path: Path) -> list[Outcome]:
    """The outcomes of a JSON file made by :func:`save`."""
    return [Outcome(**found) for found in json.loads(path.read_text())["outcomes"]]
