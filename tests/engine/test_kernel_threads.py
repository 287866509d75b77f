"""Kernels in many threads and in forked processes; work that is split and comes back in order."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qstore.engine import kernels
from qstore.system import threads

REPOSITORY = Path(kernels.__file__).parents[2]


def large_gather() -> Callable[[], NDArray[np.float32]]:
    codes, scales = np.full((3000, 1024), 129, np.uint8), np.ones(3000)
    rows = np.arange(3000)

    def read() -> NDArray[np.float32]:
        out = np.zeros((3000, 1024), np.float32)
        kernels.gather(codes, scales, rows, out, threads=2)
        return out

    return read


def test_a_forked_child_makes_threads_of_its_own() -> None:
    read = large_gather()
    read()
    assert threads._executor is not None
    code = (
        "import os, numpy as np; from qstore.engine import kernels; from qstore.system import threads\n"
        "codes, scales, rows = np.full((3000, 1024), 129, np.uint8), np.ones(3000), np.arange(3000)\n"
        "def read():\n"
        "    out = np.zeros((3000, 1024), np.float32)\n"
        "    kernels.gather(codes, scales, rows, out, threads=2)\n"
        "    return bool((out == 1).all())\n"
        "assert read()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if threads._executor is None and read() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0 and read()\n"
    )
    clean = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_many_threads_may_read_at_once() -> None:
    read = large_gather()
    wrong: list[int] = []

    def work() -> None:
        wrong.extend(1 for _ in range(5) if not (read() == 1).all())

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("count", [1, 3, None])
def test_results_come_in_order(count: int | None) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        if number == 40:
            raise KeyError(number)
        return 2 * number

    before = threading.active_count()
    found = threads.in_order(work, items(), count)
    assert [next(found) for _ in range(30)] == list(range(0, 60, 2))
    assert len(taken) <= 30 + 2 * (count or threads.processors())
    with pytest.raises(KeyError, match="40"):
        list(found)
    assert threading.active_count() == before


def test_small_requests_start_no_threads(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_threads", lambda: pytest.fail("asked for threads"))
    codes, scales = np.zeros((10, 16), np.uint8), np.ones(10)
    kernels.gather(codes, scales, np.arange(10), np.empty((10, 16), np.float32), threads=8)
    kernels.dequantize(codes, scales)
    kernels.pool(codes, scales, np.arange(10), np.array([0]), None, "sum", np.empty((1, 16)), threads=8)
