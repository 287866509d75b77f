"""Checkpoints of torch.distributed.checkpoint: whole tensors out of pieces, or an error; nothing is run."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from distributed_files import COLUMNS, GRID, ROWS, Cut, Distributed, Item, by_torch, record, save
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray
from source_contract import DIM, Make, Maker, SourceContract, files_open_in, matrix_of, refused, same
from torch_files import body

import qstore
from qstore.errors import IncompleteError, SourceError, TensorError
from qstore.format import layout
from qstore.sources import RowSource, Source, TensorInfo, files, list_tensors, open_source
from qstore.sources.torch import distributed_metadata

DATA = Path(__file__).parents[1] / "data" / "sources"
WHOLE: list[Cut] = [(slice(None), slice(None))]


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def rows_of(source: Source) -> NDArray[Any]:
    return np.concatenate(list(source.chunks()))


# the contract ----------------------------------------------------------------------------------------


def made(cuts: list[Cut], columns_first: bool = False) -> Make:
    return lambda folder, values: save(folder, values, cuts, columns_first)


def made_with_torch(cuts: list[Cut], **options: Any) -> Make:
    def make(folder: Path, values: NDArray[Any]) -> Path:
        checkpoints = pytest.importorskip("torch.distributed.checkpoint", reason="writes with torch")
        bias = np.zeros((3, 0), values.dtype)
        by_torch(
            folder, {"z": (values, cuts), "b": (bias, WHOLE)}, checkpoints.FileSystemWriter(folder, **options)
        )
        return folder

    return make


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "whole": Maker(made(WHOLE)),
        "rows": Maker(made(ROWS)),
        "columns": Maker(made(COLUMNS), working_memory=3 << 20),
        "grid": Maker(made(GRID), working_memory=3 << 20),
        "metadata": Maker(lambda folder, values: save(folder, values, GRID) / ".metadata", "z.weight",
                          working_memory=3 << 20),
        "columns-first": Maker(made(GRID, columns_first=True), working_memory=4 << 20),
        "torch-rows": Maker(made_with_torch(ROWS)),
        "torch-grid": Maker(made_with_torch(GRID), working_memory=3 << 20),
        "torch-files": Maker(made_with_torch(ROWS, single_file_per_rank=False, thread_count=2)),
    }  # fmt: skip


# exact values ----------------------------------------------------------------------------------------

FROZEN = np.arange(77, dtype=np.float32).reshape(11, 7)
"""What tests/data/sources/distributed (torch 2.13, two processes) was made of."""
TENSORS: dict[str, tuple[str, NDArray[Any]]] = {
    "by_rows": ("float32", FROZEN),
    "by_columns": ("bfloat16", FROZEN),
    "one_row": ("float32", FROZEN[:1]),
    "nested.whole": ("float16", FROZEN),
    "transposed": ("float32", FROZEN.T),
}


@pytest.mark.parametrize("name", TENSORS)
def test_frozen_checkpoint_of_torch(name: str) -> None:
    dtype, expected = TENSORS[name]
    for path in (DATA / "distributed", DATA / "distributed" / ".metadata"):
        with open_source(path, name) as source:
            assert (source.name, source.dtype) == (name, dtype)
            assert same(rows_of(source), expected)
            assert isinstance(source, RowSource)
            assert same(source.read(0, 1), expected[:1])
            assert same(source.read(len(expected), len(expected)), expected[:0])


def test_frozen_checkpoint_is_listed() -> None:
    found = {info.name: (info.shape, info.dtype) for info in list_tensors(DATA / "distributed")}
    assert found == {
        "bias": ((7,), "float32"),
        "nested.step": ((), "opaque (an object)"),
        **{name: (values.shape, dtype) for name, (dtype, values) in TENSORS.items()},
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int8", "uint8", "int64"])
@pytest.mark.parametrize("cuts", [ROWS, COLUMNS, GRID])
def test_every_type(tmp_path: Path, dtype: str, cuts: list[Cut]) -> None:
    values = matrix_of(dtype)
    with open_source(save(tmp_path, values, cuts)) as source:
        assert (source.name, source.dtype) == ("z.weight", dtype)
        assert same(rows_of(source), values)


def test_more_processes_than_rows(tmp_path: Path) -> None:
    """The others have saved pieces of no rows, all of them at the end: one place stands for all."""
    values = matrix_of("float32")[:1]
    made = Distributed(tmp_path).add("w", values, [(slice(row, row + 1), slice(None)) for row in range(4)])
    assert [(item.offsets, item.file) for item in made.items] == [
        ((0, 0), "__0_0.distcp"),
        ((1, 0), "__3_0.distcp"),
    ]
    with open_source(made.write()) as source:
        assert same(rows_of(source), values)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", ["by_rows", "by_columns", "nested.whole"])
def test_torch_loads_the_same(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch", reason="reads with torch")
    checkpoints = pytest.importorskip("torch.distributed.checkpoint", reason="reads with torch")
    dtype, expected = TENSORS[name]
    state = {name: torch.zeros(expected.shape, dtype=getattr(torch, dtype))}
    checkpoints.load(state, checkpoint_id=DATA / "distributed", no_dist=True)
    with open_source(DATA / "distributed", name) as source:
        assert same(rows_of(source), state[name].double().numpy())


# builds ----------------------------------------------------------------------------------------------


def test_an_interrupted_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 10 * DIM)
    folder, values, store = tmp_path / "source", matrix_of("float32", 3001), tmp_path / "s.h5"
    folder.mkdir()
    save(folder, values, GRID)
    with pytest.raises(Interrupt):
        qstore.build(folder, store, progress=stop_at(700))
    report = qstore.build(folder.rename(tmp_path / "moved"), store)
    assert report.rows_resumed >= 700
    qstore.build(values, tmp_path / "array.h5")
    with qstore.open(store) as found, qstore.open(tmp_path / "array.h5") as expected:
        assert np.array_equal(found.codes, expected.codes)
        assert np.array_equal(found.scales, expected.scales)


@pytest.mark.parametrize("file", ["__0_0.distcp", "__1_0.distcp"])
def test_every_file_counts_for_a_build_that_goes_on(tmp_path: Path, file: str) -> None:
    save(tmp_path, matrix_of("float32"), ROWS)
    prints = []
    for _ in range(2):
        with open_source(tmp_path) as source:
            prints.append(source.fingerprint())
        os.utime(tmp_path / file, ns=(1, 1))
    assert prints[0] != prints[1]
    with open_source(tmp_path) as source:
        os.utime(tmp_path / file, ns=(2, 2))
        with pytest.raises(SourceError, match=f"{file}.* was changed while it was read"):
            source.check_unchanged()


# directories -----------------------------------------------------------------------------------------


def test_a_part_alone_is_refused(tmp_path: Path) -> None:
    save(tmp_path, matrix_of("float32"), ROWS)
    for name in ("__0_0.distcp", "__1_0.distcp"):
        for call in (list_tensors, open_source):
            with pytest.raises(SourceError, match=rf"expected its directory, .*; give {tmp_path}$"):
                call(tmp_path / name)
    single = tmp_path / "single"
    single.mkdir()
    made = Distributed(single).add("w", matrix_of("float32"), WHOLE)  # one item: a whole zip archive
    refused(single / made.items[0].file, "expected its directory")


def test_directories_without_what_says_where(tmp_path: Path) -> None:
    save(tmp_path, matrix_of("float32"), ROWS)
    os.rename(tmp_path / ".metadata", tmp_path / "__0.metadata")
    refused(tmp_path, "__0.metadata tells what one process has saved", "use_collectives=False")
    refused(tmp_path / "__0.metadata", "use_collectives=False")
    (tmp_path / "__0.metadata").unlink()
    refused(tmp_path, "(__0_0.distcp, __1_0.distcp, __2_0.distcp), but not .metadata")
    (tmp_path / ".metadata").write_text("of an editor")
    refused(tmp_path, "but not .metadata")


def test_folders_of_trainers(tmp_path: Path) -> None:
    """Accelerate's folders: the model's is taken, the optimizer's only by its own path."""
    for name, sign in (("pytorch_model_fsdp_0", 1), ("optimizer_0", -1)):
        (tmp_path / name).mkdir()
        save(tmp_path / name, sign * matrix_of("float32"), ROWS)
    with open_source(tmp_path) as source:
        assert same(rows_of(source), matrix_of("float32"))
    with open_source(tmp_path / "optimizer_0") as source:
        assert same(rows_of(source), -matrix_of("float32"))
    (tmp_path / "other").mkdir()
    save(tmp_path / "other", matrix_of("float32"), ROWS)
    refused(tmp_path, "holds 2 files of weights", "pytorch_model_fsdp_0/.metadata", "other/.metadata")


# what is refused -------------------------------------------------------------------------------------


def test_missing_and_short_files(tmp_path: Path) -> None:
    values = matrix_of("float32")
    made = Distributed(tmp_path).add("a", values, ROWS).add("b", values, WHOLE)
    made.write()
    (tmp_path / "__1_0.distcp").unlink()
    os.truncate(tmp_path / "__2_0.distcp", 300)
    with pytest.raises(
        IncompleteError, match=r"__1_0.distcp does not exist.*\n.*__2_0.distcp ends early"
    ) as caught:
        list_tensors(tmp_path)
    assert caught.value.tensors == (TensorInfo("b", values.shape, "float32"),)
    refused(tmp_path, "__1_0.distcp does not exist", "__2_0.distcp ends early")
    refused(tmp_path, "__1_0.distcp does not exist", tensor="a")
    with open_source(tmp_path, "b") as source:
        assert same(rows_of(source), values)


Change = Callable[[list[Item]], Any]


def swap_places(items: list[Item]) -> None:
    items[0].file, items[2].file = items[2].file, items[0].file


def another_size(items: list[Item]) -> None:
    vars(items[1]).update(sizes=(2, DIM))
    vars(items[2]).update(offsets=(102, 0), sizes=(155, DIM))


CHANGES: dict[str, tuple[Change, str]] = {
    "one place twice": (lambda items: items.append(items[1]), "found two for (100, 0)"),
    "no place": (lambda items: items.pop(1), "leave a hole"),
    "overlap": (lambda items: vars(items[1]).update(offsets=(99, 0)), "pieces that overlap"),
    "hole": (lambda items: vars(items[1]).update(sizes=(0, DIM)), "leave a hole: expected"),
    "outside": (lambda items: vars(items[2]).update(offsets=(102, 0)), "expected pieces inside of it"),
    "outside of all": (lambda items: vars(items[2]).update(offsets=(2**62, 2**62)), "pieces inside of it"),
    "negative": (lambda items: vars(items[2]).update(offsets=(-1, 0)), "expected a shape or a place"),
    "too few dimensions": (lambda items: vars(items[2]).update(offsets=(101,)), "pieces inside of it"),
    "no whole number": (lambda items: vars(items[2]).update(offsets=(1.0, 0)), "expected a shape or a place"),
    "shuffled": (swap_places, "it was cut short while being saved"),
    "another size": (
        another_size,
        "expected one tensor of shape (2, 5) of float32, found (1, 5) of float32",
    ),
    "begins late": (lambda items: vars(items[0]).update(begin=1), "ends early"),
    "too short": (lambda items: vars(items[0]).update(length=items[0].length - 1), "no whole zip archive"),
    "nothing": (lambda items: vars(items[0]).update(length=0), "no zip checkpoint"),
    "too long": (lambda items: vars(items[0]).update(length=2**62), "ends early"),
    "negative place": (lambda items: vars(items[0]).update(begin=-1), "expected a position and a length"),
    "no number": (lambda items: vars(items[0]).update(length="7"), "expected a position and a length"),
    "other directory": (lambda items: vars(items[0]).update(file="../x.distcp"), "the plain name of a file"),
    "no text": (lambda items: vars(items[0]).update(file=None), "the plain name of a file"),
    "pipe": (lambda items: vars(items[0]).update(file="pipe"), "is a pipe, socket or device"),
    "packed": (lambda items: items[0].more.update(transform_descriptors=["zstd"]), "was packed by zstd"),
    "packed somehow": (lambda items: items[0].more.update(transform_descriptors=[5]), "was packed by ?"),
    "packed wrong": (lambda items: items[0].more.update(transform_descriptors=5), "found int"),
    "same bytes": (
        lambda items: vars(items[1]).update(file=items[0].file, begin=items[0].length - 1),
        "expected items of __0_0.distcp one behind the other",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_metadata_that_does_not_fit(tmp_path: Path, change: str) -> None:
    made = Distributed(tmp_path).add("w", matrix_of("float32"), ROWS)
    os.mkfifo(tmp_path / "pipe")
    edit, words = CHANGES[change]
    edit(made.items)
    made.write()
    for tensor in (None, "w"):
        refused(tmp_path, words, tensor=tensor)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ("float16", "expected one tensor of shape (100, 5) of float16, found (100, 5) of float32"),
        ("int32", "expected one tensor of shape (100, 5) of int32, found (100, 5) of float32"),
        ("bool", "holds bool: expected one of"),
        ("float99", "holds opaque (torch.float99): expected one of"),
    ],
)
def test_another_type(tmp_path: Path, dtype: str, words: str) -> None:
    made = Distributed(tmp_path).add("w", matrix_of("float32"), ROWS)
    made.dtypes["w"] = dtype
    refused(made.write(), words)


def test_items_are_checked_as_any_checkpoint(tmp_path: Path) -> None:
    made = Distributed(tmp_path).add("w", matrix_of("float32"), ROWS)
    made.write()
    path = tmp_path / "__1_0.distcp"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\5\6", b"PK\5\7"))
    refused(tmp_path, "__1_0.distcp: what begins at byte 0 is no whole zip archive")
    path.write_bytes(content.replace(b"data.pkl", b"data.pkx"))
    refused(tmp_path, "is no torch checkpoint: expected one member NAME/data.pkl")
    path.write_bytes(content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"))
    refused(tmp_path, "expected one tensor of shape (1, 5) of float32, found Opaque")


def test_objects_and_unknown_names(tmp_path: Path) -> None:
    refused(DATA / "distributed", "is opaque (an object): expected a tensor", tensor="nested.step")
    refused(DATA / "distributed", "did you mean 'by_rows'", tensor="by_row", error=TensorError)
    refused(DATA / "distributed", "holds 5 matrices", error=TensorError)


class Trap:
    """Would make a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_is_run(tmp_path: Path) -> None:
    """Whatever stands in the places of torch's objects: an error, or dropped."""
    made = Distributed(tmp_path).add("w", matrix_of("float32"), ROWS)
    trap = tmp_path / "trap"
    evil = pickle.dumps(Trap(trap), 2)[2:-1]
    for place in ("planner_data", "storage_meta", "version"):
        with open_source(made.write(**{place: evil})) as source:
            assert source.rows == 257
    for place in ("state_dict_metadata", "storage_data"):
        refused(made.write(**{place: evil}), "expected")
    for data in (
        evil,
        record("Metadata", evil),
        record("Metadata", body(5)),
        record("StorageMeta", b"}"),
        b"N",
    ):
        (tmp_path / ".metadata").write_bytes(b"\x80\x02" + data + b".")
        refused(tmp_path / ".metadata", "expected")
    assert not trap.exists()


def test_older_torch(tmp_path: Path) -> None:
    """Before version 2.3 the properties of tensors were of another module, and nothing told the version."""
    values = matrix_of("float32")
    path = (
        Distributed(tmp_path).add("w", values, COLUMNS).write(storage_meta=b"N", version=b"N") / ".metadata"
    )
    now = b"ctorch.distributed.checkpoint.metadata\nTensorProperties"
    before = b"ctorch.distributed._shard.sharded_tensor.metadata\nTensorProperties"
    assert now in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(now, before))
    with open_source(tmp_path) as source:
        assert same(rows_of(source), values)


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_OPEN", 3)
    values = matrix_of("float32")
    cuts = [(slice(row, row + 1), slice(None)) for row in range(257)]
    save(tmp_path, values, cuts)
    with open_source(tmp_path) as source:
        assert files_open_in(tmp_path) == []
        assert same(rows_of(source), values)
        source.check_unchanged()
        os.utime(tmp_path / "__9_0.distcp", ns=(1, 1))
        for use in (source.check_unchanged, lambda: rows_of(source)):
            with pytest.raises(SourceError, match=r"__9_0.distcp was changed while it was read"):
                use()
        (tmp_path / "__8_0.distcp").unlink()
        with pytest.raises(SourceError, match=r"__8_0.distcp does not exist"):
            rows_of(source)
        source.close()
        with pytest.raises(SourceError, match="is closed: open the source again"):
            rows_of(source)


def test_malformed_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Distributed(tmp_path).add("w", matrix_of("float32"), ROWS)
    path = made.write() / ".metadata"
    whole = path.read_bytes()
    for length in range(60, len(whole), 3):
        path.write_bytes(whole[:length])
        refused(tmp_path, tensor="w")
    for old, new, words in (
        (b"K\x00\x89t", b"K\x00\x89tQ", "its pickle has a persistent id"),
        (b"TensorProperties", b"ChunkStorageMetadata", "expected the properties of a tensor"),
        (b"storage_data", b"storage_dat4", "expected places of items, found NoneType"),
        (b"torch\nfloat32", b"pathlib\nPath", "holds opaque (pathlib.Path): expected one of"),
    ):
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        refused(tmp_path, words, tensor="w")
    path.write_bytes(whole)
    monkeypatch.setattr(distributed_metadata, "_MOST_PIECES", 2)
    refused(tmp_path, "expected at most 2 pieces of tensors")
    monkeypatch.setattr(distributed_metadata, "_MOST_STEPS", 100)
    refused(tmp_path, "too long: expected at most 100 steps")
    monkeypatch.setattr(distributed_metadata, "_LONGEST", 100)
    refused(tmp_path, "expected at most 100 bytes")
