"""Files that can only be read from front to back, one of each format, with the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from word_files import PACK

__all__ = ["DIM", "STREAMED", "words_of"]

DIM = 12

Make = Callable[[Path, NDArray[np.float32]], Any]


def words_of(values: NDArray[Any]) -> list[str]:
    return [f"word-{row}" for row in range(len(values))]


def _lines(values: NDArray[np.float32], words: list[str]) -> bytes:
    return b"".join(
        f"{word} {' '.join(map(repr, row.tolist()))}\n".encode()
        for word, row in zip(words, values, strict=True)
    )


def _header(values: NDArray[Any]) -> bytes:
    return f"{len(values)} {values.shape[1]}\n".encode()


def _glove(folder: Path, values: NDArray[np.float32]) -> Path:
    path = folder / "vectors.txt"
    path.write_bytes(_lines(values, words_of(values)))
    return path


def _word2vec(folder: Path, values: NDArray[np.float32]) -> Path:
    path = folder / "vectors.vec"
    path.write_bytes(_header(values) + _lines(values, words_of(values)))
    return path


def _packed(suffix: str) -> Make:
    def make(folder: Path, values: NDArray[np.float32]) -> Path:
        path = folder / f"vectors.vec{suffix}"
        path.write_bytes(PACK[suffix](_header(values) + _lines(values, words_of(values))))
        return path

    return make


def _binary(folder: Path, values: NDArray[np.float32]) -> Path:
    path = folder / "vectors.bin"
    rows = zip(words_of(values), values, strict=True)
    path.write_bytes(
        _header(values) + b"".join(word.encode() + b" " + row.tobytes() + b"\n" for word, row in rows)
    )
    return path


def _several(folder: Path, values: NDArray[np.float32]) -> list[str]:
    """Three files that do not say how many rows they have."""
    paths, words, cuts = [], words_of(values), [0, 200, 900, len(values)]
    for number in range(3):
        held = slice(cuts[number], cuts[number + 1])
        paths.append(str(folder / f"part-{number}.txt"))
        Path(paths[-1]).write_bytes(_lines(values[held], words[held]))
    return paths


def _npz(folder: Path, values: NDArray[np.float32]) -> Path:
    np.savez_compressed(folder / "vectors.npz", values)
    return folder / "vectors.npz"


def _parquet(keyed: bool) -> Make:
    def make(folder: Path, values: NDArray[np.float32]) -> Path:
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import parquet

        columns = {"vector": pyarrow.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])}
        if keyed:
            columns["key"] = pyarrow.array(range(10, 10 + len(values)), pyarrow.int64())
        parquet.write_table(pyarrow.table(columns), folder / "vectors.parquet", row_group_size=170)
        return folder / "vectors.parquet"

    return make


STREAMED: dict[str, Make] = {
    "text": _word2vec,
    "text without a header": _glove,
    "text in several files": _several,
    **{f"text packed in {suffix}": _packed(suffix) for suffix in PACK},
    "binary": _binary,
    "npz": _npz,
    "Parquet": _parquet(False),
    "Parquet with keys": _parquet(True),
}
"""What makes each, from a folder and a matrix."""
