"""Weights that torchao has quantized, in torch.save's own format: their parts, or an opaque object."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import files_open_in
from torch_files import checkpoint

import qstore
from qstore.errors import SourceError
from qstore.sources import QuantizedSource, RowSource, list_tensors, open_source

pytestmark = pytest.mark.usefixtures("no_leaks")
DATA = Path(__file__).parents[1] / "data" / "libraries"
KINDS = {"int8": True, "float8": False, "int4": False}
"""What torchao 0.18 has made, and whether codes go in as they are."""


def changed(path: Path, kind: str, *pairs: tuple[bytes, bytes]) -> Path:
    """A checkpoint of torchao with other texts in its pickle."""
    with zipfile.ZipFile(DATA / f"torchao-{kind}.pt") as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        data = archive.read(names["data.pkl"])
        held: dict[str, Any] = {
            name.removeprefix("data/"): np.frombuffer(archive.read(whole), np.uint8)
            for name, whole in names.items()
            if name.startswith("data/")
        }
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    return checkpoint(path, data, held)


def refused(path: Path, *words: str, **options: Any) -> None:
    """Neither opened nor built, and no file stays open."""
    with pytest.raises(SourceError) as caught:
        qstore.build(path, path.parent / "out.h5", **options)
    for one in words:
        assert one in str(caught.value)
    assert not list(path.parent.glob("out.h5*"))
    assert files_open_in(path.parent) == []


@pytest.mark.parametrize("kind", KINDS)
def test_as_the_library_has_it(kind: str, tmp_path: Path) -> None:
    path, expected = DATA / f"torchao-{kind}.pt", np.load(DATA / f"torchao-{kind}.npy")
    (info,) = list_tensors(path)
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert isinstance(source, QuantizedSource) == KINDS[kind]
        assert (info.name, info.shape, info.convention) == ("0.weight", (10, 64), source.convention)
        np.testing.assert_array_equal(source.read(0, 10).astype(np.float32), expected)
        np.testing.assert_array_equal(source.read(3, 5).astype(np.float32), expected[3:5])
    assert {one.name for one in list_tensors(path, as_stored=True)} == {one.name for one in info.parts}
    qstore.build(path, tmp_path / "out.h5", tensor="0.weight")
    with qstore.open(tmp_path / "out.h5") as store:
        assert qstore.verify_against(store, path).ok


def test_codes_as_stored() -> None:
    path = DATA / "torchao-int8.pt"
    with open_source(path, "0.weight") as scaled, open_source(path, "0.weight", as_stored=True) as bare:
        assert isinstance(scaled, QuantizedSource)
        assert isinstance(bare, RowSource)
        assert bare.name == "0._weight_qdata"
        np.testing.assert_array_equal(bare.read(0, 10), scaled.read_codes(0, 10)[0].astype(int) - 128)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Int8Tensor", b"Int9Tensor"),
        (b"ctorchao.", b"ctorchai."),
        (b"qdata", b"qdatb"),
        (b"scale", b"scalf"),
        (b"0.weight", b"0.weighs"),
    ],
)
def test_what_is_not_known_is_opaque(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = changed(tmp_path / "model.pt", "int8", (old, new))
    (info,) = list_tensors(path)
    assert info.dtype.startswith("opaque (torcha")
    refused(path, "tensor.dequantize() where its class quantizes, in its place")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"\nq\x06K\nK@\x86", b"\nq\x06K\tK@\x86", "is opaque (torchao"),  # not the shape of its codes
        (b"ctorch\nFloatStorage", b"ctorch\nFlootStorage", "is opaque (torchao"),
        (b"K\nK\x01\x86", b"K\x05K\x02\x86", "has shape (5, 2)"),
        (b"ctorch\nFloatStorage", b"ctorch\nCharStorage", "expected 10 bytes of data, found 40"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    refused(changed(tmp_path / "model.pt", "int8", (old, new)), words, tensor="0.weight")


def test_a_file_that_is_cut_short(tmp_path: Path) -> None:
    content = (DATA / "torchao-int8.pt").read_bytes()
    for length in (len(content) - 1, len(content) // 2, 9):
        (tmp_path / "model.pt").write_bytes(content[:length])
        refused(tmp_path / "model.pt")


def test_a_part_that_is_missing(tmp_path: Path) -> None:
    path = changed(tmp_path / "model.pt", "int8")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if not name.endswith("data/1"):
                archive.writestr(name, content)
    refused(path, "expected its data in member '1', found no such member")


def test_in_a_checkpoint_of_several_files_it_stays_opaque(tmp_path: Path) -> None:
    """The index has the name of the weight alone."""
    shutil.copy(DATA / "torchao-int8.pt", tmp_path / "pytorch_model-00001.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"0.weight": "pytorch_model-00001.bin"}}))
    refused(index, "tensor.dequantize() where its class quantizes, in its place")
