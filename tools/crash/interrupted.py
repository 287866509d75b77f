"""One build, killed at random moments again and again."""

from __future__ import annotations

import mmap
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels
from qstore.writer import Writer
from qstore.writing.unfinished_store import UnfinishedStore

from .scene import DIM, Outcome, Scene, in_child, matrix
from .tally import Tally

__all__ = ["many_kills"]

_BLOCK_ROWS = 64
_GROUP_ROWS = 8 * _BLOCK_ROWS
_BLOCK_SECONDS = 0.002
_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT


class _Rows:
    """Numbers that the children count in memory they share with this process."""

    def __init__(self) -> None:
        self._shared = np.frombuffer(mmap.mmap(-1, 16), np.int64)
        self._lock = threading.Lock()

    @property
    def quantized(self) -> int:
        """Rows quantized in all children."""
        return int(self._shared[0])

    @property
    def resumed(self) -> int:
        """Rows that were in when the last child began."""
        return int(self._shared[1])

    @resumed.setter
    def resumed(self, rows: int) -> None:
        self._shared[1] = rows

    def add(self, rows: int) -> None:
        """Count rows as quantized."""
        with self._lock:
            self._shared[0] += rows


def many_kills(folder: Path, quick: bool, seed: int) -> Tally:
    """SIGKILL at random moments of one build of at least 20 groups; two threads quantize.

    Then the same from a compressed file, which is skipped through each time.
    """
    tally = Tally("killed again and again")
    vars(Writer)["__init__"].__kwdefaults__["sync_bytes"] = _GROUP_ROWS * DIM
    chance = random.Random(seed)
    for packed in (False, True):
        _kills_of_one(folder / f"packed-{packed}", packed, quick, chance, tally)
    return tally


def _kills_of_one(folder: Path, packed: bool, quick: bool, chance: random.Random, tally: Tally) -> None:
    kills, blocks = (10, 160) if quick else (50, 800)
    scene = Scene(folder, values=matrix(blocks + 0.4), packed=packed)
    scene.begin({})
    injected = tally.counts["injected"]
    rows = _Rows()
    resumed = []
    for number in range(kills):
        # By rows, not by the clock: on a busy machine, too, no kill comes when all is done.
        outcome = _killed_after(scene, rows, chance.uniform(0, 0.9 * len(scene.values) / kills), chance)
        if outcome.kind != "killed":
            tally.wrong("other", f"kill {number} came too late: {outcome.kind} {outcome.text}")
            break
        tally.counts["injected"] += 1
        resumed.append(rows.resumed)
        scene.check(outcome, None, tally, f"kill {number}")
    outcome = in_child(lambda: _counted(scene, rows), lambda pid, go: go())
    resumed.append(rows.resumed)
    _judge(scene, outcome, rows, resumed, tally.counts["injected"] - injected, tally)


def _killed_after(scene: Scene, rows: _Rows, more: float, chance: random.Random) -> Outcome:
    """Kill a build once it has quantized so many rows, within the time of one more block."""
    target = rows.quantized + more

    def kill(pid: int, go: Callable[[], object]) -> None:
        go()
        while rows.quantized < target and os.waitid(os.P_PID, pid, _LOOK) is None:
            time.sleep(_BLOCK_SECONDS / 10)
        time.sleep(chance.uniform(0, _BLOCK_SECONDS))
        os.kill(pid, signal.SIGKILL)

    return in_child(lambda: _counted(scene, rows), kill)


def _counted(scene: Scene, rows: _Rows) -> None:
    """Build slowly and count what is quantized."""
    quantize = kernels.quantize_into

    def slow(values: NDArray[Any], codes: NDArray[np.uint8], *rest: Any) -> Any:
        rows.add(len(codes))
        time.sleep(_BLOCK_SECONDS)
        return quantize(values, codes, *rest)

    def begun(unfinished: UnfinishedStore, *rest: Any) -> None:
        begin(unfinished, *rest)
        rows.resumed = unfinished.rows

    begin = UnfinishedStore._begin
    with (
        mock.patch.object(kernels, "quantize_into", slow),
        mock.patch.object(UnfinishedStore, "_begin", begun),
    ):
        qstore.build(scene.source, scene.final, threads=2)


def _judge(scene: Scene, outcome: Outcome, rows: _Rows, resumed: list[int], kills: int, tally: Tally) -> None:
    scene.check(outcome, None, tally, "the last attempt")
    count = len(scene.values)
    limit = count + kills * _GROUP_ROWS
    if rows.quantized > limit:
        tally.wrong("other", f"{rows.quantized} rows were quantized, expected at most {limit}")
    for before, after in pairwise(resumed):
        if after < before or (before >= _GROUP_ROWS and not after):
            tally.wrong("other", f"{after} rows were resumed after {before}")
    if not resumed[-1]:
        tally.wrong("other", "nothing was ever resumed")
    same = scene.files() == {scene.final.name: scene.expected}
    tally.counts["resumed"] += same
    if not same:
        tally.wrong("resume_differs", f"{sorted(scene.files())} at the end")
    tally.facts.update(
        groups=count // _GROUP_ROWS, rows=count, kills=tally.counts["injected"], quantized=rows.quantized
    )
    tally.facts["resumed with"] = resumed[-1]
