"""How much of a store stays mapped, and that the same values come however much that is."""

from __future__ import annotations

import io
import mmap
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.engine.file_rows import WINDOW_BYTES
from qstore.reading.local_store import LocalStore
from qstore.reading.shard_files import ShardFiles
from qstore.system import paging
from qstore.system.paging import Resident, Steps

ROWS, DIM = 500_000, 256
MOST = 32 << 20


def write(path: Path, rows: int, seed: int = 0) -> None:
    pool = np.random.default_rng(seed).integers(1, 256, (1 << 14, DIM), dtype=np.uint8)
    with qstore.Writer(path, DIM) as writer:
        for first in range(0, rows, len(pool)):
            count = min(len(pool), rows - first)
            writer.append_codes(pool[:count], np.arange(first, first + count) / 1024 + 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "store.h5"
    write(path, ROWS)
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(4):
        write(folder / f"part-{number}.h5", ROWS // 4, number)
    qstore.publish_shards(folder)
    return folder


def resident(place: Path) -> int:
    """Bytes of the files at or in a place that are mapped in this process."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            here = str(place) in line
        elif here and line.startswith("Rss:"):
            found += int(line.split()[1]) << 10
    return found


def scattered(seed: int, count: int = 20_000) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(-ROWS, ROWS, count)


def read_all_ways(store: qstore.Store) -> dict[str, Any]:
    rows = scattered(1)
    vector = np.linspace(-1, 1, DIM)
    return {
        "take": [store.take(scattered(seed)) for seed in range(3)][-1],
        "few": [store[scattered(seed, 16)] for seed in range(300)][-1],
        "one": [store[int(row)] for row in scattered(2, 300)][-1],
        "columns": store[rows, 5:77],
        "values": store[rows, rows % DIM],
        "codes": store.take_codes(rows)[0],
        "pool": store.pool(rows, [0, 7, 15_000]),
        "slice": store[3:-5, :2],
        "steps": store[::-9],
        "blocks": sum(float(block[-1, -1]) for _, block in store.blocks()),
        "search": store.search(vector, 5, threads=1)[1],
        "search of some": store.search(vector, 5, rows=rows[:3000], threads=1)[1],
        "stats": store.stats(threads=1).to_dict(),
        "mean": np.mean(store, axis=0),
        "product": store @ vector,
        "verify": store.verify(threads=1).ok,
    }


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("scales", [False, True])
def test_what_stays_mapped(large: Path, shards: Path, sharded: bool, scales: bool, no_leaks: None) -> None:
    path = shards if sharded else large
    with qstore.open(path, resident_bytes=None) as store:
        expected = read_all_ways(store)
        unbounded = resident(path)
    assert unbounded > 2 * MOST
    with qstore.open(path, resident_bytes=MOST, resident_scales=scales) as store:
        for seed in range(10):
            store.take(scattered(seed))
            assert resident(path) <= MOST
        found = read_all_ways(store)
        assert resident(path) <= MOST
    for name, value in expected.items():
        np.testing.assert_equal(found[name], value, name)


@pytest.mark.parametrize("name", ["parts", "stats", "verify", "blocks"])
def test_ranges_are_given_back_on_the_way(large: Path, name: str) -> None:
    seen: list[int] = []

    def look(*done: object) -> None:
        seen.append(resident(large))

    with qstore.open(large, resident_bytes=MOST) as store:
        if name in ("blocks", "parts"):
            for part in getattr(store, name)():
                part[1].max()
                look()
            del part
        else:
            getattr(store, name)(threads=1, progress=look)
    assert len(seen) > 2
    assert max(seen) <= MOST


def test_arrays_of_users_map_what_they_touch(large: Path) -> None:
    """Until something else is read."""
    with qstore.open(large, resident_bytes=MOST) as store:
        total = int(store.codes[::16].sum())
        assert resident(large) > 2 * MOST
        codes = store.codes
        store[: MOST // DIM]
        assert resident(large) <= MOST
        assert int(codes[::16].sum()) == total
        del codes


def test_a_store_that_fits_is_read_through_the_map(large: Path) -> None:
    with qstore.open(large) as store:
        store.take(scattered(0))
        store.take(scattered(1))
        backing = store._mapping
        assert isinstance(backing, LocalStore)
        assert not backing.pager.cold
        assert not backing.resident.bounded


def test_windows_are_shared_by_shards_and_given_back(shards: Path) -> None:
    with qstore.open(shards, resident_bytes=MOST) as store:
        files: ShardFiles = store._mapping._files  # type: ignore[attr-defined]
        for seed in range(5):
            store.take(scattered(seed))
        taken = sum(int(file._held.taken.sum()) for file in files._open.values())
        assert 0 < taken <= MOST // 2 // WINDOW_BYTES
        assert files.resident.left[0] == MOST // 2 // WINDOW_BYTES - taken
    assert files.resident.left[0] == MOST // 2 // WINDOW_BYTES


def test_threads(large: Path) -> None:
    rows = [scattered(seed, 3000) for seed in range(8)]
    with qstore.open(large, resident_bytes=None) as store:
        expected = [store.take(some) for some in rows]
    wrong: list[int] = []
    with qstore.open(large, resident_bytes=MOST) as store:

        def work(number: int) -> None:
            for _ in range(5):
                if not np.array_equal(store.take(rows[number]), expected[number]):
                    wrong.append(number)
                store[number * 1000 : number * 1000 + 5000]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(rows))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert resident(large) <= MOST
    assert not wrong


def test_a_forked_child_counts_for_itself(large: Path) -> None:
    with qstore.open(large, resident_bytes=MOST) as store:
        expected = [store.take(scattered(seed)) for seed in range(4)]
        child = os.fork()
        if child == 0:
            good = all(np.array_equal(store.take(scattered(seed)), expected[seed]) for seed in range(4))
            os._exit(0 if good and resident(large) <= MOST else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_store_that_is_closed_while_it_is_read(large: Path, no_leaks: None) -> None:
    """A descriptor that is closed under a reader might be another file's by then."""
    store = qstore.open(large, resident_bytes=0)
    expected, wrong = store.take(scattered(0)), []

    def work() -> None:
        try:
            while True:
                if not np.array_equal(store.take(scattered(0)), expected):
                    wrong.append(1)
        except qstore.ClosedError:
            pass

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join()
    assert not wrong
    with pytest.raises(qstore.ClosedError):
        store.take([1])


def test_pickling_keeps_it(large: Path, shards: Path) -> None:
    for path in (large, shards):
        with qstore.open(path, resident_bytes=MOST) as store, pickle.loads(pickle.dumps(store)) as copy:
            assert copy._mapping.reopening()[1]["resident_bytes"] == MOST


def test_half_of_the_memory_by_default(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = paging.memory_bytes() // 2
    assert 0 < half <= os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
    with qstore.open(large) as store:
        assert store._mapping.reopening()[1]["resident_bytes"] == max(1 << 30, half)
    monkeypatch.setattr(paging, "memory_bytes", lambda: 1 << 20)
    paging.usual_resident_bytes.cache_clear()
    with qstore.open(large) as store:
        assert store._mapping.reopening()[1]["resident_bytes"] == 1 << 30
    paging.usual_resident_bytes.cache_clear()


def test_the_least_limit_of_all_groups_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/other\n4:memory:/a/b\n0::/x/y\n",
        "/sys/fs/cgroup/x/y/memory.max": "max\n",
        "/sys/fs/cgroup/x/memory.max": "7000000\n",
        "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": "8000000\n",
    }

    def read(path: str) -> io.StringIO:
        if path not in files:
            raise FileNotFoundError(path)
        return io.StringIO(files[path])

    monkeypatch.setattr(paging, "open", read, raising=False)
    assert paging.memory_bytes() == 7_000_000
    del files["/sys/fs/cgroup/x/memory.max"]
    assert paging.memory_bytes() == 8_000_000
    files.clear()
    assert paging.memory_bytes() == os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


@pytest.mark.parametrize(("given", "error"), [(-1, ValueError), (1.5, ValueError), ("1G", ValueError)])
def test_numbers_that_are_none(large: Path, given: Any, error: type[Exception]) -> None:
    with pytest.raises((error, TypeError), match="resident_bytes"):
        qstore.open(large, resident_bytes=given)


@pytest.mark.parametrize("count", [1, 16, 48, 1000, 20_000])
def test_no_page_is_read_that_was_not_asked_for(large: Path, count: int) -> None:
    """Nor twice. On a file system in memory nothing is read at all."""
    rows = np.random.default_rng(count).integers(0, ROWS, count)
    with qstore.open(large, resident_bytes=MOST) as store:
        codes, scales = (store._mapping.facts.extents[name].offset for name in ("codes", "scales"))
        store.take(rows[:1])  # what the kernel reads of directories and the like
    with open(large, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with qstore.open(large, resident_bytes=MOST) as store:
        before = bytes_read()
        store.take(rows, out=np.empty((count, DIM), np.float32))
        read = bytes_read() - before
    size = mmap.PAGESIZE
    touched = {(codes + row * DIM + end) // size for row in rows.tolist() for end in (0, DIM - 1)}
    touched |= {(scales + row * 8) // size for row in rows.tolist()}
    assert read <= 1.01 * size * len(touched) + (64 << 10)  # the file system has pages of its own


def bytes_read() -> int:
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def told(steps: Steps) -> tuple[bool, bool]:
    return steps.found, steps.cold


def test_steps_until_rows_are_expected_in_memory() -> None:
    steps = Steps(1_000_000, 100, bounded=False)
    assert told(steps) == (False, True)
    steps.note_read(4095, 0, 0)
    assert told(steps) == (False, True)
    steps.note_read(1, 0, 0)
    assert told(steps) == (True, False)
    steps.note_few(10, 10**9)  # long, but nothing was read: a busy processor
    assert told(steps) == (True, False)
    steps.note_read(5000, 1, 0)
    assert told(steps) == (False, True)
    steps.note_read(5000, -1, 10**12)  # nobody knows, and it took long
    assert told(steps) == (False, True)
    steps.note_read(5000, -1, 10)
    assert told(steps) == (True, False)
    bounded = Steps(10, 100, bounded=True)
    bounded.note_read(10, 0, 0)
    assert told(bounded) == (True, True)


def test_what_slow_faults_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Steps(100, 100, bounded=False)
    steps.note_read(100, 0, 0)

    class Usage:
        ru_majflt = 10**9

    monkeypatch.setattr("resource.getrusage", lambda who: Usage)
    steps.note_few(10, 10_000)
    assert told(steps) == (True, False)
    steps.note_few(10, 10**9)
    assert told(steps) == (False, True)


def test_maps_that_are_gone_are_left_alone() -> None:
    resident = Resident(100 << 20, 200 << 20, WINDOW_BYTES)
    mapped = mmap.mmap(-1, 4096)
    resident.watch(mapped)
    resident.note(200 << 20)
    mapped.close()
    resident.note(200 << 20)
    del mapped
    resident.note(200 << 20)
    assert resident.left[0] == 25
