"""What Keras 3 saves: `.keras` and `.weights.h5`, embeddings in int8 with their scales, others refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import Maker, SourceContract, refused

import qstore
from qstore.engine.quantization import to_float64
from qstore.errors import SourceError, TensorError
from qstore.sources import QuantizedSource, TensorInfo, list_tensors, open_source

DATA = Path(__file__).parents[1] / "data" / "libraries"
TABLE = "layers/embedding/vars/0"
SCALES = "layers/embedding/vars/1"


def zipped(path: Path, weights: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights, method)
    return path


def make_keras(directory: Path, values: NDArray[Any]) -> Path:
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file[TABLE] = values
    return zipped(directory / "model.keras", memory.getvalue())


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {"keras": Maker(make_keras)}


def weights(path: Path, codes: NDArray[Any], scales: NDArray[Any], **more: NDArray[Any]) -> Path:
    """A file of weights as Keras writes it."""
    with h5py.File(path, "w") as file:
        file[TABLE], file[SCALES] = codes, scales
        for name, values in more.items():
            file[f"layers/embedding/vars/{name}"] = values
    return path


def values_of(path: Path, tensor: str | None = None) -> NDArray[Any]:
    with open_source(path, tensor) as source:
        return np.concatenate(list(source.chunks()))


def quantized(rows: int = 50, dim: int = 8) -> tuple[NDArray[Any], NDArray[Any]]:
    """Codes and scales by the formula of Keras's `abs_max_quantize`."""
    values = np.random.default_rng(2).standard_normal((rows, dim)).astype(np.float32)
    scales = np.float32(127) / (np.abs(values).max(axis=1) + np.float32(1e-7))
    return np.round(values * scales[:, None]).astype(np.int8), scales


@pytest.mark.parametrize("name", ["int8.keras", "int8.weights.h5"])
def test_codes_and_scales_of_keras(name: str, tmp_path: Path) -> None:
    expected = np.load(DATA / "int8.npy")
    assert TensorInfo(TABLE, (20, 6), "quantized", "int8 with scales of Keras") in list_tensors(DATA / name)
    report = qstore.build(DATA / name, tmp_path / "x.h5", tensor=TABLE)
    assert report.source_dtype == "quantized"
    with qstore.open(tmp_path / "x.h5") as store, h5py.File(DATA / "int8.weights.h5") as file:
        assert np.array_equal(store.codes, file[TABLE][:].astype(np.int16) + 128)
        assert np.array_equal(store.scales, 1 / file[SCALES][:].astype(np.float64))
        assert np.array_equal(store[:], expected)
        assert qstore.verify_against(store, DATA / name, tensor=TABLE).ok


def test_scales_in_bfloat16() -> None:
    with open_source(DATA / "int8-bfloat16.weights.h5", TABLE) as source:
        assert isinstance(source, QuantizedSource)
    found = values_of(DATA / "int8-bfloat16.weights.h5", TABLE)
    # Keras rounds quotients to bfloat16, of 8 bits.
    assert np.allclose(found, np.load(DATA / "int8-bfloat16.npy"), rtol=2**-8, atol=0)


def test_weights_in_bfloat16() -> None:
    path = DATA / "bfloat16.weights.h5"
    assert TensorInfo(TABLE, (20, 6), "bfloat16") in list_tensors(path)
    assert np.array_equal(to_float64(values_of(path, TABLE)), np.load(DATA / "bfloat16.npy"))


def test_a_table_alone_needs_no_name(tmp_path: Path) -> None:
    codes, scales = quantized()
    found = values_of(weights(tmp_path / "x.weights.h5", codes, scales))
    assert np.array_equal(found, codes * (1 / scales.astype(float))[:, None])


def test_several_matrices_are_listed() -> None:
    refused(DATA / "int8.keras", "holds 2 matrices", "int8 with scales of Keras", error=TensorError)


def test_layers_that_are_no_embedding_are_refused() -> None:
    """A square layer has scales of the same shape, one a column."""
    with pytest.raises(SourceError, match=r"expected codes up to 127.* found up to"):
        values_of(DATA / "int8.keras", "layers/dense/vars/0")


def test_packed_int4_is_refused(tmp_path: Path) -> None:
    """Its scales have the shape of those of int8."""
    with pytest.raises(SourceError, match="packed int4"):
        qstore.build(DATA / "int4.weights.h5", tmp_path / "x.h5", tensor=TABLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "scales",
    [np.ones(8, "f4"), np.ones((50, 1), "f4"), np.ones(50, "i4"), np.ones((50, 2), "f4")],
    ids=["columns", "matrix", "integers", "groups"],
)
def test_scales_of_another_shape_or_type(tmp_path: Path, scales: NDArray[Any]) -> None:
    path = weights(tmp_path / "x.weights.h5", quantized()[0], scales)
    refused(path, "expected behind them the scales of an embedding in int8, (50,) of floats", tensor=TABLE)


@pytest.mark.parametrize("bad", [0, -1, np.nan, np.inf])
def test_scales_that_cannot_be(tmp_path: Path, bad: float) -> None:
    codes, scales = quantized()
    scales[7] = bad
    with pytest.raises(SourceError, match="row 7 has scale"):
        values_of(weights(tmp_path / "x.weights.h5", codes, scales))


def test_shuffled_scales_are_seen_where_codes_are_small(tmp_path: Path) -> None:
    codes, scales = quantized()
    with pytest.raises(SourceError, match="row 0 expected codes up to 127"):
        values_of(weights(tmp_path / "x.weights.h5", codes // 2, scales))


def test_codes_alone_are_numbers(tmp_path: Path) -> None:
    codes, _ = quantized()
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file[TABLE] = codes
    assert np.array_equal(values_of(tmp_path / "x.h5"), codes)


def test_archives_without_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    refused(tmp_path / "x.keras", "expected model.weights.h5 in it")


def test_packed_weights(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.keras", (DATA / "int8.weights.h5").read_bytes(), zipfile.ZIP_DEFLATED)
    refused(path, "model.weights.h5 is packed: expected it stored")


def test_weights_that_are_no_hdf5(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.keras", bytes(3000)), "cannot be read as HDF5")
