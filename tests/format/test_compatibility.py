"""Published versions stay readable, value for value; the same input still makes the same bytes.

The files in tests/data/v1 are frozen: nothing here writes them. ``tools/fixtures`` adds new ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore

FOLDER = Path(__file__).parents[1] / "data" / "v1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_bytes())
REBUILT = [name for name, expected in EXPECTED.items() if "values" in expected["source"]]
MEASURED = [name for name in REBUILT if EXPECTED[name]["source"].get("measured")]
KEYED = [name for name, expected in EXPECTED.items() if "keys" in expected["source"]]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def numbers(hexadecimal: list[str]) -> list[float]:
    return [float.fromhex(text) for text in hexadecimal]


def matrix_of(source: dict[str, Any]) -> NDArray[Any]:
    if source["dtype"] == "bfloat16":
        return np.array(source["values"], np.uint16).view(np.dtype([("bfloat16", "<u2")]))
    values = np.array(source["values"], source["dtype"])
    return values if values.ndim == 2 else values.reshape(0, source["dim"])


def version_of(name: str) -> tuple[int, int]:
    return (1, 9) if name == "newer-minor.h5" else (1, 1) if name in (*MEASURED, *KEYED) else (1, 0)


def test_every_file_is_recorded() -> None:
    assert {path.name for path in FOLDER.glob("*.h5")} == set(EXPECTED)
    assert len(EXPECTED) >= 10


@pytest.mark.parametrize("name", EXPECTED)
def test_files_are_as_they_were_frozen(name: str) -> None:
    assert sha256((FOLDER / name).read_bytes()) == EXPECTED[name]["sha256"]


@pytest.mark.parametrize("name", EXPECTED)
def test_facts(name: str) -> None:
    expected = EXPECTED[name]
    with qstore.open(FOLDER / name) as store:
        assert list(store.shape) == expected["shape"]
        assert store.content_id == expected["content_id"]
        assert store.tensor == expected["tensor"]
        assert store.source_dtype == expected["source_dtype"]
        assert store.format_version == version_of(name)
        report = store.verify()
        assert report.ok
        assert report.rows == expected["shape"][0]


@pytest.mark.parametrize("name", EXPECTED)
def test_values(name: str) -> None:
    expected = EXPECTED[name]
    with qstore.open(FOLDER / name) as store:
        assert sha256(store.codes.tobytes()) == expected["codes_sha256"]
        assert store.scales[:5].tolist() == numbers(expected["scales"])
        assert sha256(store[:].astype("<f4").tobytes()) == expected["float32_sha256"]
        exact = store.astype("float64")
        if len(store):
            assert exact[0].tolist() == numbers(expected["first_row"])
            assert exact[-1].tolist() == numbers(expected["last_row"])
        assert exact[:].shape == tuple(expected["shape"])


@pytest.mark.parametrize("name", KEYED)
def test_keys(name: str) -> None:
    keys: list[Any] = EXPECTED[name]["source"]["keys"]
    with qstore.open(FOLDER / name) as store:
        assert list(store.key_of(slice(None))) == keys
        assert store.rows_of(keys).tolist() == list(range(len(keys)))
        assert store.verify().keys_ok


@pytest.mark.parametrize("name", REBUILT)
def test_the_same_input_makes_the_same_bytes(name: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    matrix = matrix_of(expected["source"])
    options = {"tensor": expected["tensor"], "source_dtype": expected["source_dtype"]}
    with qstore.Writer(tmp_path / name, matrix.shape[1], **options) as writer:
        if name in MEASURED:
            writer.append(matrix)
        else:  # without a source there is nothing to measure, and the file is one of format 1.0
            writer.append_codes(*qstore.quantize(matrix), keys=expected["source"].get("keys"))
    assert sha256((tmp_path / name).read_bytes()) == expected["sha256"]


@pytest.mark.parametrize("name", REBUILT)
def test_what_is_measured_adds_to_the_file_and_changes_nothing_else(name: str, tmp_path: Path) -> None:
    expected = EXPECTED[name]
    matrix = matrix_of(expected["source"])
    with qstore.Writer(tmp_path / name, matrix.shape[1], tensor=expected["tensor"]) as writer:
        writer.append(matrix, keys=expected["source"].get("keys"))
    with qstore.open(tmp_path / name) as store, qstore.open(FOLDER / name) as frozen:
        assert store.content_id == frozen.content_id
        assert (store.fidelity is None) == (len(matrix) == 0)
        end = 12288 + matrix.size
    assert (tmp_path / name).read_bytes()[8192:end] == (FOLDER / name).read_bytes()[8192:end]


@pytest.mark.parametrize("name", EXPECTED)
def test_fidelity(name: str) -> None:
    with qstore.open(FOLDER / name) as store:
        found = store.fidelity
    if name not in MEASURED:
        assert found is None
        return
    assert found is not None
    expected = EXPECTED[name]["fidelity"]
    assert found.rows == expected["rows"]
    assert [found.max_error.hex(), found.rms_error.hex()] == [expected["max_error"], expected["rms_error"]]
    assert [[row, error.hex()] for row, error in found.worst_rows] == expected["worst_rows"]


def test_the_same_codes_make_the_same_bytes(tmp_path: Path) -> None:
    expected = EXPECTED["codes-from-0.h5"]
    codes = np.array(expected["source"]["codes"], np.uint8)
    with qstore.Writer(tmp_path / "store.h5", codes.shape[1]) as writer:
        writer.append_codes(codes, np.array(expected["source"]["scales"], np.float64))
    assert sha256((tmp_path / "store.h5").read_bytes()) == expected["sha256"]
