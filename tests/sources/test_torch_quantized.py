"""Quantized tensors in torch checkpoints: their codes go in as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import files_open_in, refused, same
from torch_files import ORDERED_DICT, body, checkpoint, rebuild, state, storage

from qstore.errors import SourceError
from qstore.sources import QuantizedSource, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def quantized(
    scheme: str = "per_channel_affine",
    kind: str = "QUInt8Storage",
    axis: int = 0,
    scales: bytes | None = None,
    zeros: bytes | None = None,
    rows: int = 4,
) -> bytes:
    """Opcodes that push a quantized tensor with storages 0 (codes), 1 (scales) and 2 (zero points)."""
    parameters = (
        f"(ctorch\n{scheme}\n".encode()
        + (scales or rebuild(storage("1", rows, "DoubleStorage"), 0, (rows,), (1,)))
        + (zeros or rebuild(storage("2", rows, "LongStorage"), 0, (rows,), (1,)))
        + body(axis)
        + b"t"
    )
    view = storage("0", rows * 3, kind) + body(0) + body((rows, 3)) + body((3, 1))
    return b"ctorch._utils\n_rebuild_qtensor\n(" + view + parameters + b"\x89" + ORDERED_DICT + b"tR"


CODES = np.arange(12, dtype=np.uint8).reshape(4, 3) * 23
SCALES = np.array([0.5, 1e-3, 0.0, 1e300])


def quantized_file(
    path: Path, ops: bytes, scales: NDArray[Any] = SCALES, zeros: NDArray[Any] | None = None
) -> Path:
    zeros = np.full(4, 128, np.int64) if zeros is None else zeros
    return checkpoint(path, state(q=ops), {"0": CODES, "1": scales, "2": zeros})


def codes_of(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    with open_source(path) as source:
        assert isinstance(source, QuantizedSource)
        assert (source.rows, source.dim, source.dtype, source.name) == (4, 3, "quantized", "q")
        return source.read_codes(0, 4)


def test_codes_go_in_as_they_are(tmp_path: Path) -> None:
    codes, scales = codes_of(quantized_file(tmp_path / "m.pt", quantized()))
    assert np.array_equal(codes, CODES)
    assert np.array_equal(scales, SCALES)


def test_codes_around_0_are_shifted(tmp_path: Path) -> None:
    ops = quantized(kind="QInt8Storage")
    codes, _ = codes_of(quantized_file(tmp_path / "m.pt", ops, zeros=np.zeros(4, np.int64)))
    assert np.array_equal(codes, CODES.view(np.int8).astype(int) + 128)


def test_quantized_rows_are_read_by_range(tmp_path: Path) -> None:
    with open_source(quantized_file(tmp_path / "m.pt", quantized())) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(1, 3)
        assert np.array_equal(codes, CODES[1:3])
        assert np.array_equal(scales, SCALES[1:3])
        assert same(source.read(1, 3), (CODES[1:3] - 128.0) * SCALES[1:3, None])
        assert [len(codes) for codes, _ in source.coded_chunks(1, 3)] == [2]
        assert (source.fingerprint() or {})["dtype"] == "quantized"
        source.check_unchanged()
        with pytest.raises(SourceError, match="has 4 rows"):
            source.read_codes(1, 5)


@pytest.mark.parametrize(
    ("scales", "zeros", "words"),
    [
        (SCALES, np.array([128, 128, 127, 0]), "row 2 has zero point 127: expected 128"),
        (SCALES * -1, None, "row 0 has scale -0.5: expected scales that are finite and not negative"),
        (np.array([1, 1, 1, np.inf]), None, "row 3 has scale inf"),
        (np.array([1, np.nan, 1, 1]), None, "row 1 has scale nan"),
    ],
)
def test_bad_parameters_name_the_row(
    tmp_path: Path, scales: NDArray[Any], zeros: NDArray[Any] | None, words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        codes_of(quantized_file(tmp_path / "m.pt", quantized(), scales, zeros))


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        (quantized(axis=1), "holds quint8: expected one of float16"),
        (quantized(scheme="per_channel_affine_float_qparams"), "holds quint8"),
        (quantized(kind="QInt32Storage"), "expected 48 bytes of data, found 12"),
        (quantized(scales=body(0.5)), "its scales expected shape (4,) of float64 or float32, found float"),
        (quantized(zeros=body(128)), "its zero points expected shape (4,) of int64 or int32, found int"),
        (quantized(scales=rebuild(storage("1", 4, "DoubleStorage"), 0, (3,), (1,))), "found (3,) of float64"),
        (quantized(zeros=rebuild(storage("2", 4, "LongStorage"), 0, (4,), (0,))), "has strides (0, 1)"),
        (quantized(zeros=rebuild(storage("9", 4, "LongStorage"), 0, (4,), (1,))), "no such member"),
        (quantized(scales=rebuild(storage("0", 1, "DoubleStorage"), 0, (4,), (1,))), "leaves its storage"),
    ],
)
def test_quantized_otherwise(tmp_path: Path, ops: bytes, words: str) -> None:
    refused(quantized_file(tmp_path / "m.pt", ops), words, tensor="q")


def test_index_of_quantized_tensors(tmp_path: Path) -> None:
    quantized_file(tmp_path / "m.bin", quantized())
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"q": "m.bin"}}))
    codes, _ = codes_of(path)
    assert np.array_equal(codes, CODES)
    with open_source(path) as source:
        assert (source.fingerprint() or {})["shard"] == "m.bin"
