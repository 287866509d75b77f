"""Quantized weights through all that builds: one store, many, shards, plans, comparison, the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_files import Held, matrix, of_library, save, save_sharded
from source_contract import files_open_in

import qstore
from qstore.cli import main
from qstore.errors import ResumeError, SourceError

pytestmark = pytest.mark.usefixtures("no_leaks")

ROWS, DIM = 5000, 256
GENERATOR = np.random.default_rng(11)
INT8 = GENERATOR.integers(-128, 128, (ROWS, DIM)).astype(np.int8)
STEPS = GENERATOR.random((ROWS, 1)).astype(np.float32)
FLOAT8 = GENERATOR.integers(0, 120, (ROWS, DIM)).astype(np.uint8)
POWERS = GENERATOR.integers(118, 128, (ROWS, DIM // 32)).astype(np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables, each quantized in another way, over several files."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tensors: dict[str, Held] = {
        "a.weight_scale": matrix(STEPS),
        "b.scale": matrix(POWERS, "F8_E8M0"),
        "b.weight": matrix(FLOAT8, "F8_E4M3"),
        "a.weight": matrix(INT8),
        "norm": matrix(np.ones(7, np.float32)),
    }
    return save_sharded(folder, tensors, {})


def test_codes_of_many_blocks(checkpoint: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        report = qstore.build(
            checkpoint, tmp_path / "out.h5", tensor="a.weight", threads=threads, overwrite=True
        )
        assert (report.rows, report.dim, report.source_dtype, report.warnings) == (ROWS, DIM, "quantized", ())
        with qstore.open(tmp_path / "out.h5") as store:
            np.testing.assert_array_equal(store.codes, INT8.astype(np.int16) + 128)
            np.testing.assert_array_equal(store.scales, STEPS[:, 0])
            assert store.verify().ok


def test_the_same_bytes_as_from_values_and_from_codes(checkpoint: Path, tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = FLOAT8.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values *= np.exp2(POWERS.astype(np.float32) - 127).repeat(32, 1)
    for tensor, other in (("a.weight", (INT8, STEPS)), ("b.weight", values)):
        qstore.build(checkpoint, tmp_path / "one.h5", tensor=tensor, overwrite=True)
        qstore.build(other, tmp_path / "two.h5", overwrite=True)
        with qstore.open(tmp_path / "one.h5") as one, qstore.open(tmp_path / "two.h5") as two:
            assert one.content_id == two.content_id
            assert one.fidelity == two.fidelity


@pytest.mark.parametrize("tensor", ["a.weight", "b.weight"])
def test_rows_shards_and_plans(checkpoint: Path, tmp_path: Path, tensor: str) -> None:
    qstore.build(checkpoint, tmp_path / "whole.h5", tensor=tensor)
    rows = (4001, 4900)
    plan = qstore.plan(checkpoint, tmp_path / "part.h5", tensor=tensor, rows=rows)
    report = qstore.build(checkpoint, tmp_path / "part.h5", tensor=tensor, rows=rows)
    assert (plan.rows, plan.convention, plan.file_bytes) == (899, report.convention, report.file_bytes)
    shards = qstore.build_shards(checkpoint, tmp_path / "shards", 1999, tensor=tensor)
    assert (shards.convention, shards.rows) == (report.convention, ROWS)
    with (
        qstore.open(tmp_path / "whole.h5") as whole,
        qstore.open(tmp_path / "part.h5") as part,
        qstore.open(tmp_path / "shards") as parts,
    ):
        assert whole.source_dtype == parts.source_dtype == report.convention
        np.testing.assert_array_equal(part[:], whole[4001:4900])
        np.testing.assert_array_equal(parts[:], whole[:])
        assert qstore.verify_against(parts, checkpoint, tensor=tensor).ok
        assert not qstore.verify_against(parts, checkpoint, tensor=tensor, as_stored=True).ok
    assert files_open_in(checkpoint.parent) == []


def test_a_store_of_each(checkpoint: Path, tmp_path: Path) -> None:
    plans = qstore.plan_all(checkpoint, tmp_path / "stores")
    reports = qstore.build_all(checkpoint, tmp_path / "stores")
    assert [one.tensor for one in plans] == [one.tensor for one in reports] == ["a.weight", "b.weight"]
    assert [one.convention for one in plans] == [one.convention for one in reports]
    assert all(one.convention for one in reports)
    again = qstore.build_all(checkpoint, tmp_path / "stores")
    assert [one.rows_resumed for one in again] == [ROWS, ROWS]
    assert [one.convention for one in again] == [one.convention for one in reports]
    with pytest.raises(qstore.ExistsError):
        qstore.build_all(checkpoint, tmp_path / "stores", as_stored=True)


def test_a_store_of_each_by_hand(tmp_path: Path) -> None:
    tensors = {f"{name}.weight": matrix(INT8[:50]) for name in "ab"} | {"shared": matrix(STEPS[:50])}
    path = save(tmp_path / "model.safetensors", tensors)
    for resumed in (0, 50):
        reports = qstore.build_all(path, tmp_path / "stores", "?.weight", scale="shared")
        assert [one.rows_resumed for one in reports] == [resumed, resumed]
        assert [one.convention for one in reports] == ["int8 * shared of its row"] * 2


def test_an_interrupted_build_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        if done > 2000:
            raise Stop

    def interrupted(**options: Any) -> None:
        with pytest.raises(Stop):
            qstore.build(checkpoint, tmp_path / "out.h5", tensor="b.weight", progress=stop, **options)

    qstore.build(checkpoint, tmp_path / "whole.h5", tensor="b.weight")
    interrupted(threads=1)
    with pytest.raises(ResumeError, match="other parameters"):
        qstore.build(checkpoint, tmp_path / "out.h5", tensor="b.weight", as_stored=True)
    report = qstore.build(checkpoint, tmp_path / "out.h5", tensor="b.weight")
    assert report.rows_resumed > 0
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = of_library("bitsandbytes-int8")

    def run(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        found = capsys.readouterr()
        return status, found.out, found.err

    status, listed, _ = run("ls", folder)
    assert (status, listed.splitlines()[1].split()[0]) == (0, "model.embed_tokens.weight")
    assert "int8 * SCB / 127 of its row" in listed
    assert "SCB" in run("ls", folder, "--as-stored")[1].splitlines()[1]
    (told,) = json.loads(run("ls", folder, "--json")[1])
    assert (told["convention"], told["bytes"]) == ("int8 * SCB / 127 of its row", 640 + 40 + 1)
    status, built, _ = run("build", folder, "-o", tmp_path / "out.h5")
    assert status == 0
    assert "int8 * SCB / 127 of its row" in built
    assert "built from  int8 * SCB / 127 of its row" in run("info", tmp_path / "out.h5")[1]
    assert run("verify", tmp_path / "out.h5", "--against", folder)[0] == 0

    name = "model.embed_tokens.weight"
    more = ("--tensor", name, "--as-stored", "--step", "1")
    assert run("build", folder, "-o", tmp_path / "bare.h5", *more)[0] == 0
    assert run("verify", tmp_path / "bare.h5", "--against", folder, *more)[0] == 0
    scaled = ("--tensor", name, "--scale", "model.embed_tokens.SCB")
    assert run("build", folder, "-o", tmp_path / "scaled.h5", *scaled)[0] == 0
    status, _, words = run("verify", tmp_path / "scaled.h5", "--against", folder, *scaled, "--as-stored")
    assert (status, "not allowed with argument" in words) == (2, True)
    status, _, words = run("build", folder, "-o", tmp_path / "x.h5", "--tensor", name, "--scale", "nothing")
    assert (status, "has no tensor 'nothing'" in words) == (2, True)
    assert not (tmp_path / "x.h5").exists()


@pytest.mark.parametrize("make", [qstore.build, qstore.plan])
def test_an_array_has_no_scales_by_name(make: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="give a tuple of codes and scales"):
        make(INT8, tmp_path / "out.h5", scale="weight_scale")
