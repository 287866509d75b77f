"""Shards that are missing, swapped, replaced or broken: never zeros for what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sharded_stores import DIM, ROWS, make_shards, published, ways_to_open

import qstore
from qstore.reading import shard_files


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    return published(tmp_path / "shards", matrix)


@pytest.fixture(params=["directory", "list", "pattern"])
def sharded(request: pytest.FixtureRequest, folder: Path) -> Iterator[qstore.Store]:
    """The shards as one store, by each of the ways to say which."""
    with qstore.open(ways_to_open(folder)[request.param]) as store:
        yield store


def test_missing_shard(folder: Path, no_leaks: None) -> None:
    (folder / "part-3.h5").unlink()
    with pytest.raises(qstore.ShardError, match=r"part-3\.h5 \(missing\)"):
        qstore.open(folder)


def test_shard_lost_while_open(folder: Path) -> None:
    with qstore.open(folder) as store:
        assert store[0].shape == (DIM,)
        (folder / "part-3.h5").unlink()
        keys: list[Any] = [800, slice(None), [0, 800], (800, 1)]
        for key in keys:
            with pytest.raises(
                qstore.ShardError, match=r"shard number 3 is missing: expected a file .*part-3\.h5"
            ):
                store[key]
        assert store[0].shape == (DIM,)
        report = store.verify()
        assert not report.ok
        assert report.problems[0].startswith("shard number 3 is missing")


def test_swapped_shards(folder: Path) -> None:
    """Of one size, so that only their content tells them apart."""
    values = np.random.default_rng(0).standard_normal((20, 4))
    make_shards(folder.parent / "two", values, (0, 10, 20))
    two = folder.parent / "two"
    qstore.publish_shards(two)
    (two / "part-0.h5").rename(two / "x")
    (two / "part-1.h5").rename(two / "part-0.h5")
    (two / "x").rename(two / "part-1.h5")
    with qstore.open(two) as store:
        for read in (lambda: store[0], lambda: store[[19]], lambda: store[5:15], lambda: next(store.parts())):
            with pytest.raises(
                qstore.ShardError, match=r"part-\d\.h5 holds 10 rows with content .* has been replaced"
            ):
                read()
        assert len(store.verify().problems) == 2


def test_replaced_shard_while_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_files, "MOST_MAPPED", 1)
    values = np.random.default_rng(0).standard_normal((20, 4))
    make_shards(tmp_path / "two", values, (0, 10, 20))
    qstore.publish_shards(tmp_path / "two")
    with qstore.open(tmp_path / "two") as store:
        store[0], store[19]
        qstore.build(values[:10] * 2, tmp_path / "two" / "part-0.h5", overwrite=True)
        with pytest.raises(qstore.ShardError, match="has been replaced"):
            store[0]


def test_truncated_and_broken_shards(folder: Path) -> None:
    with (folder / "part-0.h5").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(qstore.ShardError, match=r"part-0\.h5 \(expected \d+ bytes, found 20000 bytes\)"):
        qstore.open(folder)
    with pytest.raises(qstore.FormatError, match="truncated"):
        qstore.open(str(folder / "part-*.h5"))


def test_broken_header(folder: Path) -> None:
    with (folder / "part-0.h5").open("r+b") as file:
        file.write(b"nonsense")
    with qstore.open(folder) as store, pytest.raises(qstore.ShardError, match="shard number 0 is broken"):
        store[0]


def test_verify_finds_flipped_bits(folder: Path, sharded: qstore.Store) -> None:
    seen: list[Any] = []
    report = sharded.verify(progress=lambda done, total: seen.append((done, total)))
    assert report.ok
    assert (report.rows, report.blocks, seen[-1]) == (ROWS, 5, (ROWS, ROWS))
    path = folder / "part-4.h5"
    content = bytearray(path.read_bytes())
    content[12288 + 5] ^= 1
    path.write_bytes(content)
    with qstore.open(folder) as store:
        report = store.verify()
    assert not report.ok
    assert report.broken_blocks == (3,)
    assert report.problems == ("shard part-4.h5: block 0 (rows 0 to 1498): codes differ from the checksum",)


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_shards_are_regular_files_of_the_directory(folder: Path, tmp_path: Path, kind: str) -> None:
    with qstore.open(folder) as opened:
        shutil.move(folder / "part-0.h5", tmp_path / "outside.h5")
        if kind == "link":
            (folder / "part-0.h5").symlink_to(tmp_path / "outside.h5")
        elif kind == "folder":
            (folder / "part-0.h5").mkdir()
        else:
            os.mkfifo(folder / "part-0.h5")
        with pytest.raises(qstore.ShardError, match="no regular file"):
            qstore.open(folder)
        with pytest.raises(qstore.ShardError, match="shard number 0 is missing"):
            opened[0]


def test_directory_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(qstore.FormatError, match=r"qstore\.json: there is no manifest.*publish_shards"):
        qstore.open(tmp_path)


def test_files_of_other_columns(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")
    qstore.build(np.eye(4), tmp_path / "b.h5")
    for attempt in (
        lambda: qstore.open([tmp_path / "a.h5", tmp_path / "b.h5"]),
        lambda: qstore.publish_shards(tmp_path),
    ):
        with pytest.raises(qstore.FormatError, match=r"b\.h5 has 4 columns, expected 3"):
            attempt()
    assert not (tmp_path / "qstore.json").exists()
