"""Torch checkpoints: the contract, exact values against torch, and several files."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import (
    DIM,
    RAW_TYPES,
    ROWS,
    Make,
    Maker,
    SourceContract,
    files_open_in,
    make_directory,
    matrix_of,
    refused,
    same,
)
from torch_files import (
    STORAGES,
    checkpoint,
    columns_of_wider,
    contiguous,
    make_view,
    rebuild,
    state,
    storage,
    tensor,
)

from qstore.errors import TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


DATA = Path(__file__).parents[1] / "data" / "sources"


# the contract ----------------------------------------------------------------------------------------


def transposed(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    return values.T, 0, (1, len(values))


def make_sharded(directory: Path, values: NDArray[Any]) -> Path:
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    bias = np.zeros(3, np.float32)
    checkpoint(directory / first, state(a__bias=tensor("0", bias)), {"0": bias})
    checkpoint(directory / second, state(z__weight=tensor("0", values)), {"0": values})
    path = directory / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a.bias": first, "z.weight": second}}))
    return path


def make_with_torch(**options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        torch = pytest.importorskip("torch", reason="writes with torch")
        weight = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(values)))
        torch.save({"model": {"weight": weight}, "epoch": 3}, directory / "model.pt", **options)
        return directory / "model.pt"

    return make


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "checkpoint": Maker(make_view(contiguous)),
        "named": Maker(make_view(contiguous), "z.weight"),
        "directory": Maker(make_directory(make_view(contiguous))),
        "columns": Maker(make_view(columns_of_wider), working_memory=1 << 21),
        "transposed": Maker(make_view(transposed)),
        "sharded": Maker(make_sharded),
        "sharded-named": Maker(make_sharded, "z.weight"),
        "sharded-directory": Maker(make_directory(make_sharded)),
        "torch": Maker(make_with_torch(), "model.weight"),
        "torch-protocol-5": Maker(make_with_torch(pickle_protocol=5)),
    }


# exact values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", STORAGES)
def test_every_type(tmp_path: Path, dtype: str) -> None:
    values = matrix_of(dtype)
    path = checkpoint(tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values})
    with open_source(path) as source:
        assert (source.name, source.dtype) == ("w", dtype)
        assert same(np.concatenate(list(source.chunks())), values)
    assert list_tensors(path) == [TensorInfo("w", (ROWS, DIM), dtype)]


FROZEN = np.arange(12, dtype=np.float32).reshape(4, 3) / 4 - 1
"""What tests/data/sources/checkpoint.pt (torch 2.13) was made of."""


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("model.embedding.weight", "float32", FROZEN),
        ("model.tied.weight", "float32", FROZEN),
        ("model.half.weight", "float16", FROZEN),
        ("views.0", "float32", FROZEN.T),
        ("views.1", "float32", FROZEN[:, 1:]),
        ("views.2", "float32", FROZEN[::2]),
        ("types.bfloat16", "bfloat16", FROZEN),
        ("types.float8_e4m3fn", "float8_e4m3fn", FROZEN),
        ("types.uint16", "uint16", np.arange(12).reshape(4, 3) * 5461),
        ("quint8", "quantized", FROZEN),
        ("qint8", "quantized", FROZEN),
    ],
)
def test_frozen_file_of_torch(name: str, dtype: str, expected: NDArray[Any]) -> None:
    with open_source(DATA / "checkpoint.pt", name) as source:
        assert source.dtype == dtype
        assert same(np.concatenate(list(source.chunks())), expected)


def test_frozen_file_of_torch_is_listed() -> None:
    found = {info.name: (info.shape, info.dtype) for info in list_tensors(DATA / "checkpoint.pt")}
    assert len(found) == 13
    assert found["model.embedding.weight"] == ((4, 3), "float32")
    assert found["types.bool"] == ((2,), "bool")
    assert found["quint8"] == ((4, 3), "quantized")
    assert found["per_tensor"] == ((4, 3), "quint8")
    error = refused(DATA / "checkpoint.pt", "holds 11 matrices", error=TensorError)
    assert "'model.tied.weight'" in str(error)
    refused(DATA / "checkpoint.pt", "holds quint8: expected one of float16", tensor="per_tensor")


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_equals_torch(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch")
    weight = torch.randn(40, 6)
    with_attribute = torch.nn.Parameter(weight.clone())
    with_attribute.note = 3
    saved = {
        "state": torch.nn.Embedding(30, 4).state_dict(),
        "optimizer": {"state": {0: {"exp_avg": weight * 2, "step": 3}}, "groups": [{"betas": (0.9, 0.99)}]},
        "list": [weight, weight.t(), weight[:, 1:4], weight[3:9], weight[::3]],
        "parameter": torch.nn.Parameter(weight),
        "attribute": with_attribute,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "bytes": b"xy" if protocol > 2 else None,
        "huge": 1 << 70,
        "type": torch.float16,
        "nothing": None,
        **{name: weight.to(getattr(torch, name)) for name in [*STORAGES, *RAW_TYPES]},
        **{name: weight.abs().to(getattr(torch, name)) for name in ("uint16", "uint32", "uint64")},
    }
    path = tmp_path / "m.pt"
    torch.save(saved, path, pickle_protocol=protocol)
    expected = dict(named(torch.load(path, weights_only=protocol == 2), torch))
    assert {info.name for info in list_tensors(path)} == set(expected)
    for info in list_tensors(path):
        with open_source(path, info.name) as source:
            found = np.concatenate(list(source.chunks()))
        assert same(found, expected[info.name].detach().double().numpy()), info


def named(value: Any, torch: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors of a nested container with their names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from named(member, torch, f"{name}.{key}" if name else str(key))


def test_a_tensor_alone_has_no_name(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02" + tensor("0", values) + b".", {"0": values})
    with open_source(path) as source:
        assert source.name == ""
        assert same(np.concatenate(list(source.chunks())), values)


def test_tied_tensors_share_their_data(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", state(a=tensor("0", values), b=tensor("0", values)), {"0": values})
    for name in "ab":
        with open_source(path, name) as source:
            assert same(np.concatenate(list(source.chunks())), values)


@pytest.mark.parametrize(
    ("shape", "strides"), [((ROWS, 1), (1, 7)), ((1, DIM), (999, 1)), ((1, 1), (5, 5)), ((0, 4), (0, 9))]
)
def test_strides_of_a_single_row_or_column_do_not_matter(
    tmp_path: Path, shape: tuple[int, int], strides: tuple[int, int]
) -> None:
    values = matrix_of("float32", *shape)
    path = checkpoint(
        tmp_path / "m.pt", state(w=rebuild(storage("0", values.size), 0, shape, strides)), {"0": values}
    )
    with open_source(path) as source:
        assert same(np.concatenate([values[:0], *source.chunks()]), values)


def test_rows_that_lie_far_apart(tmp_path: Path) -> None:
    """More than is read in one go from one row to the next."""
    values, width = matrix_of("float32", 6), 1 << 18
    wider = np.zeros((6, width), np.float32)
    wider[:, 7 : 7 + DIM] = values
    data = state(w=rebuild(storage("0", wider.size), 7, (6, DIM), (width, 1)))
    with open_source(checkpoint(tmp_path / "m.pt", data, {"0": wider})) as source:
        assert isinstance(source, RowSource)
        assert same(source.read(0, 6), values)
        tracemalloc.start()
        assert same(source.read(2, 5), values[2:5])
        assert tracemalloc.get_traced_memory()[1] < 10_000
        tracemalloc.stop()


@pytest.mark.parametrize("strides", [(0, 1), (1, 1), (1, 4), (2, 1), (6, 2), (0, 0)])
def test_strides_that_are_no_rows(tmp_path: Path, strides: tuple[int, int]) -> None:
    held = np.zeros(100, np.float32)
    path = checkpoint(tmp_path / "m.pt", state(w=rebuild(storage("0", 100), 0, (5, 3), strides)), {"0": held})
    refused(path, f"has strides {strides} for shape (5, 3): expected contiguous rows", ".contiguous()")


# several files ---------------------------------------------------------------------------------------


def test_index_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    path.write_text(path.read_text().replace("z.weight", "y.weight"))
    refused(path, "expected tensor 'y.weight' in pytorch_model-00002-of-00002.bin, found none")
    (tmp_path / "pytorch_model-00001-of-00002.bin").unlink()
    refused(path, "1 of its files missing: pytorch_model-00001-of-00002.bin")


def test_index_knows_its_origin(tmp_path: Path) -> None:
    with open_source(make_sharded(tmp_path, matrix_of("float32"))) as source:
        found = source.fingerprint() or {}
    assert found["shard"] == "pytorch_model-00002-of-00002.bin"
    assert "index_crc32" in found


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = make_view(contiguous)(tmp_path, matrix_of("float32"))
    refused(path, "did you mean 'z.weight'?", tensor="weight", error=TensorError)
    refused(path, "has shape (3,): expected 2 dimensions", tensor="a.bias")
