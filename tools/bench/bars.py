"""What qstore promises: each line of the table says against what, how much, and whether it holds here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import engines
from .rounds import Outcome

__all__ = ["BARS", "CASES", "Bar", "Lookup", "bars_table"]

CASES = ("rows", "few", "pool", "quantize", "search", "import", "open", "huge", "cold", "build")
"""Cases that the table needs."""


class Lookup:
    """Finds outcomes."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        self._outcomes = outcomes

    def __call__(self, case: str, name: str, **setting: Any) -> Outcome | None:
        """The outcome of this name whose setting has these values; None if it was not measured."""
        for outcome in self._outcomes:
            same = setting.items() <= outcome.setting.items()
            if same and outcome.case == case and outcome.name == name:
                return outcome
        return None


Measure = Callable[[Lookup, str], float | None]


@dataclass(frozen=True)
class Bar:
    """One promise.

    Attributes
    ----------
    work, against : str
    bar : str
        The promise in words.
    measure : callable
        From a lookup and an engine's name to the figure; None if it was not measured.
    met : callable
    form : str
        Format of the figure.
    """

    work: str
    against: str
    bar: str
    measure: Measure
    met: Callable[[float], bool]
    form: str = "{:.2f}×"


def _faster(work: str, against: str, least: float, measure: Measure) -> Bar:
    """A promise to be so many times faster."""
    return Bar(work, against, f"≥ {least:g}×", measure, lambda ratio: ratio >= least)


def _ratio(case: str, peer: str, ending: str = "", **setting: Any) -> Measure:
    def measure(find: Lookup, ours: str) -> float | None:
        found = find(case, ours + ending, **setting), find(case, peer, **setting)
        return found[1].seconds / found[0].seconds if found[0] and found[1] else None

    return measure


def _threads_ratio(find: Lookup, ours: str) -> float | None:
    setting = {"source": ".npy", "state": "cached"}
    one, two = (find("build", f"{ours}, threads={count}", **setting) for count in (1, 2))
    return one.seconds / two.seconds if one and two else None


def _read_ratio(find: Lookup, ours: str) -> float | None:
    found = find("cold", ours)
    return found.figures["bytes_read"] / found.setting["touched"] if found else None


def _import_more(find: Lookup, _: str) -> float | None:
    ours, numpy = find("import", "import qstore; qstore.open"), find("import", "import numpy")
    return 1000 * (ours.seconds - numpy.seconds) if ours and numpy else None


def _open_milliseconds(find: Lookup, _: str) -> float | None:
    found = find("huge", "qstore, open and close")
    return 1000 * found.seconds if found else None


_MEMMAP = "numpy memmap float32"
_TORCH, _FAISS = "torch quantized Embedding", "faiss SQ8"
_FBGEMM = "torch embedding_bag_byte_rowwise_offsets, int64"
_PREPACK = "torch embedding_bag_byte_prepack"
_CODES = "numpy memmap of the codes"
_VALUES = "numpy memmap of the codes, made to values"
_ENGRAM = "engramdb Store.fetch of the codes"
_COPY = "cp --reflink=never, fsync"


def _gather(peer: str, way: str = "fresh", asked: int = 10_000) -> Measure:
    return _ratio("gather", peer, asked=asked, way=way, threads=1)


def _few(peer: str, asked: int, way: str, case: str = "few rows") -> Measure:
    return _ratio(case, peer, asked=asked, way=way)


def _short(peer: str, way: str) -> Measure:
    return _few(peer, 16, way, "few short rows")


def _slice(peer: str) -> Measure:
    return _ratio("slice", peer, threads=1)


def _pool(rows: int) -> Measure:
    return _ratio("pool", _FBGEMM, rows=rows, threads=1)


def _quantize(ending: str = "") -> Measure:
    return _ratio("quantize", _PREPACK, ending, threads=1)


def _build(threads: int) -> Measure:
    return _ratio("build", _COPY, f", threads={threads}", source=".npy", state="cached")


def _search(peer: str, queries: int, threads: int = 1) -> Measure:
    return _ratio("search", peer, f", threads={threads}", queries=queries)


def _search_read_ratio(find: Lookup, ours: str) -> float | None:
    slower = _search("limit: codes read once, threads=1", 1)(find, ours)
    return 1 / slower if slower else None


def _search_threads_ratio(find: Lookup, ours: str) -> float | None:
    one, two = (find("search", f"{ours}, threads={count}", queries=64) for count in (1, 2))
    return one.seconds / two.seconds if one and two else None


def _rows(asked: int) -> str:
    return f"{asked} rows" if asked > 1 else "an array of 1 row"


_FEW = (1, 8, 64)

BARS = [
    _faster("10,000 scattered rows, fresh", "np.load(mmap_mode='r')[idx]", 2.5, _gather(_MEMMAP)),
    _faster("the same, take(out=)", "np.take(memmap, out=, mode='clip')", 2.5, _gather(_MEMMAP, "out=")),
    _faster("the same, fresh", "torch quantized Embedding", 4, _gather(_TORCH)),
    _faster("the same, fresh", "faiss SQ8 reconstruct_batch", 4, _gather(_FAISS)),
    _faster("64 scattered rows", _MEMMAP, 1.3, _gather(_MEMMAP, asked=64)),
    *(
        _faster(f"{_rows(asked)}, fresh", "memmap[array]", 1.5, _few(_MEMMAP, asked, "fresh"))
        for asked in _FEW
    ),
    *(
        _faster(f"{_rows(asked)}, take(out=)", "np.take(memmap, out=)", 1, _few(_MEMMAP, asked, "out="))
        for asked in _FEW
    ),
    _faster("16 rows of 160, take(out=)", _VALUES, 2, _short(_VALUES, "out=")),
    _faster("16 rows of 160, take(out=)", "engramdb, bytes only", 1.5, _short(_ENGRAM, "out=")),
    _faster("16 rows of 160, fresh", _CODES, 1, _short(_CODES, "fresh")),
    _faster("one row", "np.array(mm[i])", 2, _ratio("one row", _MEMMAP)),
    _faster("one row", "a plain ndarray row copy", 0.5, _ratio("one row", "numpy array in memory")),
    _faster("slice of 10,000", "float32 copy", 1.3, _slice(_MEMMAP)),
    _faster("slice of 10,000", "faiss reconstruct_n", 1, _slice(_FAISS)),
    _faster("pooled bags, 200,000 rows", "FBGEMM rowwise_offsets", 1, _pool(200_000)),
    _faster("pooled bags, 2,000,000 rows", "FBGEMM rowwise_offsets", 0.8, _pool(2_000_000)),
    _faster("20,000 scattered rows, cold", "memmap of the codes", 4, _ratio("cold", _CODES)),
    Bar("the same", "pages touched", "bytes read ≤ 1.2×", _read_ratio, lambda ratio: ratio <= 1.2),
    _faster("the same", "float32, MADV_RANDOM", 3, _ratio("cold", "numpy memmap float32, MADV_RANDOM")),
    _faster("quantize in memory, fresh", "FBGEMM prepack", 2, _quantize()),
    _faster("quantize in memory, out=", "FBGEMM prepack", 2.8, _quantize(", out=")),
    _faster("exact search, 1 query", "faiss SQ8 inner product", 1.2, _search("faiss SQ8 inner product", 1)),
    Bar("the same", "codes read once", "time ≤ 1.4×", _search_read_ratio, lambda ratio: ratio <= 1.4),
    _faster("exact search, 64 queries", "faiss SQ8 inner product", 3, _search("faiss SQ8 inner product", 64)),
    _faster("the same", "usearch exact i8", 1.5, _search("usearch exact i8", 64)),
    _faster("the same, two threads", "one thread", 1.7, _search_threads_ratio),
    _faster("build from a cached .npy, one thread", "cp, fsync", 2, _build(1)),
    _faster("the same, two threads", "cp, fsync", 2, _build(2)),
    _faster("the same, two threads", "one thread", 1.5, _threads_ratio),
    Bar(
        "import qstore; qstore.open",
        "import numpy",
        "≤ 15 ms more",
        _import_more,
        lambda t: t <= 15,
        "{:.1f} ms",
    ),
    Bar("open a store of 1 TB", "—", "≤ 2 ms", _open_milliseconds, lambda t: t <= 2, "{:.2f} ms"),
]


def bars_table(outcomes: list[Outcome], levels: tuple[str, ...]) -> str:
    """The promises as a Markdown table; "met" is about the first engine."""
    find, names = Lookup(outcomes), [engines.label(level) for level in levels]
    heads = ["work", "against", "bar", *names, "met"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for bar in BARS:
        values = [bar.measure(find, name) for name in names]
        words = ["—" if value is None else bar.form.format(value) for value in values]
        met = "—" if values[0] is None else "yes" if bar.met(values[0]) else "no"
        lines.append("| " + " | ".join([bar.work, bar.against, bar.bar, *words, met]) + " |")
    return "\n".join(lines)
