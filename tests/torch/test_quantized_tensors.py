"""Stores and torch: tensors in, quantized tensors in and out, and where torch's own codes differ."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import matrix_of, refused, same

import qstore
import qstore.torch
from qstore.engine.quantization import ELEMENT_TYPES, to_float64
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source

MakeStore = Callable[..., qstore.Store]

torch = pytest.importorskip("torch", reason="tests the integration of torch")

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*deprecated:UserWarning")

with_quantized = pytest.mark.skipif(
    not hasattr(torch, "_make_per_channel_quantized_tensor"), reason="this torch has no quantized tensors"
)


def per_channel(
    codes: NDArray[Any], scales: NDArray[np.float64], zero_points: Any = 128, axis: int = 0
) -> Any:
    zeros = torch.full((len(scales),), zero_points, dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(
        torch.from_numpy(codes), torch.from_numpy(scales), zeros, axis
    )


@pytest.fixture
def pair() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Codes 0 to 255 and scales from the smallest to the largest."""
    rng = np.random.default_rng(3)
    scales = 10.0 ** rng.uniform(-50, 38, 2001)
    scales[:6] = 0.0, 5e-324, 1e-310, 1e-45, 1.7e308, 2.7e36
    return rng.integers(0, 256, (2001, 24), dtype=np.uint8), scales


# ---------------------------------------------------------------- tensors in memory


@pytest.mark.parametrize("dtype", ELEMENT_TYPES)
def test_tensors_of_every_type(dtype: str) -> None:
    tensor = torch.randn(30, 7).abs().to(getattr(torch, dtype))
    source = open_source(tensor)
    assert isinstance(source, RowSource)
    assert (source.rows, source.dim, source.dtype) == (30, 7, dtype)
    assert same(source.read(3, 20), tensor[3:20].double().numpy())


def test_tensors_need_not_be_prepared() -> None:
    weight = torch.nn.Parameter(torch.randn(40, 6))
    for tensor in (weight, weight.t(), weight[:, ::2], (weight * 2).bfloat16()[:, 1:3]):
        source = open_source(tensor)
        assert isinstance(source, RowSource)
        assert same(source.read(0, source.rows), tensor.detach().double().numpy())
    assert list_tensors(weight) == [TensorInfo("", (40, 6), "float32")]


def test_tensors_are_not_copied() -> None:
    tensor = torch.zeros(4, 3)
    source = open_source(tensor)
    assert isinstance(source, RowSource)
    assert np.shares_memory(source.read(0, 4), tensor.numpy())


def test_tensors_refused() -> None:
    refused(torch.zeros(3), "has shape (3,): expected 2 dimensions")
    refused(torch.zeros(3, 3, dtype=torch.bool), "holds bool: expected one of float16")
    refused(torch.eye(3).to_sparse(), "layout torch.sparse_coo", ".to_dense()")


def test_store_of_a_tensor(make_store: MakeStore) -> None:
    tensor = torch.randn(300, 10)
    store = make_store(tensor.bfloat16())
    codes, scales = qstore.quantize(tensor.bfloat16().float().numpy())
    assert np.array_equal(store.codes, codes)
    assert np.array_equal(store.scales, scales)
    assert store.source_dtype == "bfloat16"


# ---------------------------------------------------------------- quantized tensors


@with_quantized
def test_there_and_back(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(matrix)
    tensor = qstore.torch.to_quantized(store)
    assert (tensor.dtype, tensor.qscheme()) == (torch.quint8, torch.per_channel_affine)
    assert tensor.q_per_channel_axis() == 0
    again = make_store(tensor, "again.h5")
    assert np.array_equal(again.codes, store.codes)
    assert np.array_equal(again.scales, store.scales)


@with_quantized
def test_dequantize_of_torch_equals_float32_reads(
    make_store: MakeStore, pair: tuple[NDArray[np.uint8], NDArray[np.float64]]
) -> None:
    """torch 2.13 on a processor: (code - 128) times the float64 scale, rounded once."""
    store = make_store(pair)
    found = qstore.torch.to_quantized(store).dequantize().numpy()
    assert np.array_equal(found, store[...], equal_nan=True)


@with_quantized
@pytest.mark.parametrize(
    "rows", [slice(3, 9), [5, 3, 3, -1], np.arange(300) % 7 == 0, slice(0, 0), slice(None, None, -1)]
)
def test_some_rows(make_store: MakeStore, rows: Any) -> None:
    store = make_store(matrix_of("float32", 300))
    tensor = qstore.torch.to_quantized(store, rows)
    assert np.array_equal(tensor.int_repr().numpy(), store.codes[rows])
    assert np.array_equal(tensor.q_per_channel_scales().numpy(), store.scales[rows])


@with_quantized
def test_the_tensor_is_a_copy(make_store: MakeStore) -> None:
    store = make_store(matrix_of("float32", 30))
    tensor = qstore.torch.to_quantized(store, slice(3, 9))
    expected = store[3:9]
    store.close()
    assert np.array_equal(tensor.dequantize().numpy(), expected)


@with_quantized
@pytest.mark.parametrize("rows", [7, 300, [0, 300], "x"])
def test_rows_refused(make_store: MakeStore, rows: Any) -> None:
    store = make_store(matrix_of("float32", 300))
    with pytest.raises(IndexError):
        qstore.torch.to_quantized(store, rows)


def test_without_torch(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(matrix_of("float32", 30))
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("library", "quantized"):
        monkeypatch.delitem(sys.modules, f"qstore.torch.{name}", raising=False)
    monkeypatch.delitem(vars(qstore.torch), "to_quantized", raising=False)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[torch\]"'):
        qstore.torch.to_quantized(store)


@with_quantized
def test_codes_around_0(make_store: MakeStore) -> None:
    codes = np.arange(-128, 128, dtype=np.int8).reshape(8, 32)
    scales = np.linspace(0.1, 1, 8)
    store = make_store(per_channel(codes, scales, 0))
    assert np.array_equal(store.codes, codes.astype(int) + 128)
    assert np.array_equal(store[...], per_channel(codes, scales, 0).dequantize().numpy())


@with_quantized
def test_quantized_otherwise(pair: tuple[NDArray[np.uint8], NDArray[np.float64]]) -> None:
    codes, scales = pair
    refused(per_channel(codes, scales, 127), "zero point 127 in row 0: expected 128", "tensor.dequantize()")
    refused(per_channel(codes.T.copy(), scales, axis=1), "along axis 0", "tensor.dequantize()")
    per_tensor = torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 128, torch.quint8)
    refused(per_tensor, "torch.per_tensor_affine: expected quint8 or qint8")
    refused(
        per_channel(codes, -scales), "has scale -5e-324: expected scales that are finite and not negative"
    )


@with_quantized
def test_checkpoints_of_quantized_tensors(
    tmp_path: Path, make_store: MakeStore, pair: tuple[NDArray[np.uint8], NDArray[np.float64]]
) -> None:
    torch.save({"table": per_channel(*pair)}, tmp_path / "m.pt")
    store = make_store(tmp_path / "m.pt")
    assert np.array_equal(store.codes, pair[0])
    assert np.array_equal(store.scales, pair[1])
    assert (store.tensor, store.source_dtype) == ("table", "quantized")
    assert qstore.verify_against(store, tmp_path / "m.pt").ok


# ---------------------------------------------------------------- torch's own codes


@with_quantized
def test_where_the_codes_of_torch_differ() -> None:
    """Only at ties, and where its float32 arithmetic crosses one: by 1, and rarely."""
    values = torch.randn(4000, 100)
    codes, scales = qstore.quantize(values.numpy())
    zeros = torch.full((4000,), 128, dtype=torch.int64)
    theirs = torch.quantize_per_channel(values, torch.from_numpy(scales), zeros, 0, torch.quint8).int_repr()
    differing = codes != theirs.numpy()
    assert differing.mean() < 1e-4
    assert np.abs(codes.astype(int) - theirs.numpy())[differing].max(initial=0) <= 1
    exact = to_float64(values.numpy()) / scales[:, None]
    assert np.abs(exact - np.floor(exact) - 0.5)[differing].max(initial=0) < 1e-4


@with_quantized
def test_ties_go_to_even_in_torch() -> None:
    values = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]])
    theirs = torch.quantize_per_channel(
        values, torch.ones(1, dtype=torch.float64), torch.tensor([128]), 0, torch.quint8
    )
    assert theirs.int_repr().tolist() == [[255, 128, 130, 130, 128, 126, 126]]
    assert qstore.quantize(values.numpy())[0].tolist() == [[255, 129, 130, 131, 128, 127, 126]]
