"""The command export."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exported_files import read_safetensors, store_to_export, use_small_blocks, values_of

import qstore
from qstore.cli import main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    with store_to_export(tmp_path_factory.mktemp("export")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


def test_command(store: qstore.Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", store.path, "-o", str(tmp_path / "out.npy"), "--rows", "-5:", "--dtype", "float64"]
    assert main(words) == 0
    assert "5 × 48 float64" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), values_of(store, "float64")[-5:])
    assert main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(qstore.ExportReport.__dataclass_fields__)
    assert main([*words, "--force", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_command_with_codes_and_a_format(store: qstore.Store, tmp_path: Path) -> None:
    words = ["export", store.path, "--codes", "--format", "safetensors", "-q", "-o"]
    assert main([*words, str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(read_safetensors(tmp_path / "out")["codes"], store.codes)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-o", "out.xyz"], 2),
        (["-o", "out.npy", "--codes"], 2),
        (["-o", "out.npy", "--dtype", "int8"], 2),
        (["-o", "out.npy", "--rows", "0:9:2"], 2),
        (["-o", "out.npy", "--rows", "0:4000"], 2),
        ([], 2),
    ],
)
def test_command_used_wrongly(
    store: qstore.Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", store.path, *words]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error: " in captured.err
    assert os.listdir(tmp_path) == []
