"""The commands on directories of shards: info, ls, get, verify, export, append, build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sharded_stores import DIM, ROWS, make_shards, published

import qstore
from qstore.cli import main


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    return published(tmp_path / "shards", matrix)


@pytest.fixture
def one(tmp_path: Path, matrix: NDArray[Any]) -> Iterator[qstore.Store]:
    """The same rows in one file."""
    qstore.build(matrix, tmp_path / "one.h5")
    with qstore.open(tmp_path / "one.h5") as store:
        yield store


def test_commands_take_directories(
    folder: Path,
    one: qstore.Store,
    matrix: NDArray[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["info", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["dim"], found["shards"], found["datasets"]) == (ROWS, DIM, 6, {})
    assert found["file_bytes"] == sum((folder / f"part-{n}.h5").stat().st_size for n in range(6))
    assert main(["info", str(folder)]) == 0
    assert "6 shards" in capsys.readouterr().out
    assert main(["ls", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["shape"] == [ROWS, DIM]
    for rows in (["2998", "-1"], ["690:710"], ["::-500"]):
        assert main(["get", str(folder), *rows]) == 0
        sharded = capsys.readouterr().out
        assert main(["get", one.path, *rows]) == 0
        assert capsys.readouterr().out == sharded
    assert main(["get", str(folder), "3001"]) == 2
    assert main(["get", str(folder), "0", "-o", str(folder / "part-1.h5")]) == 2
    np.save(tmp_path / "matrix.npy", matrix)
    assert main(["verify", str(folder), "--against", str(tmp_path / "matrix.npy")]) == 0
    capsys.readouterr()
    for codes in ([], ["--codes"]):
        outs = [str(tmp_path / f"{name}.safetensors") for name in ("a", "b")]
        for source, out in zip((str(folder), one.path), outs, strict=True):
            assert main(["export", source, "-o", out, "-q", "--force", *codes]) == 0
        assert Path(outs[0]).read_bytes() == Path(outs[1]).read_bytes()
    assert main(["export", str(folder), "-o", str(folder / "part-1.h5"), "--format", "npy", "--force"]) == 2
    (folder / "part-2.h5").unlink()
    assert main(["verify", str(folder)]) == 2
    assert "part-2.h5 (missing)" in capsys.readouterr().err


def test_append_command(tmp_path: Path, matrix: NDArray[Any], capsys: pytest.CaptureFixture[str]) -> None:
    make_shards(tmp_path / "x", matrix, (0, 5, 9))
    assert main(["append", str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out.split()[2:] == ["shards", "2", "rows", "9"]
    qstore.build(matrix[:1], tmp_path / "x" / "more.h5")
    assert main(["append", str(tmp_path / "x"), "more.h5", "--json"]) == 0
    assert [shard["rows"] for shard in json.loads(capsys.readouterr().out)] == [5, 4, 1]
    assert main(["append", str(tmp_path / "x"), "more.h5"]) == 2
    assert "is a shard already" in capsys.readouterr().err


def test_build_command_in_shards(
    tmp_path: Path, matrix: NDArray[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "m.npy", matrix)
    command = ["build", str(tmp_path / "m.npy"), "-o", str(tmp_path / "x") + "/", "--shard-rows", "1000"]
    assert main(command) == 0
    assert "3,001 × 48" in capsys.readouterr().out
    assert main([*command, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3001
    assert main([*command, "--dry-run"]) == 2
    assert main([*command, "--dry-run", "--force"]) == 0
    with qstore.open(tmp_path / "x") as store:
        assert len(store.shards) == 4
