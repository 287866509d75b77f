"""Quantized blocks of ggml: what the gguf library makes of them, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from every_engine import function_fixture
from hypothesis import given, settings
from kernel_checks import assert_same_bits
from numpy.typing import NDArray

from qstore.engine import ggml_blocks
from qstore.engine.ggml_blocks import BLOCK_TYPES

FIXTURES = np.load(Path(__file__).parents[1] / "data" / "sources" / "ggml_blocks.npz")


def unpacked(name: str, blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    values, size, _ = BLOCK_TYPES[name]
    out = np.full((len(blocks), blocks.shape[1] // size * values), 7, np.float32)
    ggml_blocks.unpack(name, blocks, out)
    return out


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_values_are_those_that_the_library_gave(name: str) -> None:
    blocks, expected = FIXTURES[f"{name}.blocks"], FIXTURES[f"{name}.values"]
    assert blocks.shape[1] == BLOCK_TYPES[name][1]
    assert np.isfinite(expected).any()
    assert_same_bits(unpacked(name, blocks), expected)
    in_one_row = unpacked(name, blocks.reshape(1, -1))
    assert_same_bits(in_one_row.reshape(expected.shape), expected)


def test_fixtures_are_special() -> None:
    """They hold what mistakes show on: subnormal scales, infinities, NaN, zeros of either sign."""
    assert {key.partition(".")[0] for key in FIXTURES} == set(BLOCK_TYPES)
    values = np.concatenate([FIXTURES[f"{name}.values"].ravel() for name in BLOCK_TYPES])
    zeros = np.signbit(values[values == 0])
    assert zeros.any()
    assert not zeros.all()
    assert np.isposinf(values).any()
    assert np.isneginf(values).any()
    assert np.isnan(values).any()
    assert (np.abs(values[values != 0]) < 1.2e-38).any()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_random_bytes_against_the_library(name: str) -> None:
    library: Any = pytest.importorskip("gguf", reason="it says what the values are")
    try:
        word = library.GGMLQuantizationType[name]
    except KeyError:
        pytest.skip(f"this gguf has no {name}")
    values, size, _ = BLOCK_TYPES[name]
    assert library.GGML_QUANT_SIZES[word] == (values, size)
    blocks = np.random.default_rng(3).integers(0, 256, (400, 3 * size), np.uint8)
    with np.errstate(all="ignore"):
        expected = library.dequantize(blocks, word)
    assert_same_bits(unpacked(name, blocks), expected)


@settings(function_fixture, max_examples=60)
@given(
    name=st.sampled_from(sorted(BLOCK_TYPES)),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 5)),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_engines_agree(engine: str, name: str, shape: tuple[int, int], offset: int, seed: int) -> None:
    values, size, _ = BLOCK_TYPES[name]
    rows, in_row = shape
    raw = np.random.default_rng(seed).integers(0, 256, rows * in_row * size + offset, np.uint8)
    blocks = raw[offset:].reshape(rows, in_row * size)
    expected = np.empty((rows, in_row * values), np.float32)
    ggml_blocks.unpack_blocks(name, blocks, expected)
    assert_same_bits(unpacked(name, blocks), expected)


def test_numpy_works_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = np.random.default_rng(4).integers(0, 256, (20, 3 * 18), np.uint8)
    whole, pieces = np.empty((2, 20, 96), np.float32)
    ggml_blocks.unpack_blocks("Q4_0", blocks, whole)
    monkeypatch.setattr(ggml_blocks, "_PIECE_VALUES", 7 * 32)
    ggml_blocks.unpack_blocks("Q4_0", blocks, pieces)
    assert_same_bits(pieces, whole)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("columns", "values"), [(17, 32), (19, 32), (36, 32), (18, 64), (0, 32), (18, 0)])
def test_rows_that_are_no_blocks_are_refused(columns: int, values: int) -> None:
    with pytest.raises(ValueError, match=r"columns|expected 18 bytes for 32 values"):
        ggml_blocks.unpack("Q4_0", np.zeros((2, columns), np.uint8), np.zeros((2, values), np.float32))
