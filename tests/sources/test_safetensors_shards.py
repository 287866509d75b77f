"""What torch's Hugging Face storage writer leaves: shards are whole together, and never pass for a matrix."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from distributed_files import COLUMNS, GRID, ROWS, Cut, by_torch, sharding_info, shards
from numpy.typing import NDArray
from source_contract import DIM, Make, Maker, SourceContract, files_open_in, matrix_of, refused, same
from source_files import make_safetensors, safetensors_bytes, with_header

from qstore.errors import IncompleteError, SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, files, list_tensors, open_source

DATA = Path(__file__).parents[1] / "data" / "sources"
FIRST = "shard-00001-model-00001-of-00001.safetensors"
SECOND = FIRST.replace("shard-00001", "shard-00002")
THIRD = FIRST.replace("shard-00001", "shard-00003")
WAYS_OUT = ("enable_consolidation=True", "safetensors.torch.save_file(")


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


# the contract ----------------------------------------------------------------------------------------


def made(cuts: list[Cut]) -> Make:
    return lambda folder, values: shards(folder, values, cuts)


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "rows": Maker(made(ROWS)),
        "columns": Maker(made(COLUMNS), "z.weight", working_memory=3 << 20),
        "grid": Maker(made(GRID), working_memory=3 << 20),
    }


# what torch has written ------------------------------------------------------------------------------

FROZEN = np.arange(77, dtype=np.float32).reshape(11, 7)
"""What tests/data/sources/shards and consolidated (torch 2.13, two processes) were made of."""
LISTED = [
    TensorInfo("bias", (7,), "float32"),
    TensorInfo("by_columns", (11, 7), "bfloat16"),
    TensorInfo("by_rows", (11, 7), "float32"),
    TensorInfo("one_row", (1, 7), "float32"),
]


@pytest.mark.parametrize("folder", ["shards", "consolidated", "consolidated/sharded"])
def test_frozen_files_of_torch(folder: str) -> None:
    assert list_tensors(DATA / folder) == LISTED
    for name in ("by_rows", "by_columns", "one_row"):
        with open_source(DATA / folder, name) as source:
            assert isinstance(source, RowSource)
            assert same(source.read(0, source.rows), FROZEN[: source.rows])


def test_consolidated_files_are_as_any_others() -> None:
    assert list_tensors(DATA / "consolidated" / FIRST.removeprefix("shard-00001-")) == LISTED


@pytest.mark.parametrize("folder", ["shards", "consolidated/sharded"])
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_a_shard_alone_is_refused(tmp_path: Path, folder: str, name: str) -> None:
    """By its path, in another directory, under another name, in an index."""
    path = DATA / folder / name
    for tensor in ("by_columns", "by_rows", "bias"):
        refused(
            path, "holds pieces of tensors, as torch's HuggingFaceStorageWriter", *WAYS_OUT, tensor=tensor
        )
    with pytest.raises(SourceError, match="holds pieces of tensors"):
        list_tensors(path)
    (tmp_path / name).write_bytes(path.read_bytes())
    refused(tmp_path, f"found only {int(name[6:11])}: others hold the rest", *WAYS_OUT, tensor="by_columns")
    index = {"weight_map": {"by_columns": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, "holds pieces of tensors", tensor="by_columns")
    renamed = tmp_path / name.replace("shard", "part")
    (tmp_path / name).rename(renamed)
    refused(renamed, "holds pieces of tensors", tensor="by_columns")


@pytest.mark.parametrize("cuts", [ROWS, COLUMNS, GRID])
def test_shards_by_torch(tmp_path: Path, cuts: list[Cut]) -> None:
    checkpoints = pytest.importorskip("torch.distributed.checkpoint", reason="writes with torch")
    pytest.importorskip("safetensors", reason="torch writes with it")
    values = matrix_of("float32")
    writer = checkpoints.HuggingFaceStorageWriter(tmp_path, save_distributed=True)
    by_torch(tmp_path, {"w": (values, cuts)}, writer)
    with open_source(tmp_path) as source:
        assert same(np.concatenate(list(source.chunks())), values)


def test_whole_files_of_the_same_writer(tmp_path: Path) -> None:
    """Without save_distributed it writes whole tensors, and says of all of them that they begin at 0."""
    checkpoints = pytest.importorskip("torch.distributed.checkpoint", reason="writes with torch")
    pytest.importorskip("safetensors", reason="torch writes with it")
    values = matrix_of("float32")
    whole: list[Cut] = [(slice(None), slice(None))]
    writer = checkpoints.HuggingFaceStorageWriter(tmp_path, {"a": 1, "b": 2})
    by_torch(tmp_path, {"a": (values, whole), "b": (-values, whole)}, writer)
    assert b"DCP_SHARDING_INFO" in (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    for path, name in ((tmp_path, "b"), (tmp_path / "model-00002-of-00002.safetensors", None)):
        with open_source(path, name) as source:
            assert same(np.concatenate(list(source.chunks())), -values)


def test_consolidated_by_torch(tmp_path: Path) -> None:
    checkpoints = pytest.importorskip("torch.distributed.checkpoint", reason="writes with torch")
    pytest.importorskip("safetensors", reason="torch writes with it")
    values = matrix_of("float16")
    writer = checkpoints.HuggingFaceStorageWriter(tmp_path, save_distributed=True, enable_consolidation=True)
    by_torch(tmp_path / "sharded", {"w": (values, COLUMNS)}, writer)
    for path in (tmp_path, tmp_path / "sharded"):
        with open_source(path) as source:
            assert same(np.concatenate(list(source.chunks())), values)


# what is refused -------------------------------------------------------------------------------------


def shard(
    folder: Path, number: int, offsets: list[Any], values: NDArray[Any], part: str = "00001-of-00001"
) -> Path:
    path = folder / f"shard-{number:05d}-model-{part}.safetensors"
    path.write_bytes(safetensors_bytes({"w": values}, sharding_info({"w": offsets})))
    return path


ONES = np.ones((4, 3), np.float32)
SETS: dict[str, tuple[list[tuple[list[Any], NDArray[Any]]], str]] = {
    "overlap": ([([0, 0], ONES), ([3, 0], ONES)], "pieces that overlap"),
    "twice": ([([0, 0], ONES), ([0, 0], ONES)], "pieces that overlap"),
    "hole": ([([0, 0], ONES), ([5, 0], ONES)], "leave a hole: expected each value of (9, 3)"),
    "hole at the start": ([([1, 0], ONES), ([5, 0], ONES)], "rows 0 to 1, columns 0 to 3 in none"),
    "hole at the end": ([([0, 0], ONES), ([9, 0], ONES[:0])], "rows 4 to 9, columns 0 to 3 in none"),
    "a corner": ([([0, 0], ONES), ([4, 3], ONES)], "leave a hole: expected each value of (8, 6)"),
    "other widths": ([([0, 0], ONES), ([4, 0], ONES[:, :2])], "leave a hole"),
    "other types": ([([0, 0], ONES), ([4, 0], ONES.astype("f8"))], "expected pieces of one type"),
    "another rank": ([([0, 0], ONES), ([4], ONES[0])], "expected pieces of one type and one number of dim"),
    "far away": ([([0, 0], ONES), ([2**62, 0], ONES)], "leave a hole"),
    "too far": ([([0, 0], ONES), ([2**63, 0], ONES)], "expected as many saved_offsets"),
    "negative": ([([0, 0], ONES), ([-4, 0], ONES)], "expected as many saved_offsets"),
    "no numbers": ([([0, 0], ONES), ([4.0, 0], ONES)], "expected as many saved_offsets"),
    "too few": ([([0, 0], ONES), ([4], ONES)], "of 2 dimensions expected as many saved_offsets"),
}


@pytest.mark.parametrize("case", SETS)
def test_pieces_that_do_not_fit(tmp_path: Path, case: str) -> None:
    pieces, words = SETS[case]
    for number, (offsets, values) in enumerate(pieces, 1):
        shard(tmp_path, number, offsets, values)
    for tensor in (None, "w"):
        refused(tmp_path, words, tensor=tensor)
    with pytest.raises(SourceError):
        list_tensors(tmp_path)


def test_a_vector_in_pieces(tmp_path: Path) -> None:
    for number, (start, stop) in enumerate([(0, 3), (3, 5)], 1):
        shard(tmp_path, number, [start], np.zeros(stop - start, np.float32))
    assert list_tensors(tmp_path) == [TensorInfo("w", (5,), "float32")]
    refused(tmp_path, "has shape (5,): expected 2 dimensions")
    shard(tmp_path, 2, [4], np.zeros(2, np.float32))
    with pytest.raises(IncompleteError, match="expected 6 values in its pieces, found 5"):
        list_tensors(tmp_path)


@pytest.mark.parametrize("lost", [FIRST, SECOND])
def test_missing_shards(tmp_path: Path, lost: str) -> None:
    shards(tmp_path, matrix_of("float32"), ROWS)
    (tmp_path / lost).unlink()
    refused(tmp_path, "expected shards 1, 2 and so on", "found only", *WAYS_OUT, tensor="z.weight")


def test_missing_parts(tmp_path: Path) -> None:
    """Of a model in two files a process: the tensors of the other one are whole."""
    values = matrix_of("float32")
    shards(tmp_path, values, COLUMNS, "a", "1-of-00002")
    shards(tmp_path, values, COLUMNS, "b", "2-of-00002")
    lost = FIRST.replace("shard-00001-model-00001-of-00001", "shard-00003-model-00002-of-00002")
    (tmp_path / lost).unlink()
    with pytest.raises(
        IncompleteError, match=f"'b' may have pieces in files that are not there.*{lost}"
    ) as caught:
        list_tensors(tmp_path)
    assert TensorInfo("a", values.shape, "float32") in caught.value.tensors
    refused(tmp_path, lost)
    refused(tmp_path, lost, tensor="b")
    with open_source(tmp_path, "a") as source:
        assert same(np.concatenate(list(source.chunks())), values)
    refused(tmp_path, "did you mean 'a'", tensor="aa", error=TensorError)


def test_shards_of_two_models(tmp_path: Path) -> None:
    shard(tmp_path, 1, [0, 0], ONES)
    shard(tmp_path, 2, [0, 0], ONES, "00001-of-00002")
    refused(tmp_path, "holds shards of models in 00001 and 00002 parts: expected one")


def test_files_that_are_no_shards(tmp_path: Path) -> None:
    shard(tmp_path, 1, [0, 0], ONES)
    (tmp_path / SECOND).write_bytes(safetensors_bytes({"w": ONES}))
    refused(tmp_path, f"{SECOND} expected DCP_SHARDING_INFO")
    for info in ("", "[]", "{", "5", '{"w": 5}', '{"w": {"saved_offsets": "00"}}', '{"w": 1, "w": 2}'):
        (tmp_path / SECOND).write_bytes(safetensors_bytes({"w": ONES}, {"DCP_SHARDING_INFO": info}))
        refused(tmp_path, f"{SECOND}")
        refused(tmp_path / SECOND, f"{SECOND}")
    header: dict[str, Any] = {"__metadata__": {"DCP_SHARDING_INFO": {"w": [0, 0]}}}
    header["w"] = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}
    (tmp_path / SECOND).write_bytes(with_header(json.dumps(header).encode(), ONES.tobytes()))
    refused(tmp_path, "expected as many saved_offsets in DCP_SHARDING_INFO, found None")


def test_beside_other_weights(tmp_path: Path) -> None:
    shards(tmp_path, matrix_of("float32"), ROWS)
    make_safetensors(tmp_path, ONES).rename(tmp_path / "adapter_model.safetensors")
    refused(tmp_path, "holds 2 files of weights", "adapter_model.safetensors")


def test_every_file_counts_for_a_build_that_goes_on(tmp_path: Path) -> None:
    shards(tmp_path, matrix_of("float32"), ROWS)
    for name in (FIRST, SECOND, THIRD):
        with open_source(tmp_path) as source:
            before = source.fingerprint()
            os.utime(tmp_path / name, ns=(1, 1))
            with pytest.raises(SourceError, match=f"{name} was changed while it was read"):
                source.check_unchanged()
        with open_source(tmp_path) as source:
            assert source.fingerprint() != before


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_OPEN", 3)
    values = matrix_of("float32")
    shards(tmp_path, values, GRID)
    with open_source(tmp_path) as source:
        assert files_open_in(tmp_path) == []
        assert same(np.concatenate(list(source.chunks())), values)


def test_mutated_headers(tmp_path: Path) -> None:
    """Numbers in the headers changed at random: the matrix, another one of as many values, or an error."""
    values, chance = matrix_of("float32"), random.Random(1)
    shards(tmp_path, values, GRID)
    good = {path: path.read_bytes() for path in tmp_path.iterdir()}
    seen = {"whole": 0, "refused": 0}
    for _ in range(300):
        path = chance.choice(list(good))
        length = int.from_bytes(good[path][:8], "little")
        header = bytearray(good[path][8 : 8 + length])
        digits = [place for place, byte in enumerate(header) if chr(byte).isdigit()]
        header[chance.choice(digits)] = ord(chance.choice("0123456789-]"))
        path.write_bytes(good[path][:8] + bytes(header) + good[path][8 + length :])
        try:
            with open_source(tmp_path) as source:
                assert (source.rows, source.dim) == (257, DIM)
                seen["whole"] += 1
        except SourceError:
            seen["refused"] += 1
        path.write_bytes(good[path])
    assert seen["refused"] > 100
    assert seen["whole"] > 10


def test_the_way_out_for_a_shard_that_is_all_there_is(tmp_path: Path) -> None:
    """What the message says to do, done."""
    pytest.importorskip("torch", reason="the way out is torch's")
    library = pytest.importorskip("safetensors.torch", reason="the way out is its")
    folder, values = tmp_path / "saved", matrix_of("float32")
    folder.mkdir()
    shards(folder, values, [(slice(None), slice(None))])
    [path] = folder.iterdir()
    refused(folder, *WAYS_OUT)
    library.save_file(library.load_file(path), tmp_path / "plain.safetensors")
    with open_source(tmp_path / "plain.safetensors", "z.weight") as source:
        assert same(np.concatenate(list(source.chunks())), values)
