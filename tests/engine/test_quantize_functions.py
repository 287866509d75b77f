"""The public functions quantize and dequantize: what they take, fill out and refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from every_engine import split_from
from kernel_checks import (
    raw_patterns,
    read_only,
)

from qstore.engine import kernels
from qstore.engine.quantization import ELEMENT_TYPES, OUTPUT_TYPES, element_type
from qstore.errors import NonFiniteError, SourceError


@pytest.mark.parametrize(
    ("x", "match"),
    [
        ([1.0, 2.0], "at least 1 column, found \\(2,\\)"),
        (np.zeros((2, 2, 2)), "found \\(2, 2, 2\\)"),
        (np.zeros((3, 0)), "found \\(3, 0\\)"),
        (5, "found \\(\\)"),
        ([[1j]], "found complex128"),
        ([[True]], "found bool"),
        ([[None]], "found object"),
        ([["a"]], "found <U1"),
        (np.zeros((1, 1), np.longdouble), "convert it first"),
        ([[1.0], [1.0, 2.0]], "is no array of numbers"),
    ],
)
def test_quantize_refuses(x: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        kernels.quantize(x)


def test_quantize_takes_lists_and_fills_out(engine: str) -> None:
    out = np.empty((2, 3), np.uint8), np.empty(2)
    codes, scales = kernels.quantize([[1, 2, 3], [0, 0, 0]], out=out)
    assert codes is out[0]
    assert scales is out[1]
    assert codes.tolist() == [[170, 213, 255], [128, 128, 128]]
    assert kernels.quantize(np.zeros((0, 4)))[0].shape == (0, 4)


@pytest.mark.parametrize(
    "out",
    [
        (np.empty((2, 2), np.uint8), np.empty(2)),
        (np.empty((2, 3), np.int8), np.empty(2)),
        (np.empty((2, 3), np.uint8), np.empty(3)),
        (np.empty((2, 3), np.uint8), np.empty(2, np.float32)),
        (read_only(np.zeros((2, 3), np.uint8)), np.empty(2)),
        (np.empty((2, 6), np.uint8)[:, ::2], np.empty(2)),
        ([[1, 2, 3], [1, 2, 3]], np.empty(2)),
    ],
)
def test_quantize_refuses_bad_out(out: Any) -> None:
    with pytest.raises(ValueError, match=r"out\[[01]\] must be"):
        kernels.quantize([[1, 2, 3], [4, 5, 6]], out=out)


def test_quantize_reports_the_first_bad_row_of_a_split(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split_from(monkeypatch, 10)
    values = np.ones((100, 5))
    values[90, 2] = np.nan
    with pytest.raises(NonFiniteError, match="row 90, column 2"):
        kernels.quantize(values)
    values[20, 4] = np.nan
    with pytest.raises(NonFiniteError, match="row 20, column 4"):
        kernels.quantize(values)


def test_dequantize_checks_and_fills(engine: str) -> None:
    out = np.empty((1, 2), np.float16)
    assert kernels.dequantize([[0, 255]], [2], out=out) is out
    assert out.tolist() == [[-256.0, 254.0]]
    for dtype in OUTPUT_TYPES:
        assert kernels.dequantize([[0]], [1.0], dtype).dtype == dtype
    for bad in ("int8", ">f4", "complex64"):
        with pytest.raises(ValueError, match="expected one of float32"):
            kernels.dequantize([[0]], [1.0], bad)
    with pytest.raises(ValueError, match="out must be"):
        kernels.dequantize([[0]], [1.0], out=np.empty((2, 1)))


@pytest.mark.parametrize(
    ("codes", "scales", "match"),
    [
        ([[256]], [1.0], "integers from 0 to 255"),
        ([[-1]], [1.0], "integers from 0 to 255"),
        ([[1.0]], [1.0], "integers from 0 to 255"),
        ([1], [1.0], "shape"),
        ([[1]], [1.0, 2.0], "expected \\(1,\\)"),
        ([[1]], ["a"], "float64"),
        ([[1]], [np.nan], "finite"),
        ([[1]], [-1.0], "not negative"),
        ([[1]], [np.inf], "finite"),
    ],
)
def test_dequantize_refuses(codes: Any, scales: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        kernels.dequantize(codes, scales)
    with pytest.raises(SourceError, match=r"expected \(n, 7\)"):
        kernels.as_quantized([[1, 2]], [1.0], 7)


def test_element_types_have_names_in_both_engines() -> None:
    for name in ELEMENT_TYPES:
        values = raw_patterns(name, np.zeros((2, 3), np.uint64))
        assert element_type(values.dtype) == name
        assert kernels.quantize(values)[0].tolist() == [[128] * 3] * 2
