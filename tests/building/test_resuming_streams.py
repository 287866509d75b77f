"""Builds from files that are read from front to back go on where they stopped."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray
from streamed_files import DIM, STREAMED

import qstore
from qstore.engine import kernels
from qstore.format import layout
from qstore.sources import quantized as quantized_sources
from qstore.sources.containers.parquet_pages import ListColumn
from qstore.sources.parquet import ParquetRows
from qstore.sources.words import text

ROWS = 1530


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows, and text that is read in pieces of some lines."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 7_500)
    for name in ("numpy.npz._CHUNK_BYTES", "words.binary._BLOCK_BYTES", "parquet._BATCH_BYTES"):
        monkeypatch.setattr(f"qstore.sources.{name}", 7_500)


def matrix() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)


@pytest.fixture
def values() -> NDArray[np.float32]:
    return matrix()


@pytest.fixture(scope="module", params=STREAMED)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a file of each format, and what a build is given."""
    folder = tmp_path_factory.mktemp("source")
    return folder, STREAMED[request.param](folder, matrix())


@pytest.fixture
def source(made: tuple[Path, Any], tmp_path: Path) -> Any:
    """What a build is given, for each format: files of the test's own."""
    folder, given = made
    shutil.copytree(folder, tmp_path / "source")
    if isinstance(given, list):
        return [str(tmp_path / "source" / Path(path).name) for path in given]
    return tmp_path / "source" / given.name


@pytest.fixture
def quantized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call quantizes."""
    counts: list[int] = []
    quantize = kernels.quantize_into

    def counted(rows: NDArray[Any], *rest: Any) -> Any:
        counts.append(len(rows))
        return quantize(rows, *rest)

    monkeypatch.setattr(kernels, "quantize_into", counted)
    return counts


def interrupted(source: Any, path: Path, stop: int, **options: Any) -> None:
    with pytest.raises(Interrupt):
        qstore.build(source, path, progress=stop_at(stop), **options)


def touch(source: Any, time: int = 5) -> None:
    for path in source if isinstance(source, list) else [source]:
        os.utime(path, (time, time))


@pytest.mark.parametrize("rows", [None, (170, 1391)], ids=["all", "some"])
def test_an_interrupted_build_goes_on(
    source: Any, tmp_path: Path, quantized: list[int], rows: tuple[int, int] | None
) -> None:
    qstore.build(source, tmp_path / "whole.h5", rows=rows)
    for stop in (450, 1000):
        interrupted(source, tmp_path / "x.h5", stop, rows=rows)
    quantized.clear()
    seen: list[int] = []
    report = qstore.build(
        source, tmp_path / "x.h5", rows=rows, progress=lambda done, total: seen.append(done)
    )
    assert 1000 <= report.rows_resumed < report.rows
    assert sum(quantized) == report.rows - report.rows_resumed
    assert report.rows_resumed <= seen[0]
    assert seen[-1] == report.rows
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["source", "whole.h5", "x.h5"]


def test_a_build_that_could_not_be_published_only_finishes(
    source: Any, tmp_path: Path, quantized: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are in, and the last block is a short one."""
    qstore.build(source, tmp_path / "whole.h5")

    def fail(partial: Path, final: Path) -> None:
        raise OSError(5, "no luck")

    with monkeypatch.context() as patch:
        patch.setattr("qstore.system.durable_files.publish", fail)
        with pytest.raises(qstore.OutputError, match="no luck"):
            qstore.build(source, tmp_path / "x.h5")
    quantized.clear()
    report = qstore.build(source, tmp_path / "x.h5")
    assert (report.rows_resumed, quantized) == (ROWS, [])
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_touched_file_begins_again_and_says_so(
    source: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Comparing would take as long: all of the file is to be read again."""
    qstore.build(source, tmp_path / "whole.h5")
    interrupted(source, tmp_path / "x.h5", 1000)
    touch(source)
    assert qstore.plan(source, tmp_path / "x.h5").begins_again == "the source has been changed meanwhile"
    with caplog.at_level(logging.WARNING, "qstore"):
        assert qstore.build(source, tmp_path / "x.h5").rows_resumed == 0
    assert caplog.messages == [f"{tmp_path / 'x.h5'}: begins again: the source has been changed meanwhile"]
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_file_that_changes_back_and_forth_never_gives_a_mixture(tmp_path: Path) -> None:
    path, one = tmp_path / "m.txt", np.ones((ROWS, DIM), np.float32)
    other = one.copy()
    other[200:] = 2
    for values, time, stop in ((one, 1, 300), (other, 2, 700), (one, 1, 1200)):
        assert STREAMED["text without a header"](tmp_path, values).rename(path) == path
        touch(path, time)
        interrupted(path, tmp_path / "x.h5", stop)
    qstore.build(path, tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        assert (store[:] == 1).all()


def test_another_file_is_refused(tmp_path: Path, values: NDArray[np.float32]) -> None:
    source = STREAMED["text"](tmp_path, values)
    interrupted(source, tmp_path / "x.h5", 1000)
    STREAMED["text"](tmp_path, values[:-1])
    with pytest.raises(
        qstore.ResumeError, match=r"of the source was \S+.*, is .*; restore them, or start again"
    ):
        qstore.build(source, tmp_path / "x.h5")
    assert qstore.build(source, tmp_path / "x.h5", resume=False).rows == ROWS - 1


def test_with_or_without_keys_is_another_build(tmp_path: Path, values: NDArray[np.float32]) -> None:
    source = STREAMED["text"](tmp_path, values)
    interrupted(source, tmp_path / "x.h5", 1000)
    for keys, found in ((False, "None"), (np.arange(ROWS), "'given'")):
        with pytest.raises(qstore.ResumeError, match=f"keys was 'own', is {found}"):
            qstore.build(source, tmp_path / "x.h5", keys=keys)
    interrupted(source, tmp_path / "y.h5", 1000, keys=np.arange(ROWS))
    report = qstore.build(source, tmp_path / "y.h5", keys=np.arange(ROWS))
    assert (report.rows_resumed >= 1000, report.key_kind) == (True, "integer")


def test_another_column_of_keys_is_another_build(tmp_path: Path, values: NDArray[np.float32]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    path = str(tmp_path / "m.parquet")
    vectors = pyarrow.FixedSizeListArray.from_arrays(values.ravel(), DIM)
    parquet.write_table(
        pyarrow.table({"vector": vectors, "a": list(range(ROWS)), "b": list(range(1, ROWS + 1))}), path
    )
    interrupted(ParquetRows(path, keys="a"), tmp_path / "x.h5", 1000)
    with pytest.raises(qstore.ResumeError, match="the column of keys of the source was 'a', is 'b'"):
        qstore.build(ParquetRows(path, keys="b"), tmp_path / "x.h5")
    assert qstore.build(ParquetRows(path, keys="a"), tmp_path / "x.h5").rows_resumed >= 1000


def test_lines_before_are_not_parsed(
    tmp_path: Path, values: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = STREAMED["text without a header"](tmp_path, values)
    interrupted(source, tmp_path / "x.h5", 1200)
    parsed: list[int] = []
    parse = text.TextWordVectors._parsed

    def counted(reader: Any, piece: Any) -> Any:
        parsed.append(piece.rows)
        return parse(reader, piece)

    monkeypatch.setattr(text.TextWordVectors, "_parsed", counted)
    report = qstore.build(source, tmp_path / "x.h5")
    assert sum(parsed) == ROWS - report.rows_resumed < 400


def test_row_groups_before_are_not_read(
    tmp_path: Path, values: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = STREAMED["Parquet"](tmp_path, values)
    interrupted(source, tmp_path / "x.h5", 1300)
    opened = ParquetRows(str(source))
    groups: list[int] = []
    pages, batches = ListColumn.pages, opened._parquet.iter_batches

    def noted(column: Any, group: int, first: int) -> Any:
        groups.append(group)
        return pages(column, group, first)

    def noted_too(rows: int, wanted: list[int], *rest: Any, **options: Any) -> Any:
        groups.extend(wanted)
        return batches(rows, wanted, *rest, **options)

    monkeypatch.setattr(ListColumn, "pages", noted)  # by the extension
    monkeypatch.setattr(opened._parquet, "iter_batches", noted_too)
    report = qstore.build(opened, tmp_path / "x.h5")
    assert sorted(set(groups)) == list(range(report.rows_resumed // 170, 9))


@pytest.mark.filterwarnings("ignore:torch.quantize_per")
def test_codes_in_a_file_go_on(
    tmp_path: Path, values: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    zeros = torch.full((ROWS,), 128, dtype=torch.int64)
    tensor = torch.quantize_per_channel(
        torch.from_numpy(values), torch.ones(ROWS) / 40, zeros, 0, torch.quint8
    )
    torch.save({"w": tensor}, tmp_path / "m.pt")
    qstore.build(tmp_path / "m.pt", tmp_path / "whole.h5")
    monkeypatch.setattr(quantized_sources, "_CHUNK_BYTES", 150 * DIM)
    for name, time in (("x.h5", None), ("y.h5", 5)):
        interrupted(tmp_path / "m.pt", tmp_path / name, 1000)
        if time is not None:
            touch(tmp_path / "m.pt", time)
        assert qstore.build(tmp_path / "m.pt", tmp_path / name).rows_resumed == (0 if time else 1000)
        assert (tmp_path / name).read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize("keys", [None, "text"])
def test_a_store_that_another_program_wrote_goes_on(
    tmp_path: Path, values: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch, keys: str | None
) -> None:
    """Its codes are copied, its keys and the errors it was built with kept."""
    names = keys and [f"w{row}" for row in range(ROWS)]
    qstore.build(values, tmp_path / "first.h5", keys=names)
    with h5py.File(tmp_path / "first.h5") as old, h5py.File(tmp_path / "anew.h5", "w") as new:
        new.attrs.update(old.attrs)
        for name in old:
            if isinstance(old[name], h5py.Dataset):
                new.create_dataset(name, data=old[name][()], chunks=True)
            else:
                old.copy(name, new)
    monkeypatch.setattr(quantized_sources, "_CHUNK_BYTES", 150 * DIM)
    qstore.build(tmp_path / "anew.h5", tmp_path / "whole.h5")
    interrupted(tmp_path / "anew.h5", tmp_path / "x.h5", 1000)
    planned = qstore.plan(tmp_path / "anew.h5", tmp_path / "x.h5").rows_resumed
    report = qstore.build(tmp_path / "anew.h5", tmp_path / "x.h5")
    assert report.rows_resumed == planned >= 900
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    with qstore.open(tmp_path / "x.h5") as store, qstore.open(tmp_path / "first.h5") as first:
        assert store.key_kind == keys
        assert store.fidelity == first.fidelity is not None


# Shards -------------------------------------------------------------------------------------------------


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".h5"}


@pytest.mark.parametrize("stop", [250, 900, 1450, ROWS])
def test_shards_of_a_stream_go_on(source: Any, tmp_path: Path, quantized: list[int], stop: int) -> None:
    qstore.build_shards(source, tmp_path / "whole", 400)
    with pytest.raises(Interrupt):
        qstore.build_shards(source, tmp_path / "x", 400, progress=stop_at(stop))
    kept = {path.name: path.stat().st_ino for path in (tmp_path / "x").glob("part-*.h5")}
    plan = qstore.plan_shards(source, tmp_path / "x", 400)
    quantized.clear()
    report = qstore.build_shards(source, tmp_path / "x", 400)
    assert report.rows_resumed == plan.rows_resumed
    assert report.rows_resumed >= (stop - 1) // 100 * 100
    assert sum(quantized) == ROWS - report.rows_resumed
    assert shard_bytes(tmp_path / "x") == shard_bytes(tmp_path / "whole")
    assert kept.items() <= {path.name: path.stat().st_ino for path in (tmp_path / "x").iterdir()}.items()


def test_a_shard_that_is_lost_is_built_between_finished_ones(
    tmp_path: Path, values: NDArray[np.float32]
) -> None:
    source = STREAMED["npz"](tmp_path, values)
    qstore.build_shards(source, tmp_path / "whole", 400)
    with pytest.raises(Interrupt):
        qstore.build_shards(source, tmp_path / "x", 400, progress=stop_at(1300))
    (tmp_path / "x" / "part-00001.h5").unlink()
    report = qstore.build_shards(source, tmp_path / "x", 400)
    assert 800 <= report.rows_resumed < 1300
    assert shard_bytes(tmp_path / "x") == shard_bytes(tmp_path / "whole")
