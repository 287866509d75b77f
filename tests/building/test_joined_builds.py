"""Stores of several tensors that are one matrix: the same as of that matrix, whatever else is asked for."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at

import qstore
from qstore.errors import ResumeError, SourceError, TensorError

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from fixtures.ngram_tables import PATTERN, Table, write

TABLE = Table("bf16", 128 * 64, 160, 128)
ALL: dict[str, Any] = {"tensor": PATTERN, "join": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ngram")
    write(folder, TABLE, files=7)
    return folder


@pytest.fixture(scope="module")
def values() -> Any:
    return TABLE.values(0, TABLE.rows)


def codes_of(path: Path) -> tuple[Any, Any]:
    with qstore.open(path) as store:
        codes, scales = store.take_codes(np.arange(len(store)))
        return codes, scales


@pytest.mark.parametrize("threads", [1, 5])
def test_it_is_the_store_of_the_whole_matrix(
    checkpoint: Path, values: Any, tmp_path: Path, threads: int
) -> None:
    report = qstore.build(checkpoint, tmp_path / "joined.h5", threads=threads, **ALL)
    assert (report.rows, report.dim, report.source_dtype) == (TABLE.rows, 160, "bfloat16")
    assert report.tensor == PATTERN
    qstore.build(values, tmp_path / "whole.h5")
    for found, expected in zip(
        codes_of(tmp_path / "joined.h5"), codes_of(tmp_path / "whole.h5"), strict=True
    ):
        assert np.array_equal(found, expected)


def test_rows_and_keys(checkpoint: Path, values: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"rows": slice(1000, 3000), "keys": [f"n{row}" for row in range(3000)]}
    qstore.build(checkpoint, tmp_path / "some.h5", **ALL, **options)
    with qstore.open(tmp_path / "some.h5") as store:
        assert np.array_equal(codes_of(tmp_path / "some.h5")[0], qstore.quantize(values[1000:3000])[0])
        assert store.rows_of(["n2999", "n1000"]).tolist() == [1999, 0]
        assert qstore.verify_against(store, checkpoint, **ALL, **options).ok


def test_shards(checkpoint: Path, values: Any, tmp_path: Path) -> None:
    planned = qstore.plan_shards(checkpoint, tmp_path / "parts", shard_rows=999, **ALL)
    report = qstore.build_shards(checkpoint, tmp_path / "parts", shard_rows=999, **ALL)
    assert (planned.rows, planned.shards) == (report.rows, 9)
    with qstore.open(tmp_path / "parts") as store:
        assert store.tensor == PATTERN
    codes, scales = qstore.quantize(values)
    found = codes_of(tmp_path / "parts")
    assert np.array_equal(found[0], codes)
    assert np.array_equal(found[1], scales)


def test_a_plan_reads_headers_alone(checkpoint: Path, tmp_path: Path) -> None:
    found = qstore.plan(checkpoint, tmp_path / "joined.h5", **ALL)
    assert (found.rows, found.dim, found.tensor) == (TABLE.rows, 160, PATTERN)
    report = qstore.build(checkpoint, tmp_path / "joined.h5", **ALL)
    assert (found.source_bytes, found.file_bytes) == (report.source_bytes, report.file_bytes)


@pytest.mark.parametrize("rows", [1, 4000, TABLE.rows - 1])
def test_an_interrupted_build_goes_on(checkpoint: Path, tmp_path: Path, rows: int) -> None:
    qstore.build(checkpoint, tmp_path / "whole.h5", **ALL)
    path = tmp_path / "joined.h5"
    with pytest.raises(Interrupt):
        qstore.build(checkpoint, path, progress=stop_at(rows), **ALL)
    qstore.build(checkpoint, path, **ALL)
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_another_pattern_is_another_source(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.h5"
    with pytest.raises(Interrupt):
        qstore.build(checkpoint, path, progress=stop_at(1), **ALL)
    with pytest.raises(ResumeError):
        qstore.build(checkpoint, path, tensor=PATTERN.replace("*", "?"), join=True)


def test_verify_finds_the_tensors_by_the_name_of_the_store(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.h5"
    qstore.build(checkpoint, path, **ALL)
    for options in (ALL, {}):
        found = qstore.verify_against(path, checkpoint, **options)
        assert found.ok
        assert found.fidelity is not None
    one = PATTERN.replace("*", "7")
    assert not qstore.verify_against(path, checkpoint, tensor=one).ok
    qstore.build(checkpoint, tmp_path / "one.h5", tensor=one)
    assert qstore.verify_against(tmp_path / "one.h5", checkpoint).ok
    with pytest.raises(TensorError):
        qstore.build(checkpoint, tmp_path / "none.h5", tensor=PATTERN)


def test_permuted_shards_are_seen(checkpoint: Path, tmp_path: Path) -> None:
    """As text, 10 comes before 2."""
    path = tmp_path / "permuted.h5"
    with qstore.Writer(path, 160, tensor=PATTERN) as writer:
        for shard in sorted(range(TABLE.shards), key=str):
            writer.append(TABLE.values(shard * TABLE.shard_rows, (shard + 1) * TABLE.shard_rows))
    found = qstore.verify_against(path, checkpoint, **ALL)
    assert not found.ok
    assert found.first_differing_row == 2 * TABLE.shard_rows


@pytest.mark.parametrize("call", [qstore.build, qstore.plan])
def test_nothing_is_left_of_what_is_refused(
    checkpoint: Path, tmp_path: Path, call: Callable[..., Any]
) -> None:
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    del index["weight_map"][PATTERN.replace("*", "77")]
    for file in checkpoint.glob("*.safetensors"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SourceError, match=r"shard_76\.weight' is followed by .*shard_78\.weight'"):
        call(tmp_path, tmp_path / "joined.h5", **ALL)
    assert sorted(tmp_path.iterdir()) == before


def test_scales_of_all_members_are_not_held(tmp_path: Path) -> None:
    table = Table("fp8-e8m0", 8 * 70_000, 32, 8)  # scales of 70 kB a member, 280 kB as numbers
    write(tmp_path, table, files=2)
    tracemalloc.start()
    try:
        with qstore.sources.open_source(tmp_path, PATTERN, join=True) as source:
            for first in range(0, table.rows, 70_000):
                assert len(source.read(first, first + 10)) == 10  # type: ignore[attr-defined]
            assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
