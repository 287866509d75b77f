"""Reading what has to be parsed: word vectors as text, plain and packed, and lists in Parquet."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.sources import open_source

from . import engines
from .limits import read_through
from .options import Options
from .peers import library
from .rounds import Contest, Entrant, each
from .scene import check_same, normal_values

__all__ = ["parsed"]

_DIM = 300
_MOST_ROWS = 60_000
_PIECE_BYTES = 1 << 16


def parsed(options: Options) -> Iterator[Contest]:
    """From the page cache, on one thread and more; text has five digits a number and no header."""
    values = normal_values(min(_MOST_ROWS, options.rows), _DIM)
    with tempfile.TemporaryDirectory(prefix="qstore-bench-", dir=options.folder) as folder:
        path = Path(folder, "vectors.txt")
        with open(path, "wb") as file:
            for row, line in enumerate(values.tolist()):
                file.write(b"w%d %s\n" % (row, b" ".join([b"%.5g" % value for value in line])))
        yield _contest(options, path, path.stat().st_size, {"pyarrow csv": _read_csv})
        packed = path.with_suffix(".txt.gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), 6, mtime=0))
        yield _contest(options, packed, path.stat().st_size, {}, _inflate)
        try:
            arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
        except ImportError:
            return
        path = path.with_suffix(".parquet")
        offsets = np.arange(len(values) + 1, dtype=np.int32) * _DIM
        lists = arrow.ListArray.from_arrays(offsets, arrow.array(values.reshape(-1)))
        parquet.write_table(arrow.table({"v": lists}), path)
        yield _contest(options, path, values.nbytes, {"pyarrow read_table": _read_table})


def _contest(
    options: Options,
    path: Path,
    size: int,
    peers: dict[str, Callable[[Path], Any]],
    limit: Callable[[Path], object] | None = None,
) -> Contest:
    read_through(path)
    with open_source(path) as source:
        last = list(source.chunks())[-1][-1]
    same = partial(check_same, expected=last)
    entrants = []
    for level in options.levels:
        for threads in sorted({1, *options.threads}):
            for work, run in (("read", _read), ("build", _build)):
                entrants.append(
                    Entrant(
                        f"{engines.label(level)}, {work}, threads={threads}",
                        each(partial(run, path, threads)),
                        kind="ours",
                        check=same if work == "read" else partial(_check_store, last),
                        before=partial(engines.use, level),
                        single=True,
                        moved=size,
                    )
                )
    skipped: dict[str, str] = {}
    for name, peer in peers.items() if options.wants("pyarrow") else ():
        try:
            library("pyarrow")
        except ImportError as error:
            skipped["pyarrow"] = str(error)
            continue
        run_peer = each(partial(_of_path, peer, path))
        entrants.append(Entrant(f"{name}, one thread", run_peer, check=same, single=True, moved=size))
    if limit is not None:
        run_limit = each(partial(_of_path, limit, path))
        entrants.append(Entrant("limit: inflating it", run_limit, kind="limit", single=True, moved=size))
    return Contest("parsed", {"dim": _DIM, "file": "".join(path.suffixes)}, entrants, skipped)


def _of_path(run: Callable[[Path], Any], path: Path, _: int) -> Any:
    return run(path)


def _read(path: Path, threads: int, _: int) -> NDArray[Any]:
    """The last row, after all others and their words."""
    with open_source(path) as source:
        source.threads = threads
        chunks = (chunk for chunk, _ in source.keyed_chunks()) if source.keyed else source.chunks()
        last = np.empty(0, np.float32)
        for chunk in chunks:
            last = chunk[-1]
    return last


def _build(path: Path, threads: int, _: int) -> Path:
    store = path.with_suffix(".h5")
    qstore.build(path, store, threads=threads, overwrite=True)
    return store


def _check_store(last: NDArray[Any], path: Path) -> None:
    with qstore.open(path) as store:
        check_same(store.codes[-1], qstore.quantize(last[None])[0][0])


def _read_csv(path: Path) -> NDArray[Any]:
    csv, arrow = library("pyarrow.csv"), library("pyarrow")
    names = [str(number) for number in range(_DIM)]
    table = csv.read_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False, column_names=["word", *names]),
        parse_options=csv.ParseOptions(delimiter=" ", quote_char=False),
        convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, arrow.float32())),
    )
    return np.array([table[name][-1].as_py() for name in names], np.float32)


def _read_table(path: Path) -> NDArray[Any]:
    column = library("pyarrow.parquet").read_table(path, use_threads=False)["v"]
    pieces = [piece.flatten().to_numpy() for piece in column.chunks]
    return np.asarray(pieces[-1][-_DIM:])


def _inflate(path: Path) -> None:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            unpacker.decompress(piece)
