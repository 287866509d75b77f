"""Pairs of codes and scales in arrays of any library, read in blocks."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from source_contract import refused

import qstore
from qstore.errors import SourceError
from qstore.sources import QuantizedSource, TensorInfo, list_tensors, open_source

ROWS, DIM = 300, 8
CODES = np.random.default_rng(4).integers(0, 256, (ROWS, DIM), np.uint8)
SIGNED = (CODES.astype(np.int16) - 128).astype(np.int8)
SCALES = np.linspace(0.001, 0.1, ROWS).astype(np.float32).astype(np.float64)  # float32 can hold them


def of_numpy(codes: Any, scales: Any, folder: Path) -> Any:
    return codes, scales


def of_h5py(codes: Any, scales: Any, folder: Path) -> Any:
    file = h5py.File(folder / "pair.hdf5", "w")
    file.create_dataset("codes", data=codes, chunks=(16, DIM), compression="gzip")
    file["scales"] = scales
    return file["codes"], file["scales"]


def of_maps(codes: Any, scales: Any, folder: Path) -> Any:
    np.save(folder / "codes.npy", codes)
    np.save(folder / "scales.npy", scales)
    return np.load(folder / "codes.npy", mmap_mode="r"), np.load(folder / "scales.npy", mmap_mode="r")


def of_zarr(codes: Any, scales: Any, folder: Path) -> Any:
    zarr: Any = pytest.importorskip("zarr")
    return zarr.array(codes, chunks=(16, DIM)), zarr.array(scales)


def of_torch(codes: Any, scales: Any, folder: Path) -> Any:
    torch: Any = pytest.importorskip("torch")
    return torch.from_numpy(codes), torch.from_numpy(scales).requires_grad_()


def of_dask(codes: Any, scales: Any, folder: Path) -> Any:
    array: Any = pytest.importorskip("dask.array")
    return array.from_array(codes, chunks=(50, DIM)), array.from_array(scales, chunks=-1)


def of_pandas(codes: Any, scales: Any, folder: Path) -> Any:
    pandas: Any = pytest.importorskip("pandas")
    column = scales if scales.ndim == 1 else scales[:, 0]
    return pandas.DataFrame(codes), pandas.Series(column)


LIBRARIES: list[Callable[..., Any]] = [of_numpy, of_h5py, of_maps, of_zarr, of_torch, of_dask, of_pandas]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Files of h5py are closed at the end."""
    yield
    for number in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE):
        h5py.File(number).close()


@pytest.mark.parametrize("make", LIBRARIES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("codes", [CODES, SIGNED], ids=["uint8", "int8"])
@pytest.mark.parametrize(
    "scales", [SCALES, SCALES[:, None], SCALES.astype(np.float32)], ids=["N", "N1", "float32"]
)
def test_pairs_of_anything(tmp_path: Path, make: Callable[..., Any], codes: Any, scales: Any) -> None:
    pair = make(codes, scales, tmp_path)
    assert list_tensors(pair) == [TensorInfo("", (ROWS, DIM), "quantized")]
    assert qstore.build(pair, tmp_path / "a.h5").source_dtype == "quantized"
    with qstore.open(tmp_path / "a.h5") as store:
        assert np.array_equal(store.codes, CODES)
        assert np.array_equal(store.scales, SCALES)
        assert qstore.verify_against(store, pair).ok
    qstore.build(pair, tmp_path / "part.h5", rows=slice(7, 150))
    with qstore.open(tmp_path / "part.h5") as store:
        assert np.array_equal(store.codes, CODES[7:150])


@pytest.mark.parametrize("kind", ["list", "tuple", "Array", "ChunkedArray", "polars"])
def test_scales_that_are_no_array(kind: str) -> None:
    scales: Any = SCALES.tolist()
    if kind == "tuple":
        scales = tuple(scales)
    elif kind == "polars":
        scales = pytest.importorskip("polars").Series(scales)
    elif kind != "list":
        pyarrow: Any = pytest.importorskip("pyarrow")
        scales = pyarrow.array(scales) if kind == "Array" else pyarrow.chunked_array([scales[:9], scales[9:]])
    with open_source((CODES, scales)) as source:
        assert isinstance(source, QuantizedSource)
        codes, found = source.read_codes(0, ROWS)
    assert np.array_equal(codes, CODES)
    assert np.array_equal(found, SCALES)


def test_scales_of_bfloat16(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    scales = torch.from_numpy(SCALES).to(torch.bfloat16)
    for given in (scales, scales[:, None]):
        qstore.build((torch.from_numpy(SIGNED), given), tmp_path / "a.h5", overwrite=True)
        with qstore.open(tmp_path / "a.h5") as store:
            assert np.array_equal(store.scales, scales.to(torch.float64).numpy())


def test_other_byte_orders_and_strides(tmp_path: Path) -> None:
    wide = np.zeros((ROWS, 2 * DIM), np.int8)
    wide[:, ::2] = SIGNED
    qstore.build((wide[:, ::2], SCALES.astype(">f8")[:, None]), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5") as store:
        assert np.array_equal(store.codes, CODES)
        assert np.array_equal(store.scales, SCALES)


def test_named_tuples(tmp_path: Path) -> None:
    class Rows(NamedTuple):
        codes: Any
        scales: Any

    assert qstore.build(Rows(CODES, SCALES), tmp_path / "a.h5").rows == ROWS


def test_one_column(tmp_path: Path) -> None:
    """Two matrices of one column are chunks, unless their types say that they are codes and scales."""
    source = open_source((CODES[:, :1], SCALES[:, None]))
    assert isinstance(source, QuantizedSource)
    assert (source.rows, source.dim) == (ROWS, 1)
    chunks = open_source((CODES[:, :1], CODES[:5, :1]))
    assert sum(map(len, chunks.chunks())) == ROWS + 5


def test_datasets_are_read_in_blocks(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "pair.hdf5", "w") as file:
        file.create_dataset("codes", (200_000, 256), np.uint8, chunks=(1000, 256), compression="gzip")
        file["codes"][:1000] = 5
        file.create_dataset("scales", data=np.ones((200_000, 1), np.float32))
        with open_source((file["codes"], file["scales"])) as source:
            assert isinstance(source, QuantizedSource)
            tracemalloc.start()
            rows = sum(len(codes) for codes, _ in source.coded_chunks())
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert rows == 200_000
    assert most < 16 << 20  # of 49 MiB


def test_bad_scales_behind_a_library_are_found_when_they_are_read(tmp_path: Path) -> None:
    scales = SCALES.copy()
    scales[250] = -1
    pair = of_h5py(CODES, scales, tmp_path)
    with pytest.raises(SourceError, match=r"row 250 has scale -1\.0: expected scales that are finite"):
        qstore.build(pair, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()
    refused((CODES, scales[:, None]), "row 250 has scale -1.0")


@pytest.mark.parametrize(
    ("codes", "scales", "words"),
    [
        (
            CODES.astype(np.int16),
            SCALES,
            "the codes have shape (300, 8) and type int16: expected (rows, columns)",
        ),
        (CODES.astype(np.float32), SCALES[:, None], "and type float32: expected (rows, columns) of uint8"),
        (CODES[:, :0], SCALES, "the codes have shape (300, 0)"),
        (
            CODES,
            SCALES[:-1, None],
            "the scales have shape (299, 1) and type float64: expected (300,) of float64",
        ),
        (CODES, np.ones((ROWS, 1), np.int64), "type int64: expected (300,) of float64, or (300, 1)"),
        (CODES, np.ma.masked_array(SCALES), "is a masked array: expected plain values"),
        (CODES, SCALES.astype(str), "type <U"),
        (
            CODES,
            0.1,
            "the scales are one number, 0.1: expected one scale a row; codes that share one are",
        ),
        (CODES, np.float32(0.5), "the scales are one number"),
        (CODES, np.ones((ROWS, 2)), "the scales have shape (300, 2) and type float64: expected (300,)"),
        ([[1, 2], [3, 4]], [0.1, 0.2], "the codes are a list, whose numbers have no type"),
    ],
)
def test_what_is_no_pair(codes: Any, scales: Any, words: str) -> None:
    refused((codes, scales), words)


def test_two_chunks_are_no_pair() -> None:
    assert not isinstance(open_source((CODES, CODES)), QuantizedSource)
    with pytest.raises(SourceError, match="chunk 1"):
        list(open_source((CODES, SCALES.reshape(100, 3))).chunks())


# ------------------------------------------------------------------ the same for chunks


def test_the_writer_takes_the_same(tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "a.h5", DIM) as writer:
        writer.append_codes(SIGNED[:100], SCALES[:100, None])
        writer.append_codes(CODES[100:], SCALES[100:])
    with qstore.open(tmp_path / "a.h5") as store:
        assert np.array_equal(store.codes, CODES)
        assert np.array_equal(store.scales, SCALES)


def test_dequantize_takes_the_same() -> None:
    expected = qstore.dequantize(CODES, SCALES)
    assert np.array_equal(qstore.dequantize(SIGNED, SCALES[:, None]), expected)
    assert qstore.dequantize(np.array([[1, 2]], np.int8), [0.5]).tolist() == [[0.5, 1.0]]
    assert qstore.dequantize([[129, 130]], [[0.5]]).tolist() == [[0.5, 1.0]]
    with pytest.raises(SourceError, match=r"scales have shape \(300, 2\)"):
        qstore.dequantize(CODES, np.ones((ROWS, 2)))
