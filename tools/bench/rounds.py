"""Interleaved rounds: several ways to do the same work, checked first, then timed in turn.

Times on a shared machine drift by tens of percent within a minute. All entrants of a contest therefore run
in every round, in shuffled order, and only medians from one contest are compared.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .engines import use_threads

__all__ = ["Budget", "Contest", "Entrant", "Outcome", "Run", "WrongResult", "each", "measure"]

Run = Callable[[int, int], Any]
Kind = Literal["ours", "peer", "limit"]

_SAMPLE_SECONDS = 0.005
_MOST_CALLS = 2000


class WrongResult(Exception):
    """An entrant did the work wrongly: its time would mean nothing."""


def _nothing() -> None:
    pass


def _no_figures() -> dict[str, float]:
    return {}


@dataclass(frozen=True)
class Entrant:
    """One way to do the work.

    Attributes
    ----------
    name : str
    run : callable
        ``run(first, count)`` does the work numbers `first` to ``first + count`` and returns the last result.
        Successive numbers ask for other rows, so that no answer waits in the processor's caches.
    kind : {"ours", "peer", "limit"}
    check : callable
        Gets the result of ``run(0, 1)``; raises :class:`WrongResult`.
    before : callable
        Off the clock, before each sample.
    after : callable
        Off the clock, after each sample; returns further figures, such as bytes read.
    single : bool
        A sample is one call, because `before` has to come before each.
    moved : int
        Bytes that one call has to read and write at least.
    """

    name: str
    run: Run
    kind: Kind = "peer"
    check: Callable[[Any], object] = lambda result: None
    before: Callable[[], object] = _nothing
    after: Callable[[], dict[str, float]] = _no_figures
    single: bool = False
    moved: int = 0


@dataclass(frozen=True)
class Contest:
    """The same work done in several ways.

    Attributes
    ----------
    case : str
    setting : dict
        What tells this contest from others of its case: rows, dim, asked, output, threads …
    entrants : list of Entrant
    skipped : dict of str to str
        Peers that cannot take part, and why.
    """

    case: str
    setting: dict[str, Any]
    entrants: list[Entrant]
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What one entrant took.

    Attributes
    ----------
    case, setting, name, kind
        As in :class:`Contest` and :class:`Entrant`.
    seconds : float
        Median time of a call.
    low, high : float
        First and third quartile.
    samples : int
    moved : int
        Bytes that a call has to move at least.
    figures : dict of str to float
        Medians of further figures.
    """

    case: str
    setting: dict[str, Any]
    name: str
    kind: Kind
    seconds: float
    low: float
    high: float
    samples: int
    moved: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Budget:
    """When to stop: after `seconds`, but not before `least` rounds and not after `most`."""

    seconds: float
    least: int
    most: int


def each(call: Callable[[int], Any]) -> Run:
    """A run that calls ``call(number)`` for each number."""

    def run(first: int, count: int) -> Any:
        result = None
        for number in range(first, first + count):
            result = call(number)
        return result

    return run


def measure(contest: Contest, budget: Budget) -> list[Outcome]:
    """Check all entrants, then time them in rounds.

    Raises
    ------
    WrongResult
        One of the entrants did the work wrongly; nothing has been timed.
    """
    with use_threads(contest.setting.get("threads", 1)):
        for entrant in contest.entrants:
            _check(contest, entrant)
        samples = _rounds(contest.entrants, budget)
    return [_outcome(contest, entrant, samples[entrant.name]) for entrant in contest.entrants]


def _check(contest: Contest, entrant: Entrant) -> None:
    entrant.before()
    result = entrant.run(0, 1)
    try:
        entrant.check(result)
    except WrongResult as error:
        raise WrongResult(f"{contest.case} {contest.setting}: {entrant.name}: {error}") from None
    finally:
        entrant.after()


def _rounds(entrants: list[Entrant], budget: Budget) -> dict[str, list[tuple[float, dict[str, float]]]]:
    calls = {entrant.name: _calls_of_a_sample(entrant) for entrant in entrants}
    samples: dict[str, list[tuple[float, dict[str, float]]]] = {entrant.name: [] for entrant in entrants}
    spent = dict.fromkeys(samples, 0.0)
    order, shuffle = list(entrants), random.Random(0).shuffle
    end = time.perf_counter() + budget.seconds
    for number in range(budget.most):
        if number >= budget.least and time.perf_counter() > end:
            break
        shuffle(order)
        for entrant in order:
            name = entrant.name
            # A slow peer must not leave the others with a handful of rounds.
            if number >= budget.least and spent[name] > 2 * budget.seconds / len(entrants):
                continue
            sample = _sample(entrant, number * calls[name], calls[name])
            samples[name].append(sample)
            spent[name] += sample[0] * calls[name]
    return samples


def _calls_of_a_sample(entrant: Entrant) -> int:
    if entrant.single:
        return 1
    seconds = min(_sample(entrant, number, 1)[0] for number in range(3))
    return max(1, min(_MOST_CALLS, int(_SAMPLE_SECONDS / max(seconds, 1e-9))))


def _sample(entrant: Entrant, first: int, count: int) -> tuple[float, dict[str, float]]:
    entrant.before()
    gc.disable()
    try:
        begun = time.perf_counter()
        entrant.run(first, count)
        seconds = time.perf_counter() - begun
    finally:
        gc.enable()
    return seconds / count, entrant.after()


def _outcome(contest: Contest, entrant: Entrant, samples: list[tuple[float, dict[str, float]]]) -> Outcome:
    times = sorted(seconds for seconds, _ in samples)
    names = samples[0][1]
    return Outcome(
        case=contest.case,
        setting=contest.setting,
        name=entrant.name,
        kind=entrant.kind,
        seconds=statistics.median(times),
        low=times[len(times) // 4],
        high=times[3 * len(times) // 4],
        samples=len(times),
        moved=entrant.moved,
        figures={name: statistics.median(figures[name] for _, figures in samples) for name in names},
    )
