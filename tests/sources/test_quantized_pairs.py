"""Codes and scales that go in as they are, without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import matrix_of, refused, same

import qstore
from qstore.sources import QuantizedSource, TensorInfo, list_tensors, open_source

MakeStore = Callable[..., qstore.Store]

CODES = np.arange(256, dtype=np.uint8).reshape(32, 8)
SCALES = 10.0 ** np.linspace(-30, 30, 32)


def test_pairs_are_sources() -> None:
    source = open_source((CODES, SCALES))
    assert isinstance(source, QuantizedSource)
    assert (source.rows, source.dim, source.dtype, source.keyed) == (32, 8, "quantized", False)
    codes, scales = source.read_codes(3, 9)
    assert np.shares_memory(codes, CODES)
    assert np.array_equal(codes, CODES[3:9])
    assert np.array_equal(scales, SCALES[3:9])
    assert same(source.read(3, 9), (CODES[3:9] - 128.0) * SCALES[3:9, None])
    assert list_tensors((CODES, SCALES)) == [TensorInfo("", (32, 8), "quantized")]
    source.close()


def test_stores_have_the_codes_of_pairs(make_store: MakeStore) -> None:
    store = make_store((CODES, SCALES))
    assert np.array_equal(store.codes, CODES)
    assert np.array_equal(store.scales, SCALES)
    assert store.source_dtype == "quantized"
    assert qstore.verify_against(store, (CODES, SCALES)).ok
    assert not qstore.verify_against(store, (CODES[::-1], SCALES)).ok


def test_rows_of_pairs(make_store: MakeStore) -> None:
    store = make_store((CODES, SCALES), rows=slice(5, 20))
    assert np.array_equal(store.codes, CODES[5:20])
    assert qstore.verify_against(store, (CODES, SCALES), rows=slice(5, 20)).ok


def test_float32_scales_are_widened(make_store: MakeStore) -> None:
    store = make_store((CODES, SCALES.astype(np.float32)))
    assert np.array_equal(store.scales, SCALES.astype(np.float32).astype(np.float64))


def test_same_bytes_as_a_writer_makes(tmp_path: Path) -> None:
    qstore.build((CODES, SCALES), tmp_path / "a.h5")
    with qstore.Writer(tmp_path / "b.h5", dim=8) as writer:
        writer.append_codes(CODES, SCALES)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_plans_of_pairs(tmp_path: Path) -> None:
    planned = qstore.plan((CODES, SCALES), tmp_path / "a.h5")
    assert (planned.rows, planned.source_dtype, planned.source_bytes) == (32, "quantized", 32 * (8 + 8))


def test_an_interrupted_build_starts_again(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int | None) -> None:
        raise Stop

    codes = np.zeros((3 << 20, 1), np.uint8)
    with pytest.raises(Stop):
        qstore.build((codes, np.ones(len(codes))), tmp_path / "a.h5", progress=stop)
    assert list(tmp_path.iterdir()) == []
    assert qstore.build((codes, np.ones(len(codes))), tmp_path / "a.h5").rows_resumed == 0


@pytest.mark.parametrize(
    ("codes", "scales", "words"),
    [
        (
            CODES.astype(np.int16),
            SCALES,
            "the codes have shape (32, 8) and type int16: expected (rows, columns)",
        ),
        (CODES[:, :0], SCALES, "the codes have shape (32, 0)"),
        (CODES, SCALES[:-1], "the scales have shape (31,) and type float64: expected (32,) of float64"),
        (CODES, np.ones(32, np.int64), "type int64: expected (32,)"),
        (
            CODES,
            -SCALES,
            f"row 0 has scale {-SCALES[0]}: expected scales that are finite and not negative",
        ),
        (CODES, np.where(np.arange(32) == 7, np.nan, SCALES), "row 7 has scale nan"),
    ],
)
def test_pairs_that_do_not_fit(codes: NDArray[Any], scales: NDArray[Any], words: str) -> None:
    refused((codes, scales), words)


def test_two_chunks_are_no_pair() -> None:
    chunks = (matrix_of("uint8", 3), matrix_of("uint8", 4))
    assert sum(map(len, open_source(chunks).chunks())) == 7
