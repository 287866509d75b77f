"""Files of the big-ann benchmarks: types by name, sizes to the byte, and `.bin` that is not guessed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import DIM, ROWS, Make, Maker, SourceContract, matrix_of, refused, same

from qstore.sources import TensorInfo, list_tensors, open_source

TYPES = {".fbin": "float32", ".f16bin": "float16", ".u8bin": "uint8", ".i8bin": "int8", ".ibin": "int32"}


def content_of(values: NDArray[Any]) -> bytes:
    """As the benchmarks' own `write` does it: `np.array(shape, "uint32").tofile`, then the values."""
    return np.array(values.shape, "<u4").tobytes() + values.tobytes()


def into(name: str) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        (directory / name).write_bytes(content_of(values))
        return directory / name

    return make


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "fbin": Maker(into("base.1M.fbin")),
        "crop": Maker(into("base.1B.fbin.crop_nb_10000000")),
    }


@pytest.mark.parametrize("suffix", TYPES)
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_every_type(tmp_path: Path, suffix: str, case: Callable[[str], str]) -> None:
    values = matrix_of(TYPES[suffix])
    path = into(case("base.1M" + suffix))(tmp_path, values)
    with open_source(path) as source:
        assert source.dtype == TYPES[suffix]
        assert same(np.concatenate(list(source.chunks())), values)
    assert list_tensors(path) == [TensorInfo("", (ROWS, DIM), TYPES[suffix])]


def test_no_names(tmp_path: Path) -> None:
    refused(into("m.fbin")(tmp_path, matrix_of("float32")), "leave tensor= out", tensor="w")


@pytest.mark.parametrize("more", [-8, -1, 1, 4])
def test_sizes_that_do_not_fit(tmp_path: Path, more: int) -> None:
    path = tmp_path / "m.u8bin"
    content = content_of(matrix_of("uint8"))
    path.write_bytes(content[:more] if more < 0 else content + bytes(more))
    refused(path, f"expected {len(content)} bytes, found {len(content) + more}; it is cut short")


def test_no_columns(tmp_path: Path) -> None:
    path = tmp_path / "m.fbin"
    path.write_bytes(np.array([7, 0], "<u4").tobytes())
    refused(path, "expected at least 1 column, found 0")


def test_counts_that_no_file_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.fbin"
    path.write_bytes(b"\xff" * 8 + bytes(100))
    refused(path, "says 4,294,967,295 rows of 4294967295 columns of float32")


def test_neighbours_with_distances(tmp_path: Path) -> None:
    path = tmp_path / "groundtruth.ibin"
    path.write_bytes(content_of(matrix_of("int32")) + matrix_of("float32").tobytes())
    refused(path, "neighbours and their distances", f"--raw int32:{DIM}:8")


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        ("float32", (".fbin or .ibin", "--raw float32:5:8 or --raw int32:5:8")),
        ("int8", (".u8bin or .i8bin",)),
    ],
)
def test_bin_of_a_type_that_is_not_told(tmp_path: Path, dtype: str, names: tuple[str, ...]) -> None:
    path = into("base.bin")(tmp_path, matrix_of(dtype))
    refused(path, f"{ROWS} rows of {DIM} values", *names)


def test_bin_of_two_bytes_a_value_is_float16(tmp_path: Path) -> None:
    values = matrix_of("float16")
    with open_source(into("base.bin")(tmp_path, values)) as source:
        assert same(np.concatenate(list(source.chunks())), values)


def test_other_bin_files_stay_what_they_are(tmp_path: Path) -> None:
    words = tmp_path / "words.bin"
    words.write_bytes(b"1 2\nthe " + np.ones(2, "<f4").tobytes() + b"\n")
    with open_source(words) as source:
        assert source.keyed
    torch = pytest.importorskip("torch")
    memory = io.BytesIO()
    torch.save({"weight": torch.ones(3, 2)}, memory)
    checkpoint = tmp_path / "pytorch_model.bin"
    checkpoint.write_bytes(memory.getvalue())
    with open_source(checkpoint) as source:
        assert source.name == "weight"
