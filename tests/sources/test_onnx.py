"""ONNX: initializers in the file and beside it, in bytes of protobuf as the library writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_files import external, initializer, model, part, varint
from source_contract import DIM, ROWS, Maker, SourceContract, matrix_of, refused

from qstore.errors import TensorError
from qstore.sources import TensorInfo, list_tensors, open_source

DATA = Path(__file__).parents[1] / "data" / "libraries"
KINDS = {"float32": 1, "uint8": 2, "int8": 3, "float16": 10, "float64": 11, "bfloat16": 16, "float8_e5m2": 19}


def make_inside(directory: Path, values: NDArray[Any]) -> Path:
    (directory / "m.onnx").write_bytes(model(initializer(values)))
    return directory / "m.onnx"


def make_beside(directory: Path, values: NDArray[Any]) -> Path:
    """As a second saving leaves it: dead bytes first, and an odd place."""
    (directory / "m.data").write_bytes(b"x" * 77 + values.tobytes() + b"rest")
    places = {"location": "m.data", "offset": "77", "length": str(values.nbytes)}
    (directory / "m.onnx").write_bytes(model(external(values.shape, **places)))
    return directory / "m.onnx"


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "inside": Maker(make_inside),
        "beside": Maker(make_beside, tells_length=False),
    }


@pytest.mark.parametrize("name", ["inside.onnx", "beside.onnx"])
def test_equals_the_library(name: str) -> None:
    with np.load(DATA / "onnx.npz") as expected:
        for tensor in expected.files:
            with open_source(DATA / name, tensor) as source:
                assert np.array_equal(np.concatenate(list(source.chunks())), expected[tensor])


@pytest.mark.parametrize("dtype", KINDS)
def test_every_type(tmp_path: Path, dtype: str) -> None:
    values = matrix_of(dtype)
    path = tmp_path / "m.onnx"
    path.write_bytes(model(initializer(values, kind=KINDS[dtype], packed=False)))
    assert list_tensors(path) == [TensorInfo("emb", (ROWS, DIM), dtype)]
    with open_source(path) as source:
        assert b"".join(chunk.tobytes() for chunk in source.chunks()) == values.tobytes()


SHAPE = (ROWS, DIM)
BAD: dict[str, tuple[bytes, str]] = {
    "other folder": (model(external(SHAPE, location="../x")), "in a file beside the model"),
    "absolute": (model(external(SHAPE, location="/etc/passwd")), "in a file beside the model"),
    "no location": (model(external(SHAPE, offset="0")), "in a file beside the model"),
    "missing file": (model(external(SHAPE, location="gone.data")), "does not exist"),
    "offset": (model(external(SHAPE, location="m.onnx", offset="-1")), "expected two numbers"),
    "length": (model(external(SHAPE, location="m.onnx", length="9")), "expected 5140 bytes, found 9"),
    "short data": (model(external(SHAPE, location="m.onnx")), "ends early"),
    "short values": (model(initializer(matrix_of("float32")) + part(1, 2)), "has shape (257, 5, 2)"),
    "twice": (
        model(initializer(matrix_of("float32")), initializer(matrix_of("float32"))),
        "two tensors named",
    ),
    "no graph": (part(1, 8), "expected one graph, found 0"),
    "no values": (
        model(part(1, varint(2) + varint(3)) + part(2, 1) + part(8, b"e")),
        "in a form that is not read",
    ),
    "absurd": (model(part(1, b"\xff" * 8 + b"\1") + part(2, 1) + part(8, b"e")), "cannot be"),
    "garbage": (b"\x0b" * 100, "no whole ONNX model"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    (tmp_path / "m.onnx").write_bytes(content)
    refused(tmp_path / "m.onnx", words)


def test_names(tmp_path: Path) -> None:
    refused(make_inside(tmp_path, matrix_of("float32")), "has no tensor 'x'", tensor="x", error=TensorError)
