"""Stores in a process whose address space is limited (``ulimit -v``), and maps that file systems refuse."""

from __future__ import annotations

import errno
import mmap
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import start

import qstore

ROOM = """
import resource, sys
import numpy, h5py, qstore
import qstore.reading.local_store
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    with qstore.open(sys.argv[1]) as store:
        print(store[7, 0], store.take([5, 3])[:, 0], float(store[:2].sum()), store.verify().ok)
except OSError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 256 MiB, of which nearly nothing is on the disk."""
    path = tmp_path_factory.mktemp("large") / "store.h5"
    values = np.zeros((1 << 10, 1 << 18), np.uint8)
    values[:, 0] = 128
    with qstore.Writer(path, 1 << 18) as writer:
        for first in range(0, 1 << 10, 64):
            writer.append_codes(values[first : first + 64] + np.uint8(128), np.ones(64))
    return path


def told(path: Path, room: int) -> str:
    process = start(path, room, code=ROOM)
    out, err = process.communicate(timeout=300)
    assert err == b"", err.decode()
    return out.decode().strip()


def test_room_for_one_map(large: Path) -> None:
    size = large.stat().st_size
    answer = told(large, 3 * size)
    assert answer.endswith("True")
    assert told(large, size + (160 << 20)) == answer


def test_room_for_none(large: Path) -> None:
    size = large.stat().st_size
    said = told(large, size // 2)
    assert f"its {size:,} bytes do not fit the address space of " in said
    assert "(ulimit -v)" in said
    assert str(large) in said


def refused(number: int, which: Callable[[int], bool]) -> Any:
    """`mmap.mmap` that fails for the calls that `which` picks."""
    calls, made = 0, mmap.mmap

    def maps(*arguments: Any, **options: Any) -> mmap.mmap:
        nonlocal calls
        calls += 1
        if which(calls):
            raise OSError(number, "not here")
        return made(*arguments, **options)

    return maps


def test_a_second_map_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    values = np.random.default_rng(0).standard_normal((50, 8)).astype("f4")
    qstore.build(values, tmp_path / "a.h5", keys=range(50))
    with qstore.open(tmp_path / "a.h5") as store:
        expected = store[[3, 1]], store[7], store[:], store.search(store[3], 3)[1]
    monkeypatch.setattr("mmap.mmap", refused(errno.ENOMEM, lambda call: call == 2))
    with qstore.open(tmp_path / "a.h5") as store:
        found = store[[3, 1]], store[7], store[:], store.search(store[3], 3)[1]
        assert store.rows_of([30]).tolist() == [30]
        assert store.verify().ok
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENODEV, "cannot be mapped: No such device"), (errno.ENOMEM, "do not fit the address space")],
)
def test_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, no_leaks: None
) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")
    monkeypatch.setattr("mmap.mmap", refused(number, lambda call: True))
    monkeypatch.setattr("resource.getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with pytest.raises(OSError, match=said) as caught:
        qstore.open(tmp_path / "a.h5")
    assert caught.value.errno == number
    assert caught.value.filename == str(tmp_path / "a.h5")


def test_maps_are_private(tmp_path: Path) -> None:
    """File systems in user space refuse shared ones where they bypass the page cache."""
    qstore.build(np.eye(3), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5") as store:
        assert len(store) == 3
        lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("a.h5")]
        assert [line.split()[1] for line in lines] == ["r--p", "r--p"]
