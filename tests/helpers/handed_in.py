"""What users hand in where something else is expected: arrays of all libraries, and what is no array."""

from __future__ import annotations

import array
import datetime
import decimal
import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

__all__ = ["MATRIX", "OPTIONS", "handed_in"]

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) - 5

Make = Callable[[], Any]

# Those that tell most where a word, a number or a path is expected.
OPTIONS = (
    "matrix",
    "0-d of int",
    "number of NumPy",
    "masked of int",
    "memoryview",
    "bytes",
    "text",
    "no text",
    "half of a pair",
    "text with NUL",
    "int",
    "negative int",
    "huge int",
    "float",
    "NaN",
    "complex",
    "None",
    "list",
    "list of texts",
    "nested list",
    "dict",
    "set",
    "generator",
    "slice of texts",
    "object",
    "class",
    "tensor",
    "tensor of int",
    "nested tensor",
    "DataFrame",
    "Series of words",
    "polars.DataFrame",
    "polars.Series of lists",
    "sparse",
)


class Refusing:
    """An array that cannot be read."""

    shape = (4, 3)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise RuntimeError("the device is gone")


class Lengthy:
    """A length and nothing else."""

    def __len__(self) -> int:
        return 4


class Subclass(np.ndarray[Any, Any]):
    """A class of arrays."""


def handed_in(directory: Path) -> dict[str, Make]:
    """Functions that make each of them anew; `directory` is for files behind arrays."""
    made = {**_of_numpy(), **_of_python()}
    for name, more in (("torch", _of_torch), ("pandas", _of_pandas), ("polars", _of_polars)):
        if importlib.util.find_spec(name):
            made.update(more(importlib.import_module(name)))
    if importlib.util.find_spec("pyarrow"):
        made.update(_of_arrow(importlib.import_module("pyarrow")))
    if importlib.util.find_spec("scipy"):
        made.update(_of_scipy(importlib.import_module("scipy.sparse")))
    if importlib.util.find_spec("dask"):
        made.update(_of_dask(importlib.import_module("dask.array")))
    if importlib.util.find_spec("xarray"):
        xarray = importlib.import_module("xarray")
        made["DataArray"] = lambda: xarray.DataArray(MATRIX)
        made["Dataset"] = lambda: xarray.Dataset({"a": ("x", [1])})
    made["dataset of h5py"] = lambda: _dataset(directory)
    return made


def _dataset(directory: Path) -> Any:
    path = directory / "dataset.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            file["m"] = MATRIX
    return h5py.File(path, "r")["m"]


def _same(value: Any) -> Any:
    return value


def _read_only() -> Any:
    values = MATRIX.copy()
    values.flags.writeable = False
    return values


def _of_numpy() -> dict[str, Make]:
    masked = np.ma.array(MATRIX, mask=MATRIX > 3)
    records = np.array([(1, 2.0)], [("a", "i4"), ("b", "f4")])
    values: dict[str, Any] = {
        "matrix": MATRIX,
        "vector": MATRIX[0],
        "column": MATRIX[:, 0],
        "cube": np.zeros((2, 2, 3)),
        "0-d": np.array(3.0),
        "0-d of int": np.array(1),
        "number of NumPy": np.float64(2),
        "whole number of NumPy": np.int64(1),
        "ints": np.array([0, 1, 2, 3]),
        "negative ints": np.array([-1]),
        "ints that are no rows": np.array([10**9]),
        "uint64": np.array([2**64 - 1], np.uint64),
        "bools": np.array([True, False, True, False]),
        "matrix of bools": MATRIX > 0,
        "big-endian": MATRIX.astype(">f4"),
        "big-endian ints": np.array([0, 1], ">i8"),
        "objects": MATRIX.astype(object),
        "words as objects": np.array(["a", "b", None], object),
        "records": records,
        "recarray": records.view(np.recarray),
        "void": np.zeros((4, 3), "V2"),
        "longdouble": MATRIX.astype(np.longdouble),
        "complex values": MATRIX + 1j,
        "NaN values": MATRIX * np.nan,
        "infinite": np.array([np.inf, 1, 2]),
        "float16": MATRIX.astype(np.float16),
        "uint8": np.arange(12, dtype=np.uint8).reshape(4, 3),
        "words": np.array(["a", "b"]),
        "dates": np.array(["2020"], "M8[s]"),
        "no rows": np.empty((0, 3)),
        "no values": np.empty(0),
        "no columns": np.empty((4, 0)),
        "Fortran order": np.asfortranarray(MATRIX),
        "backwards": MATRIX[:, ::-1],
        "masked": masked,
        "masked of int": np.ma.array([0, 1], mask=[False, True]),
        "masked and one": np.ma.masked,
        "list of masked": list(masked),
        "list with masked": [1.0, np.ma.masked, 2.0],
        "np.matrix": np.asmatrix(MATRIX),
        "subclass": MATRIX.view(Subclass),
    }
    made = {name: functools.partial(_same, value) for name, value in values.items()}
    return {**made, "read-only": _read_only, "flat": lambda: MATRIX.flat}


def _of_python() -> dict[str, Make]:
    values: dict[str, Any] = {
        "memoryview": memoryview(MATRIX.data),
        "memoryview of a row": memoryview(MATRIX[0].data),
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "array.array": array.array("f", [1, 2, 3]),
        "text": "abc",
        "no text": "",
        "half of a pair": "\ud800",
        "text with NUL": "a\0b",
        "None": None,
        "int": 1,
        "negative int": -1,
        "huge int": 10**30,
        "True": True,
        "float": 1.5,
        "NaN": float("nan"),
        "complex": 1j,
        "list": [1, 2, 3],
        "list of lists": MATRIX.tolist(),
        "ragged": [[1, 2], [3]],
        "ragged and deep": [[[1], [2, 3]], [[1]]],
        "list of all sorts": [1, "a", None],
        "list of texts": ["a", "b"],
        "list of None": [None],
        "no list": [],
        "nested list": [[]],
        "very nested list": eval("[" * 60 + "]" * 60),
        "list of huge ints": [10**30],
        "list of decimals": [decimal.Decimal(1)],
        "list of dates": [datetime.datetime(2020, 1, 1)],
        "tuple": (1, 2, 3),
        "pair": (1, 2),
        "no tuple": (),
        "set": {1, 2},
        "dict": {"a": 1},
        "range": range(3),
        "slice": slice(0, 2),
        "slice of texts": slice("a", None),
        "Ellipsis": ...,
        "object": object(),
        "class": Lengthy,
        "Refusing": Refusing(),
        "Lengthy": Lengthy(),
    }
    made = {name: functools.partial(_same, value) for name, value in values.items()}
    return {**made, "generator": lambda: (row for row in MATRIX)}


def _of_torch(torch: Any) -> dict[str, Make]:
    def plain() -> Any:
        return torch.from_numpy(MATRIX.copy())

    def fake() -> Any:
        with importlib.import_module("torch._subclasses.fake_tensor").FakeTensorMode():
            return torch.ones(4, 3)

    return {
        "tensor": plain,
        "tensor with gradient": lambda: plain().requires_grad_(),
        "tensor of int": lambda: torch.tensor([0, 1]),
        "tensor of bool": lambda: torch.tensor([True, False, True, False]),
        "tensor of bfloat16": lambda: plain().bfloat16(),
        "tensor of float8": lambda: plain().to(torch.float8_e4m3fn),
        "tensor of another float8": lambda: plain().to(torch.float8_e4m3fnuz),
        "tensor of complex": lambda: torch.ones(4, 3, dtype=torch.complex64),
        "0-d tensor": lambda: torch.tensor(1),
        "negated tensor": lambda: torch._neg_view(plain()),
        "sparse tensor": lambda: plain().to_sparse(),
        "CSR tensor": lambda: plain().to_sparse_csr(),
        "sparse tensor of int": lambda: torch.tensor([0, 1]).to_sparse(),
        "meta tensor": lambda: torch.empty(4, 3, device="meta"),
        "meta tensor of int": lambda: torch.empty(2, dtype=torch.int64, device="meta"),
        "fake tensor": fake,
        "nested tensor": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "jagged tensor": lambda: torch.nested.nested_tensor(
            [torch.ones(2), torch.ones(3)], layout=torch.jagged
        ),
        "quantized tensor": lambda: torch.quantize_per_tensor(plain(), 0.1, 0, torch.qint8),
        "list of tensors": lambda: list(plain()),
        "list of bfloat16": lambda: list(plain().bfloat16()),
        "list of lists of bfloat16": lambda: [list(plain().bfloat16())],
        "list of unequal tensors": lambda: [torch.ones(2), torch.ones(3)],
    }


def _of_pandas(pandas: Any) -> dict[str, Make]:
    return {
        "DataFrame": lambda: pandas.DataFrame(MATRIX),
        "DataFrame with NA": lambda: pandas.DataFrame({"a": pandas.array([1, None], "Int64")}),
        "DataFrame of all sorts": lambda: pandas.DataFrame({"a": [1], "b": ["x"]}),
        "Series": lambda: pandas.Series([0, 1, 2]),
        "Series of words": lambda: pandas.Series(["a", "b"]),
        "Index": lambda: pandas.Index([0, 1]),
        "MultiIndex": lambda: pandas.MultiIndex.from_tuples([(1, 2)]),
        "Categorical": lambda: pandas.Categorical(["a", "b"]),
        "NA": lambda: pandas.NA,
        "Int64 with NA": lambda: pandas.array([1, None], "Int64"),
        "Timestamp": lambda: pandas.Timestamp("2020"),
        "SparseArray": lambda: pandas.arrays.SparseArray([0, 1, 0]),
    }


def _of_polars(polars: Any) -> dict[str, Make]:
    return {
        "polars.DataFrame": lambda: polars.DataFrame(MATRIX),
        "polars.LazyFrame": lambda: polars.LazyFrame({"a": [1]}),
        "polars.Series": lambda: polars.Series([0, 1]),
        "polars.Series of words": lambda: polars.Series(["a", "b"]),
        "polars.Series with null": lambda: polars.Series([1, None]),
        "polars.Series of lists": lambda: polars.Series([[1, 2], [3]]),
    }


def _of_arrow(arrow: Any) -> dict[str, Make]:
    return {
        "Arrow array": lambda: arrow.array([0, 1]),
        "Arrow array of words": lambda: arrow.array(["a"]),
        "Arrow array with null": lambda: arrow.array([1, None]),
        "Arrow array of lists": lambda: arrow.array([[1.0, 2.0], [3.0, 4.0]]),
        "Arrow array in chunks": lambda: arrow.chunked_array([[0], [1]]),
        "Arrow table": lambda: arrow.table({"a": [1, 2]}),
        "Arrow scalar": lambda: arrow.scalar(1),
    }


def _of_scipy(sparse: Any) -> dict[str, Make]:
    return {
        "sparse": lambda: sparse.csr_array(MATRIX),
        "sparse coordinates": lambda: sparse.coo_array(MATRIX),
        "sparse diagonals": lambda: sparse.dia_array(MATRIX),
        "sparse matrix": lambda: sparse.csr_matrix(MATRIX),
    }


def _of_dask(dask_array: Any) -> dict[str, Make]:
    def unknown() -> Any:
        lazy = dask_array.from_array(MATRIX)
        return lazy[lazy[:, 0] > 0]

    return {
        "Dask array": lambda: dask_array.from_array(MATRIX, chunks=2),
        "Dask array of unknown length": unknown,
    }
