"""Chunks of no rows at all: from iterables, and of files that lie before the rows that are wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import qstore


def test_chunks_without_rows(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    for number, chunks in enumerate(
        ([values, values[:0]], [values[:0], values], [values[:2], values[:0], values[2:]], [values[:0]])
    ):
        path = tmp_path / f"{number}.h5"
        report = qstore.build(chunks, path)
        with qstore.open(path) as store:
            assert report.rows == len(store) == sum(map(len, chunks))
            assert qstore.verify_against(store, chunks).ok


def test_files_before_the_rows_that_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x 1 2\ny 3 4\n")
    (tmp_path / "b.txt").write_text("z 5 6\n")
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for keys in (None, False):
        path = tmp_path / f"{keys}.h5"
        qstore.build(paths, path, rows=(2, 3), keys=keys)
        with qstore.open(path) as store:
            assert np.allclose(store[:], [[5, 6]], atol=0.03)
            assert qstore.verify_against(store, paths, rows=(2, 3), keys=keys).ok
