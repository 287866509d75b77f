"""The memory of large outputs: kept, used again, given back and never shared."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_engine import NEEDS_EXTENSION, native
from numpy.typing import NDArray

from qstore.engine import kernels

MIB = 1 << 20


def address(array: NDArray[Any]) -> int:
    found: int = array.__array_interface__["data"][0]
    return found


@pytest.fixture
def no_idle_rooms() -> None:
    """What earlier tests left behind makes way for eight others."""
    if native is not None:
        rooms = [native.Room(1) for _ in range(8)]
        del rooms


@pytest.mark.usefixtures("no_idle_rooms")
@NEEDS_EXTENSION
@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux")
def test_the_memory_of_a_large_output_is_used_again() -> None:
    first = kernels.fresh((12 * MIB, 1), "float32")
    place, view = address(first), first[7:9]
    view[:] = 5
    del first
    second = kernels.fresh((12 * MIB,), "float32")
    assert address(second) != place, "a view still needs it"
    second[:] = 1
    assert (view == 5).all()
    del view
    assert address(kernels.fresh((48 * MIB,), np.uint8)) == place
    assert address(kernels.fresh((10 * MIB,), np.float32)) == place, "40 MiB are nearly as many"
    assert address(kernels.fresh((36 * MIB,), np.uint8)) != place, "48 MiB are too many for 36"
    assert address(kernels.fresh((64 * MIB,), np.uint8)) != place
    assert address(kernels.fresh((12 * MIB, 2), np.float16)) == place
    assert kernels.fresh((24 * MIB,), np.uint8).base is None, "NumPy's own"


@pytest.mark.parametrize("size", [32 * MIB - 1, 32 * MIB, 32 * MIB + 1, 300 * MIB])
def test_a_large_output_is_an_array_like_others(engine: str, size: int) -> None:
    array = kernels.fresh((1, size), np.uint8)
    array[0, 0], array[0, -1] = 1, 2
    assert array.shape == (1, size)
    assert all(array.flags[name] for name in ("C_CONTIGUOUS", "WRITEABLE", "ALIGNED"))
    copied = array.copy()
    del array
    assert (copied[0, 0], copied[0, -1]) == (1, 2)


def test_an_output_without_values_is_one(engine: str) -> None:
    assert kernels.fresh((0, 1 << 30), np.float64).shape == (0, 1 << 30)


def virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("no_idle_rooms")
@NEEDS_EXTENSION
@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux")
def test_little_memory_is_kept() -> None:
    before = virtual_bytes()
    for sizes in ([100] * 6, [300], [40] * 20, [255, 33], [1] * 100):
        rooms = [native.Room(size * MIB) for size in sizes]
        assert virtual_bytes() >= before + sum(sizes) * MIB
        del rooms
        assert virtual_bytes() <= before + 256 * MIB + 16 * MIB


@NEEDS_EXTENSION
@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), (-1, ValueError), (sys.maxsize, MemoryError), (1 << 61, MemoryError)]
)
def test_no_room(size: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        native.Room(size)


@NEEDS_EXTENSION
@pytest.mark.parametrize(
    ("arguments", "keywords"), [((), {}), ((1, 2), {}), (("a",), {}), ((1,), {"nbytes": 1})]
)
def test_a_room_takes_a_number(arguments: Any, keywords: Any) -> None:
    with pytest.raises(TypeError):
        native.Room(*arguments, **keywords)


@NEEDS_EXTENSION
def test_threads_never_share_a_room() -> None:
    wrong = []

    def use(number: int) -> None:
        for turn in range(30):
            array = np.ndarray(3 * MIB + number * turn, np.uint8, native.Room(3 * MIB + number * turn))
            array[::4096] = number
            time.sleep(0.0001)
            if (array[::4096] != number).any():
                wrong.append((number, turn))

    workers = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
