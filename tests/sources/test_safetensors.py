"""safetensors, one file or several with an index: the contract, exact values, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from source_contract import (
    DIM,
    NUMPY_TYPES,
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
from source_files import SAFETENSORS_NAMES, make_safetensors, make_sharded, safetensors_bytes, with_header

from qstore.engine.quantization import to_float64
from qstore.errors import SourceError, TensorError
from qstore.sources import TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "safetensors": Maker(make_safetensors),
        "safetensors-named": Maker(make_safetensors, "z.weight"),
        "safetensors-directory": Maker(make_directory(make_safetensors)),
        "sharded": Maker(make_sharded),
        "sharded-named": Maker(make_sharded, "z.weight"),
        "sharded-directory": Maker(make_directory(make_sharded)),
    }


def test_fingerprint_sees_the_header(tmp_path: Path) -> None:
    path, values = tmp_path / "m.safetensors", matrix_of("float32")
    prints = []
    for metadata in ({"epoch": "1"}, {"epoch": "2"}):
        path.write_bytes(safetensors_bytes({"w": values}, metadata))
        os.utime(path, ns=(0, 0))
        with open_source(path) as source:
            prints.append(source.fingerprint())
    assert prints[0] != prints[1]


def test_fingerprint_sees_the_index(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    with open_source(path) as source:
        before = source.fingerprint()
    path.write_text(path.read_text() + " ")
    with open_source(path) as source:
        assert source.fingerprint() != before


@pytest.mark.parametrize("dtype", SAFETENSORS_NAMES)
@pytest.mark.parametrize("make", [make_safetensors, make_sharded])
def test_safetensors_every_type(tmp_path: Path, make: Make, dtype: str) -> None:
    values = matrix_of(dtype)
    path = make(tmp_path, values)
    with open_source(path) as source:
        assert (source.name, source.dtype) == ("z.weight", dtype)
        assert same(np.concatenate(list(source.chunks())), values)
    assert TensorInfo("z.weight", (ROWS, DIM), dtype) in list_tensors(path)
    assert [info.name for info in list_tensors(path)] == sorted(info.name for info in list_tensors(path))


@pytest.mark.parametrize("dtype", [*NUMPY_TYPES, "bfloat16"])
def test_safetensors_equals_its_own_library(tmp_path: Path, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="safetensors needs it for bfloat16")
    library = pytest.importorskip("safetensors.numpy", reason="compares with the format's own library")
    item = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    path = tmp_path / "own.safetensors"
    library.save_file({"w": matrix_of(dtype).view(item), "b": np.zeros(3, np.float32)}, path)
    with open_source(path) as source:
        assert source.dtype == dtype
        found = np.concatenate(list(source.chunks()))
    expected = library.load_file(path)["w"]
    assert np.array_equal(to_float64(found), expected.astype(np.float64))


def test_no_matrix_at_all(tmp_path: Path) -> None:
    single = tmp_path / "m.safetensors"
    single.write_bytes(safetensors_bytes({"cube": np.zeros((2, 2, 2), np.float32)}))
    refused(single, "tensor 'cube' has shape (2, 2, 2): expected 2 dimensions")
    single.write_bytes(with_header(b"{}"))
    refused(single, "found no tensors at all")
    refused(single, "holds no tensors at all", tensor="x", error=TensorError)


def header_of(**tensors: tuple[str, list[Any], list[Any]]) -> bytes:
    words = ("dtype", "shape", "data_offsets")
    return json.dumps(
        {name: dict(zip(words, entry, strict=True)) for name, entry in tensors.items()}
    ).encode()


@pytest.mark.parametrize(
    ("header", "size", "words"),
    [
        (header_of(w=("F32", [2, 2], [0, 12])), 12, "expected 16 bytes, found data_offsets that hold 12"),
        (header_of(w=("F32", [2**40, 2**40], [0, 16])), 16, f"expected {2**82} bytes"),
        (header_of(w=("F32", [2**62, 4], [0, 0])), 0, f"expected {2**66} bytes"),
        (header_of(w=("F32", [2, 2], [0, 16])), 15, "ends early: expected 16 bytes of data, found 15"),
        (header_of(w=("F32", [2, 2], [0, 16])), 17, "belong to no tensor"),
        (header_of(w=("F32", [2, 2], [16, 32])), 32, "from byte 0 on, found 16 to 32"),
        (header_of(w=("F32", [2, 2], [-16, 0])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, -2], [0, 16])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, 2.0], [0, 16])), 16, "integers ≥ 0"),
        (header_of(w=("F32", [2, True], [0, 8])), 8, "integers ≥ 0"),
        (header_of(w=("F32", [2, 2], [0, 16, 32])), 32, "two data_offsets"),
        (header_of(w=("F32", [2, 2], [16, 0])), 16, "found data_offsets that hold -16"),
        (
            header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [8, 24])),
            24,
            "from byte 16 on, found 8 to 24",
        ),
        (
            header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [20, 36])),
            36,
            "from byte 16 on, found 20 to 36",
        ),
        (header_of(v=("F32", [2, 2], [0, 16]), w=("F32", [2, 2], [0, 16])), 16, "overlap"),
        (header_of(w=("F4", [1, 3], [0, 1])), 1, "expected 1.5 bytes"),
        (header_of(w=("BOOL", [2, 2], [0, 4])), 4, "'w' holds bool"),
        (header_of(w=("C64", [2, 2], [0, 32])), 32, "'w' holds complex64"),
        (header_of(w=("F8_E8M0", [2, 2], [0, 4])), 4, "'w' holds float8_e8m0fnu"),
        (header_of(w=("float32", [2, 2], [0, 16])), 16, "unknown type float32"),
        (b'{"w": {"dtype": "F32", "shape": [2, 2]}}', 16, "two data_offsets"),
        (b'{"w": 7}', 16, "two data_offsets"),
        (b'{"w": null}', 16, "two data_offsets"),
        (b'{"w": {"dtype": 3, "shape": [2, 2], "data_offsets": [0, 16]}}', 16, "two data_offsets"),
        (b'{"w": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}}', 16, "two data_offsets"),
        (b'{"a": 1, "a": 1}', 0, "'a' stands twice"),
        (b'{"w": {"dtype": "F32", "dtype": "F32"}}', 0, "'dtype' stands twice"),
        (b'{"a":' * 100_000, 0, "expected JSON"),
        (b'{"a":' + b"[" * 200_000, 0, "expected JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", 0, "expected JSON"),
        (b'{"\\ud800": 1}', 0, "expected JSON"),
        (b'{"\xff": 1}', 0, "expected JSON"),
        (b"{", 0, "expected JSON"),
        (b"", 0, "expected JSON"),
        (b"[]", 0, "expected a JSON object, found list"),
    ],
)
def test_safetensors_malformed(tmp_path: Path, header: bytes, size: int, words: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header, bytes(size)))
    error = refused(path, words)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("length", [100_000_001, 2**63, 2**64 - 1, 3])
def test_safetensors_header_lengths(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    refused(path, "no complete safetensors file", f"found a length of {length}")


def test_safetensors_longest_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((150_000_000).to_bytes(8, "little") + b"{")
    os.truncate(path, 200_000_000)
    refused(path, "a header of at most 100000000 bytes, found a length of 150000000")


def test_safetensors_unknown_type_that_ends_before_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header_of(a=("F32", [1], [0, 4]), new=("F3", [9], [4, 2])), bytes(2)))
    refused(path, "'new' expected data from byte 4 on, found 4 to 2")


def test_safetensors_megabyte_names_stay_short_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"n" * 2_000_000 + str(number): np.zeros((1, 1), np.float32) for number in range(2)}
    path.write_bytes(safetensors_bytes(tensors))
    assert len(str(refused(path, "2 matrices", error=TensorError))) < 2000
    assert len(str(refused(path, tensor="n" * 1_000_000, error=TensorError))) < 2000


def test_safetensors_with_many_names_answers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    one = {"dtype": "F32", "shape": [0, 1], "data_offsets": [0, 0]}
    path.write_bytes(
        with_header(json.dumps({f"layer.{number}.weight": one for number in range(30_000)}).encode())
    )
    refused(path, "did you mean", tensor="layer.77.wieght", error=TensorError)


def test_safetensors_type_of_the_future_hides_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_header(header_of(new=("F3", [9], [0, 4]), w=("F32", [1, 2], [4, 12])), bytes(12)))
    with open_source(path) as source:
        assert source.name == "w"
    assert TensorInfo("new", (9,), "F3") in list_tensors(path)


@pytest.mark.parametrize(
    "shard",
    ["../m.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ".", "", "a\\b", "a\0b", 7, None, ["x"]],
)
def test_index_reaches_no_other_place(tmp_path: Path, shard: Any) -> None:
    directory = tmp_path / "checkpoint"
    (directory / "sub").mkdir(parents=True)
    for place in (tmp_path, directory / "sub"):
        make_safetensors(place, matrix_of("float32")).rename(place / "m.safetensors")
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"z.weight": shard}}))
    for tensor in (None, "z.weight"):
        refused(directory, "expected the plain name of a file beside the index", tensor=tensor)


def test_index_names_missing_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    refused(path, "1 of its files missing: model-00001-of-00002.safetensors; get them again")
    with pytest.raises(SourceError, match=r"model-00001-of-00002\.safetensors"):
        list_tensors(tmp_path)
    refused(path, "1 of its files missing: model-00001-of-00002.safetensors", tensor="a.bias")
    with open_source(path, "z.weight") as source:  # the shard that is needed is there
        assert source.rows == ROWS


def test_index_that_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    path.write_text(path.read_text().replace("z.weight", "y.weight"))
    for tensor in (None, "y.weight"):
        refused(
            path, "expected tensor 'y.weight' in model-00002-of-00002.safetensors, found none", tensor=tensor
        )


def test_index_shards_must_be_regular_files(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    os.mkfifo(shard)
    refused(path, "is a pipe", tensor="z.weight")


@pytest.mark.parametrize(
    "text", ["{}", "[]", "7", '{"weight_map": []}', '{"weight_map": {"a": "x", "a": "y"}}', "{"]
)
def test_index_malformed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refused(tmp_path, "expected")


def test_index_comes_before_a_single_file(tmp_path: Path) -> None:
    values = matrix_of("float32")
    make_safetensors(tmp_path, values[:7])
    make_sharded(tmp_path, values)
    with open_source(tmp_path) as source:
        assert source.rows == ROWS
