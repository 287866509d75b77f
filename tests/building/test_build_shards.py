"""build_shards: the rows of a source in files of so many rows, gone on with after any interruption."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_programs import forked
from numpy.typing import NDArray
from sharded_stores import DIM, read_all

import qstore


def shard_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def sources_of(folder: Path, matrix: NDArray[Any]) -> dict[str, Any]:
    np.save(folder / "matrix.npy", matrix)
    codes, scales = qstore.quantize(matrix)
    lines = (" ".join([f"w{row}", *map(repr, values.tolist())]) for row, values in enumerate(matrix))
    (folder / "words.txt").write_text("\n".join([f"{len(matrix)} {DIM}", *lines]) + "\n")
    return {
        "file": folder / "matrix.npy",
        "array": matrix,
        "chunks": (matrix[start : start + 170] for start in range(0, len(matrix), 170)),
        "codes": (codes, scales),
        "words": folder / "words.txt",
    }


@pytest.mark.parametrize("kind", ["file", "array", "chunks", "codes", "words"])
def test_build_in_shards(tmp_path: Path, matrix: NDArray[Any], kind: str) -> None:
    source = sources_of(tmp_path, matrix[20:1020])[kind]
    seen: list[int] = []
    report = qstore.build_shards(source, tmp_path / "x", 300, progress=lambda done, total: seen.append(done))
    assert (report.rows, report.dim, report.rows_resumed, seen[-1]) == (1000, DIM, 0, 1000)
    names = [f"part-0000{number}.h5" for number in range(4)]
    assert sorted(os.listdir(tmp_path / "x")) == [*names, "qstore.json"]
    qstore.build(sources_of(tmp_path, matrix[20:1020])[kind], tmp_path / "one.h5")
    with qstore.open(tmp_path / "x") as store, qstore.open(tmp_path / "one.h5") as one:
        np.testing.assert_array_equal(store[:], one[:])
        assert (store.source_dtype, store.key_kind) == (one.source_dtype, one.key_kind)
        if kind == "words":
            assert store.rows_of(["w999", "w0"]).tolist() == [999, 0]
    before = shard_bytes(tmp_path / "x")
    qstore.build_shards(
        sources_of(tmp_path, matrix[20:1020])[kind], tmp_path / "x", 300, overwrite=True, threads=1
    )
    assert shard_bytes(tmp_path / "x") == before
    joined = qstore.concat([tmp_path / "x"], tmp_path / "joined.h5")
    with qstore.open(tmp_path / "one.h5") as one:
        assert joined.content_id == one.content_id


@pytest.mark.parametrize("streamed", [False, True])
def test_build_in_shards_with_keys_and_rows(tmp_path: Path, matrix: NDArray[Any], streamed: bool) -> None:
    keys = np.arange(1000) * 3
    source: Any = iter([matrix[:400], matrix[400:1000]]) if streamed else matrix[:1000]
    qstore.build_shards(source, tmp_path / "x", 300, keys=keys, rows=slice(50, None))
    with qstore.open(tmp_path / "x") as store:
        assert [shard.rows for shard in store.shards] == [300, 300, 300, 50]
        assert store.rows_of([150, 2997]).tolist() == [0, 949]
        np.testing.assert_array_equal(store.key_of(slice(None)), keys[50:])
    with pytest.raises(qstore.SourceError, match="there are 1,000 keys, expected one for each"):
        qstore.build_shards(matrix[:999], tmp_path / "y", 300, keys=keys)
    with pytest.raises(qstore.SourceError, match="there are 5 keys, expected one for each"):
        qstore.build_shards(iter([matrix]), tmp_path / "z", 300, keys=iter(range(5)))


def test_no_rows_in_shards(tmp_path: Path) -> None:
    sources: list[Any] = [np.empty((0, 3)), iter([np.empty((0, 3))])]
    for number, source in enumerate(sources):
        qstore.build_shards(source, tmp_path / str(number), 10)
        with qstore.open(tmp_path / str(number)) as store:
            assert store.shape == (0, 3)


def test_build_in_shards_refuses(tmp_path: Path, matrix: NDArray[Any]) -> None:
    qstore.build_shards(matrix, tmp_path / "x", 1000)
    with pytest.raises(qstore.ExistsError, match=r"qstore\.json exists; pass overwrite=True"):
        qstore.build_shards(matrix, tmp_path / "x", 1000)
    with pytest.raises(qstore.SourceError, match="shard_rows is 0"):
        qstore.build_shards(matrix, tmp_path / "y", 0)
    assert not (tmp_path / "y").exists()
    qstore.build_shards(matrix[:10], tmp_path / "x", 7, overwrite=True)
    assert sorted(os.listdir(tmp_path / "x")) == ["part-00000.h5", "part-00001.h5", "qstore.json"]


def stopped(folder: Path, source: Any, after: int, **options: Any) -> None:
    """A build that is interrupted once so many rows are done."""

    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done >= after:
            raise Stop

    with pytest.raises(Stop):
        qstore.build_shards(source, folder, 1000, progress=stop, **options)


def test_interrupted_build_goes_on(tmp_path: Path, matrix: NDArray[Any]) -> None:
    np.save(tmp_path / "m.npy", matrix)
    qstore.build_shards(tmp_path / "m.npy", tmp_path / "whole", 1000)
    expected = shard_bytes(tmp_path / "whole")
    folder = tmp_path / "x"
    stopped(folder, tmp_path / "m.npy", 2000)
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.open(folder)
    kept = (folder / "part-00000.h5").stat()
    with pytest.raises(qstore.ResumeError, match="shard_rows differ"):
        qstore.build_shards(tmp_path / "m.npy", folder, 500)
    report = qstore.build_shards(tmp_path / "m.npy", folder, 1000)
    assert report.rows_resumed >= 1000
    assert (folder / "part-00000.h5").stat().st_ino == kept.st_ino
    assert shard_bytes(folder) == expected


@pytest.mark.parametrize("change", ["touched", "restarted", "replaced", "array"])
def test_shards_of_what_may_be_another_source_are_built_again(
    tmp_path: Path, matrix: NDArray[Any], change: str
) -> None:
    np.save(tmp_path / "m.npy", matrix)
    source: Any = matrix if change == "array" else tmp_path / "m.npy"
    stopped(tmp_path / "x", source, 2000)
    if change in ("touched", "replaced"):
        np.save(tmp_path / "m.npy", matrix if change == "touched" else matrix * 2)
        os.utime(tmp_path / "m.npy", (1, 1))
        stopped(tmp_path / "x", source, 1000)  # what it leaves behind is of the new source alone
    report = qstore.build_shards(source, tmp_path / "x", 1000, resume=change != "restarted")
    with qstore.open(tmp_path / "x") as store:
        qstore.build(np.load(tmp_path / "m.npy"), tmp_path / "one.h5")
        with qstore.open(tmp_path / "one.h5") as one:
            np.testing.assert_array_equal(store[:], one[:])
    assert report.rows_resumed <= 1000


BUILT = """\
import os, sys, qstore
step, count = int(sys.argv[1]), 0
def counted(call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return call(*arguments, **options)
    return run
for name in ("fsync", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
qstore.build_shards("m.npy", "x", 10, threads=1, overwrite=sys.argv[2] == "over")
"""


@pytest.mark.parametrize("over", ["fresh", "over"])
def test_builds_killed_at_every_step(tmp_path: Path, over: str) -> None:
    """After each kill, what opens is the old store or the new one, and the same command ends well."""
    values = np.random.default_rng(0).standard_normal((25, 4))
    expected = []
    for number in (2, 1):
        np.save(tmp_path / "m.npy", values * number)
        qstore.build_shards(tmp_path / "m.npy", tmp_path / f"good{number}", 10)
        expected.append(shard_bytes(tmp_path / f"good{number}"))
    with forked(BUILT, tmp_path) as build:
        for step in range(1, 60):
            shutil.rmtree(tmp_path / "x", ignore_errors=True)
            if over == "over":
                shutil.copytree(tmp_path / "good2", tmp_path / "x")
            status = build(step, over)
            assert status in (0, 9)
            if (tmp_path / "x" / "qstore.json").exists():
                read_all(tmp_path / "x")
            qstore.build_shards(
                tmp_path / "m.npy", tmp_path / "x", 10, overwrite=status == 0 or over == "over"
            )
            for left in (tmp_path / "x").glob("*.tmp"):
                left.unlink()
            assert shard_bytes(tmp_path / "x") == expected[1]
            if status == 0:
                break
    assert 10 < step < 59
