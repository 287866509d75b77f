"""Two writers at one output, in every order of the steps that matter."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import qstore
from qstore.writing.output_paths import journal_path, partial_path

from .scene import DIM, Outcome, attempt, matrix
from .tally import Tally

__all__ = ["pairs"]

_CALLS = ("open", "replace", "unlink", "ftruncate", "fsync")
_PATIENCE_SECONDS = 20.0
_ALLOWED = {"", "BusyError", "ExistsError"}
# What an interrupted writer has left may rightly be refused; nobody else's can.
_ALLOWED_BEHIND_INTERRUPTED = _ALLOWED | {"ResumeError"}


class _Turns:
    """Lets one of two threads go on at a time; each stops in front of every step."""

    def __init__(self) -> None:
        self._waiting = threading.Condition()
        self._turn = -1
        self._here: dict[int, int] = {}
        self._done = [False, False]

    def join(self, who: int) -> None:
        """This thread is number `who`; it waits for its first turn."""
        self._here[threading.get_ident()] = who
        with self._waiting:
            self._await(who)

    def stop(self) -> None:
        """This thread is in front of a step."""
        who = self._here.get(threading.get_ident())
        if who is not None:
            with self._waiting:
                self._turn = -1
                self._waiting.notify_all()
                self._await(who)

    def leave(self, who: int) -> None:
        """This thread has come to its end."""
        with self._waiting:
            self._done[who], self._turn = True, -1
            self._waiting.notify_all()

    def _await(self, who: int) -> None:
        if not self._waiting.wait_for(lambda: self._turn == who, _PATIENCE_SECONDS):
            raise RuntimeError("a turn never came")

    def let(self, who: int, steps: int | None) -> int:
        """Give thread `who` so many steps (None: all it has); how many it took."""
        taken = 0
        while steps is None or taken < steps:
            with self._waiting:
                if self._done[who]:
                    break
                self._turn = who
                self._waiting.notify_all()
                if not self._waiting.wait_for(lambda: self._turn == -1, _PATIENCE_SECONDS):
                    raise RuntimeError("a step never ended")
            taken += 1
        return taken


@contextlib.contextmanager
def _stops(turns: _Turns) -> Iterator[None]:
    """Make both threads stop in front of what the operating system does for them."""

    def stopping(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            turns.stop()
            return real(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for name in _CALLS:
            stack.enter_context(mock.patch.object(os, name, stopping(getattr(os, name))))
        stack.enter_context(mock.patch.object(fcntl, "flock", stopping(fcntl.flock)))
        yield


@dataclass(frozen=True)
class _Case:
    """How the two writers are meant.

    Attributes
    ----------
    overwrite : bool
    tensors : (str, str)
        Different names make the builds different ones.
    second : {"finishes", "is interrupted"}
    """

    overwrite: bool
    tensors: tuple[str, str]
    second: Literal["finishes", "is interrupted"]


_CASES = [
    _Case(overwrite, tensors, second)
    for overwrite in (False, True)
    for tensors in (("a", "a"), ("a", "b"))
    for second in ("finishes", "is interrupted")
]


class _Rivals:
    """The folder and the two results that are right."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "out"
        self.final = self.folder / "store.h5"
        self.values = matrix(2.5)
        self.expected = {}
        for tensor in "ab":
            self.clear()
            self.write(tensor, False)
            self.expected[tensor] = self.final.read_bytes()

    def clear(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            path.unlink()

    def write(self, tensor: str, overwrite: bool, interrupt: bool = False) -> None:
        with qstore.Writer(
            self.final, DIM, overwrite=overwrite, resume=True, threads=1, tensor=tensor
        ) as writer:
            writer.append(self.values[writer.rows :])
            if interrupt:
                writer.abort()


def _meet(rivals: _Rivals, case: _Case, order: tuple[int, ...]) -> tuple[list[Outcome], list[int]]:
    """Run both, the first for order[0] steps, the second for order[1], …; then the first to its end."""
    rivals.clear()
    turns = _Turns()
    outcomes = [Outcome("hung"), Outcome("hung")]

    def run(who: int) -> None:
        turns.join(who)
        interrupt = bool(who) and case.second == "is interrupted"
        outcomes[who] = attempt(partial(rivals.write, case.tensors[who], case.overwrite, interrupt))
        turns.leave(who)

    threads = [threading.Thread(target=run, args=(who,)) for who in (0, 1)]
    with _stops(turns):
        for thread in threads:
            thread.start()
        taken = [turns.let(number % 2, steps) for number, steps in enumerate((*order, None, None))]
        for thread in threads:
            thread.join(_PATIENCE_SECONDS)
    return outcomes, taken


def _judge(rivals: _Rivals, case: _Case, outcomes: list[Outcome], tally: Tally, label: str) -> None:
    label = f"{label}, {case}"
    ends = " and ".join(f"{outcome.kind} {outcome.error} {outcome.text}" for outcome in outcomes)
    found = rivals.final.read_bytes() if rivals.final.exists() else None
    right = [rivals.expected[tensor] for tensor in case.tensors]
    finished = [
        content
        for who, (outcome, content) in enumerate(zip(outcomes, right, strict=True))
        if outcome.kind == "success" and not (who and case.second == "is interrupted")
    ]
    if finished and found not in finished:
        tally.wrong("false_success" if found is None else "corrupt", f"{label}: {ends}")
    if not finished and found is not None:
        tally.wrong("corrupt", f"{label}: {ends}")
    behind = _ALLOWED_BEHIND_INTERRUPTED if case.second == "is interrupted" else _ALLOWED
    if outcomes[0].error not in behind or outcomes[1].error not in _ALLOWED:
        tally.wrong("other", f"{label}: {ends}")
    unfinished = partial_path(rivals.final)
    if unfinished.exists() and _opens(unfinished) and unfinished.read_bytes() not in right:
        tally.wrong("half_open", label)
    if case.second == "is interrupted" and outcomes[1].kind == "success":
        _judge_rest(rivals, case, tally, label)


def _judge_rest(rivals: _Rivals, case: _Case, tally: Tally, label: str) -> None:
    """The second was interrupted and said nothing of a loss: it must be possible to go on from there."""
    if not partial_path(rivals.final).exists():
        return  # the first went on from there, and has published it
    if not journal_path(rivals.final).exists():
        tally.wrong("other", f"{label}: the journal of the interrupted writer has been removed")
        return
    tensor = case.tensors[1]
    outcome = attempt(lambda: rivals.write(tensor, True))
    if outcome.kind != "success" or rivals.final.read_bytes() != rivals.expected[tensor]:
        tally.wrong("resume_differs", f"{label}: {outcome.kind} {outcome.error} {outcome.text}")
    else:
        tally.counts["resumed"] += 1


def _opens(path: Path) -> bool:
    return attempt(lambda: qstore.open(path).close()).kind == "success"


def pairs(folder: Path, quick: bool, seed: int) -> Tally:
    """Each stop of the one against each stop of the other, then a random choice with more changes."""
    tally = Tally("two writers")
    chance = random.Random(seed)
    rivals = _Rivals(folder)
    for case in _CASES:
        outcomes, (steps, _) = _meet(rivals, case, ())
        orders: list[tuple[int, ...]] = list(product(range(steps + 2), range(steps + 2)))
        if quick:
            orders = chance.sample(orders, 12)
        else:
            orders += [tuple(chance.randint(1, steps // 2) for _ in range(4)) for _ in range(100)]
        for order in orders:
            outcomes, _ = _meet(rivals, case, order)
            tally.counts["injected"] += 1
            _judge(rivals, case, outcomes, tally, f"order {order}")
    tally.facts["steps"] = steps
    return tally
