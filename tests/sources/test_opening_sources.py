"""open_source on files of any format: told by their content, and refused with what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from source_contract import DIM, RAW_TYPES, ROWS, Make, files_open_in, matrix_of, refused, same
from source_files import make_hdf5, make_npy, make_safetensors, safetensors_bytes

from qstore.errors import SourceError, TensorError
from qstore.sources import TensorInfo, list_tensors, open_source


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


@pytest.mark.parametrize(
    "make", [make_npy((1, 0)), make_npy((1, 0), "F"), make_hdf5(), make_hdf5(chunks=True)]
)
@pytest.mark.parametrize("name", RAW_TYPES)
def test_marker_types_survive_files(tmp_path: Path, make: Make, name: str) -> None:
    values = matrix_of(name)
    with open_source(make(tmp_path, values)) as source:
        assert source.dtype == name
        assert same(np.concatenate(list(source.chunks())), values)


def test_sources_pass_through(tmp_path: Path) -> None:
    with open_source(make_safetensors(tmp_path, matrix_of("float32"))) as source:
        assert open_source(source) is source
        assert open_source(source, "z.weight") is source
        refused(source, "has no tensor names", tensor="other")
        assert list_tensors(source) == [TensorInfo("z.weight", (ROWS, DIM), "float32")]


def test_content_decides_before_the_name(tmp_path: Path) -> None:
    values = matrix_of("float32")
    for number, make in enumerate(
        [make_npy((1, 0)), make_hdf5(), make_hdf5(userblock=2048), make_safetensors]
    ):
        path = make(tmp_path, values).rename(tmp_path / f"{number}.npy")
        with open_source(path) as source:
            assert same(np.concatenate(list(source.chunks())), values)


def test_paths_refused(tmp_path: Path) -> None:
    refused(tmp_path / "missing.npy", "missing.npy does not exist")
    refused(tmp_path, "is a directory without a checkpoint: expected", "model.safetensors.index.json")
    refused("nul\0byte", "cannot be opened: embedded null byte")
    (tmp_path / "loop").symlink_to("loop")
    refused(tmp_path / "loop", "cannot be opened: Too many levels of symbolic links")
    (tmp_path / "empty.npy").touch()
    refused(
        tmp_path / "empty.npy",
        "is empty: expected one of npy (.npy), HDF5 (.h5",
        "safetensors (.safetensors)",
    )
    (tmp_path / "text.doc").write_text("the quick brown fox")
    refused(tmp_path / "text.doc", "of no known format: expected one of npy (.npy)", "b'the quic'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = make_npy((1, 0))(tmp_path, matrix_of("float32"))
    path.chmod(0)
    refused(path, "cannot be opened: Permission denied")


def test_pipes_and_devices_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    refused(tmp_path / "pipe.npy", "is a pipe, socket or device: expected a regular file")
    refused("/dev/zero", "is a pipe, socket or device")
    with pytest.raises(SourceError, match="is a pipe"):
        list_tensors(tmp_path / "pipe.npy")


def test_wrong_content_behind_a_known_name(tmp_path: Path) -> None:
    for name, words in (
        ("x.npy", "is no .npy file that can be read"),
        ("x.h5", "cannot be read as HDF5"),
        ("x.safetensors", "no complete safetensors file"),
        ("x.safetensors.index.json", "expected JSON"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        refused(tmp_path / name, words)


def test_unknown_names_give_the_closest(tmp_path: Path) -> None:
    names = ["embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight", "head.weight"]
    tensors = {name: matrix_of("float32", 4) for name in names}
    single = tmp_path / "m.safetensors"
    single.write_bytes(safetensors_bytes(tensors))
    hdf5 = tmp_path / "m.h5"
    with h5py.File(hdf5, "w") as file:
        for name in names:
            file[name] = tensors[name]
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "m.safetensors")}))
    for path in (single, hdf5, index):
        error = refused(path, "did you mean", names[0], tensor="word_embedings.weight", error=TensorError)
        assert isinstance(error, TensorError)
        assert error.candidates[0] == names[0]
        refused(path, f"did you mean '{names[1]}'?", tensor="POSITION", error=TensorError)
        error = refused(path, "it holds ", *names, tensor="qqq", error=TensorError)
        assert isinstance(error, TensorError)
        assert set(error.candidates) == set(names)


def test_several_matrices_are_listed(tmp_path: Path) -> None:
    tensors = {"a": matrix_of("float32", 4), "b": matrix_of("bfloat16", 9), "c": np.zeros(3, np.float32)}
    single, hdf5 = tmp_path / "m.safetensors", tmp_path / "m.h5"
    single.write_bytes(safetensors_bytes(tensors))
    with h5py.File(hdf5, "w") as file:
        for name, values in tensors.items():
            file[name] = values
    for path in (single, hdf5):
        words = [
            "holds 2 matrices",
            "tensor= (--tensor NAME)",
            f"'a'  (4, {DIM})  float32",
            f"'b'  (9, {DIM})  bfloat16",
        ]
        error = refused(path, *words, error=TensorError)
        assert isinstance(error, TensorError)
        assert error.candidates == ("a", "b")
        refused(path, "tensor 'c' has shape (3,): expected 2 dimensions", tensor="c")
        with open_source(path, "b") as source:
            assert source.rows == 9
