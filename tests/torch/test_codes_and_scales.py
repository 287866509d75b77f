"""Codes and scales of a store as plain tensors of torch, and what is said where it lacks quantized ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import start
from numpy.typing import NDArray
from source_contract import matrix_of

import qstore
import qstore.torch

MakeStore = Callable[..., qstore.Store]

torch = pytest.importorskip("torch", reason="tests the integration of torch")


@pytest.fixture
def pair() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Every code, and scales from the smallest to the largest."""
    rng = np.random.default_rng(3)
    scales = np.ldexp(rng.uniform(0.5, 1, 2001), rng.integers(-160, 120, 2001))
    scales[:6] = 0.0, 5e-324, 1e-310, 1e-45, 1.4e306, 2.6e36
    return rng.integers(0, 256, (2001, 24), dtype=np.uint8), scales


def test_values_bit_for_bit(make_store: MakeStore, pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    store = make_store(pair)
    codes, scales = qstore.torch.codes_and_scales(store)
    assert (codes.dtype, codes.shape) == (torch.int8, (2001, 24))
    assert (scales.dtype, scales.shape) == (torch.float64, (2001,))
    assert np.array_equal(codes.numpy(), pair[0].astype(int) - 128)
    assert np.array_equal(scales.numpy(), pair[1])
    values = (codes.double() * scales[:, None]).float()
    assert np.array_equal(values.numpy(), store[:])


def test_there_and_back(make_store: MakeStore, pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    again = make_store(qstore.torch.codes_and_scales(make_store(pair)), "again.h5")
    assert np.array_equal(again.codes, pair[0])
    assert np.array_equal(again.scales, pair[1])


@pytest.mark.parametrize(
    "rows", [slice(3, 9), [5, 3, 3, -1], np.arange(300) % 7 == 0, slice(0, 0), slice(None, None, -1), []]
)
def test_some_rows(make_store: MakeStore, rows: Any) -> None:
    store = make_store(matrix_of("float32", 300))
    codes, scales = qstore.torch.codes_and_scales(store, rows)
    picked = np.arange(300)[rows]
    assert np.array_equal(codes.numpy(), store.codes[picked].astype(int) - 128)
    assert np.array_equal(scales.numpy(), store.scales[picked])


def test_both_are_copies(make_store: MakeStore) -> None:
    store = make_store(matrix_of("float32", 30))
    codes, scales = qstore.torch.codes_and_scales(store)
    expected = store[:]
    codes[:], scales[:] = 1, 2
    assert np.array_equal(store[:], expected)


def test_several_files(tmp_path: Path) -> None:
    values = matrix_of("float32", 30)
    for name, rows in (("a", slice(0, 13)), ("b", slice(13, 30))):
        qstore.build(values[rows], tmp_path / f"{name}.h5")
    with qstore.open([tmp_path / "a.h5", tmp_path / "b.h5"]) as store:
        codes, scales = qstore.torch.codes_and_scales(store, [20, 1])
        assert np.array_equal((codes.double() * scales[:, None]).float().numpy(), store[[20, 1]])


def test_scales_of_float32(make_store: MakeStore) -> None:
    store = make_store(matrix_of("float32", 300))
    codes, scales = qstore.torch.codes_and_scales(store, dtype=torch.float32)
    assert (codes.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert np.array_equal(scales.numpy(), store.scales.astype(np.float32))


def test_scales_beyond_float32(make_store: MakeStore) -> None:
    """An infinite scale would make every code of 128 a NaN."""
    codes = np.full((4, 3), 128, np.uint8)
    store = make_store((codes, np.array([1.0, 1e-300, 1e300, 1e39])))
    with pytest.raises(ValueError, match=r"row 2 has scale 1e\+300, too large for float32: leave dtype out"):
        qstore.torch.codes_and_scales(store, dtype=torch.float32)
    assert qstore.torch.codes_and_scales(store, slice(2), dtype=torch.float32)[1].tolist() == [1, 0]


@pytest.mark.parametrize("dtype", ["torch.float16", "torch.int8", "'float32'", "7"])
def test_other_types(make_store: MakeStore, dtype: str) -> None:
    store = make_store(matrix_of("float32", 30))
    with pytest.raises(ValueError, match=f"dtype is {dtype}, expected torch.float64 or torch.float32"):
        qstore.torch.codes_and_scales(store, dtype=eval(dtype, {"torch": torch}))


@pytest.mark.parametrize("rows", [7, 300, [0, 300], "x"])
def test_rows_refused(make_store: MakeStore, rows: Any) -> None:
    store = make_store(matrix_of("float32", 300))
    with pytest.raises(IndexError):
        qstore.torch.codes_and_scales(store, rows)


def test_a_torch_without_quantized_tensors(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(matrix_of("float32", 30))
    monkeypatch.delattr(torch, "_make_per_channel_quantized_tensor", raising=False)
    monkeypatch.delattr(torch, "quint8", raising=False)
    with pytest.raises(qstore.MissingExtraError, match=r"has no quantized tensors: .*codes_and_scales"):
        qstore.torch.to_quantized(store)
    codes, scales = qstore.torch.codes_and_scales(store)
    again = make_store((codes, scales), "again.h5")
    assert np.array_equal(again.codes, store.codes)


def test_torch_warns_nobody(tmp_path: Path) -> None:
    """In a fresh process: torch says it once."""
    code = """
import sys, warnings
import numpy, torch
import qstore, qstore.torch
warnings.simplefilter("error")
qstore.build(numpy.eye(4), sys.argv[1] + "/a.h5")
with qstore.open(sys.argv[1] + "/a.h5") as store:
    qstore.torch.codes_and_scales(store)
    if hasattr(torch, "_make_per_channel_quantized_tensor"):
        tensor = qstore.torch.to_quantized(store)
        qstore.build(tensor, sys.argv[1] + "/b.h5")
        torch.save(tensor, sys.argv[1] + "/a.pt")
        qstore.build(sys.argv[1] + "/a.pt", sys.argv[1] + "/c.h5")
        assert qstore.verify_against(sys.argv[1] + "/c.h5", tensor).ok
print("quiet")
"""
    process = start(tmp_path, code=code)
    out, err = process.communicate(timeout=600)
    assert (out.decode().strip(), err.decode()) == ("quiet", "")


def test_without_torch(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(matrix_of("float32", 30))
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("library", "quantized"):
        monkeypatch.delitem(sys.modules, f"qstore.torch.{name}", raising=False)
    monkeypatch.delitem(vars(qstore.torch), "codes_and_scales", raising=False)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[torch\]"'):
        qstore.torch.codes_and_scales(store)
