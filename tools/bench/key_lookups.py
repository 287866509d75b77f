"""Keys, measured: lookups against a pickled dict, SQLite and marisa-trie; the memory of builds; a cold start.

    python tools/bench/key_lookups.py lookup [--keys 1000000] [--rounds 7] [--folder DIR]
    python tools/bench/key_lookups.py build [--ids 100000000] [--texts 10000000] [--folder DIR]
    python tools/bench/key_lookups.py cold STORE KEY [--rounds 7]

Each round of ``lookup`` starts a process for each contestant in turn; what is printed are medians. A process
opens its index, finds keys in batches of 10,000 and one by one, and says how its private memory (RssAnon)
grew. ``build`` watches RssAnon from outside. Linux only; SQLite and marisa-trie are left out where missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import qstore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from checks.memory import measure, private_memory, qstore_command

from bench.pagecache import drop

_BATCH = 10_000
_BATCHES = 30
_SINGLES = 20_000
_DIM = 8
_PIECE = 1 << 20

Find = Callable[[list[str]], Any]
"""Finds the rows of a batch of keys."""


def main() -> int:
    """Run one of the measurements."""
    options = parse_arguments()
    if options.job == "contestant":
        print(json.dumps(contest(options.name, Path(options.folder))))
    elif options.job == "cold":
        cold(Path(options.store), options.key, options.rounds)
    else:
        with tempfile.TemporaryDirectory(prefix="qstore-keys-", dir=options.folder) as folder:
            if options.job == "lookup":
                lookup(Path(folder), options.keys, options.rounds)
            else:
                build(Path(folder), options.ids, options.texts)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    finding = jobs.add_parser("lookup")
    finding.add_argument("--keys", type=int, default=1_000_000)
    finding.add_argument("--rounds", type=int, default=7)
    finding.add_argument("--folder")
    building = jobs.add_parser("build")
    building.add_argument("--ids", type=int, default=100_000_000)
    building.add_argument("--texts", type=int, default=10_000_000)
    building.add_argument("--folder")
    starting = jobs.add_parser("cold")
    starting.add_argument("store")
    starting.add_argument("key")
    starting.add_argument("--rounds", type=int, default=7)
    one = jobs.add_parser("contestant")
    one.add_argument("name")
    one.add_argument("folder")
    return parser.parse_args()


# Lookups ------------------------------------------------------------------------------------------------


def words(count: int) -> list[str]:
    """Different words of 4 to 20 letters, in no order."""
    generator = random.Random(1)
    letters = "etaoinshrdlcumwfgypbvk"
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(generator.choices(letters, k=generator.randint(4, 20)))] = None
    return list(found)


def lookup(folder: Path, count: int, rounds: int) -> None:
    """Make every contestant's index of the same keys, then measure them in turn."""
    keys = words(count)
    make_indexes(folder, keys)
    (folder / "asked").write_bytes(pickle.dumps(random.Random(2).choices(range(count), k=_BATCH * _BATCHES)))
    (folder / "words").write_bytes(pickle.dumps(keys))
    names = [name for name in CONTESTANTS if available(name)]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "contestant", name, str(folder)]
            results[name].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    print(f"{count:,} keys, {rounds} rounds, medians; engine {qstore.engine_name()}")
    print(f"{'':14} {'open ms':>9} {'batch µs/key':>13} {'single µs':>10} {'private MB':>11} {'file MB':>8}")
    for name in names:
        medians = {
            field: statistics.median(one[field] for one in results[name]) for field in results[name][0]
        }
        size = (folder / CONTESTANTS[name][0]).stat().st_size / 1e6
        print(
            f"{name:14} {medians['open_ms']:9.2f} {medians['batch_us']:13.3f} {medians['single_us']:10.2f} "
            f"{medians['private_mb']:11.1f} {size:8.1f}"
        )


def make_indexes(folder: Path, keys: list[str]) -> None:
    """Stores with and without keys, a pickled dict, a database, a trie."""
    values = np.zeros((len(keys), _DIM), np.float32)
    qstore.build(values, folder / "keyed.h5", keys=keys)
    qstore.build(values, folder / "bare.h5")
    (folder / "dict.pickle").write_bytes(pickle.dumps({key: row for row, key in enumerate(keys)}, protocol=5))
    if available("sqlite"):
        import sqlite3

        with sqlite3.connect(folder / "rows.sqlite") as database:
            database.execute("create table keys (key text primary key, row integer) without rowid")
            database.executemany("insert into keys values (?, ?)", zip(keys, range(len(keys)), strict=True))
        database.close()
    if available("marisa-trie"):
        import marisa_trie

        trie = marisa_trie.Trie(keys)
        rows = np.empty(len(keys), np.int64)
        rows[[trie[key] for key in keys]] = np.arange(len(keys))
        trie.save(str(folder / "keys.marisa"))
        np.save(folder / "keys.marisa.npy", rows)


def available(name: str) -> bool:
    """Whether the contestant's library is installed."""
    library = {"sqlite": "sqlite3", "marisa-trie": "marisa_trie"}.get(name)
    return library is None or importlib.util.find_spec(library) is not None


def open_store(folder: Path) -> Find:
    """A store with keys."""
    return qstore.open(folder / "keyed.h5").rows_of


def open_bare(folder: Path) -> None:
    """The same store without keys: for what opening costs."""
    qstore.open(folder / "bare.h5")


def open_dict(folder: Path) -> Find:
    """A dict that was pickled."""
    rows = pickle.loads((folder / "dict.pickle").read_bytes())
    return lambda keys: [rows[key] for key in keys]


def open_sqlite(folder: Path) -> Find:
    """A table with an index on the keys, asked for 500 at once."""
    import sqlite3

    database = sqlite3.connect(folder / "rows.sqlite")

    def find(keys: list[str]) -> list[int]:
        found: dict[str, int] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            found.update(database.execute(f"select key, row from keys where key in ({marks})", some))
        return [found[key] for key in keys]

    return find


def open_marisa(folder: Path) -> Find:
    """A mapped trie that numbers the keys, and a mapped array of rows by these numbers."""
    import marisa_trie

    trie = marisa_trie.Trie().mmap(str(folder / "keys.marisa"))
    rows = np.load(folder / "keys.marisa.npy", mmap_mode="r")
    return lambda keys: rows[[trie[key] for key in keys]]


CONTESTANTS: dict[str, tuple[str, Callable[[Path], Find | None]]] = {
    "qstore": ("keyed.h5", open_store),
    "without keys": ("bare.h5", open_bare),
    "dict (pickle)": ("dict.pickle", open_dict),
    "sqlite": ("rows.sqlite", open_sqlite),
    "marisa-trie": ("keys.marisa", open_marisa),
}


def contest(name: str, folder: Path) -> dict[str, float]:
    """Measure one contestant in this process, which has imported what it needs before."""
    keys = pickle.loads((folder / "words").read_bytes())
    asked = pickle.loads((folder / "asked").read_bytes())
    batches = [[keys[row] for row in asked[at : at + _BATCH]] for at in range(0, len(asked), _BATCH)]
    qstore.engine_name(), qstore.open
    if name == "marisa-trie":
        import marisa_trie  # noqa: F401
    before = private_memory(os.getpid())
    begun = time.perf_counter()
    find = CONTESTANTS[name][1](folder)
    result = {"open_ms": (time.perf_counter() - begun) * 1e3, "batch_us": np.nan, "single_us": np.nan}
    if find is not None:
        result["batch_us"] = statistics.median(timed(find, batch) for batch in batches) / _BATCH * 1e6
        result |= {"private_mb": (private_memory(os.getpid()) - before) / 1e6}
        singles = [[keys[row]] for row in asked[:_SINGLES]]
        result["single_us"] = statistics.median(timed(find, one) for one in singles) * 1e6
        if list(find(batches[0])) != asked[:_BATCH]:
            sys.exit(f"{name} found other rows")
    return {"private_mb": (private_memory(os.getpid()) - before) / 1e6, **result}


def timed(find: Find, keys: list[str]) -> float:
    """Seconds that one call takes."""
    begun = time.perf_counter()
    find(keys)
    return time.perf_counter() - begun


# Builds -------------------------------------------------------------------------------------------------


def build(folder: Path, ids: int, texts: int) -> None:
    """Private memory of builds with so many keys, beside the same builds without."""
    for kind, count, write in (("ids", ids, write_ids), ("texts", texts, write_texts)):
        if count:
            source, keys = folder / "source.npy", write(folder, count)
            np.save(source, np.broadcast_to(np.float32(1), (count, 1)))
            command = [*qstore_command(), "build", str(source), "-o", str(folder / "store.h5"), "--force"]
            bare = measure(f"{count:,} rows without keys", command)
            peak = measure(f"{count:,} {kind}", [*command, "--keys", str(keys)])
            size = (folder / "store.h5").stat().st_size
            print(
                f"  {(peak - bare) / 2**20:.1f} MiB more than without keys; the store has {size / 1e9:.2f} GB"
            )


def write_ids(folder: Path, count: int) -> Path:
    """Whole numbers spread over 62 bits, in no order: the step is odd, so that none comes twice."""
    path = folder / "ids.npy"
    numbers = np.lib.format.open_memmap(path, "w+", np.int64, (count,))
    for start in range(0, count, _PIECE):
        stop = min(start + _PIECE, count)
        spread = np.arange(start, stop, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        numbers[start:stop] = (spread & np.uint64((1 << 62) - 1)).astype(np.int64)
    numbers.flush()
    return path


def write_texts(folder: Path, count: int) -> Path:
    """Words with numbers in them, a line each."""
    path = folder / "texts.txt"
    with path.open("w") as file:
        file.writelines(lines(count))
    return path


def lines(count: int) -> Iterator[str]:
    """So many different lines."""
    return (f"user-{row * 7919 % count:x}@{row % 977}\n" for row in range(count))


# A cold start -------------------------------------------------------------------------------------------


def cold(store: Path, key: str, rounds: int) -> None:
    """Time ``qstore get STORE --key KEY`` with the store out of the page cache; and NumPy alone."""
    commands: dict[str, Sequence[str]] = {
        "qstore get --key": [*qstore_command(), "get", str(store), "--key", key],
        "qstore get 0": [*qstore_command(), "get", str(store), "0"],
        "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            drop(store)
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - begun)
    for name, found in times.items():
        print(f"{name:26} {statistics.median(found) * 1e3:7.1f} ms (best {min(found) * 1e3:.1f})")


if __name__ == "__main__":
    sys.exit(main())
