"""Quantized weights that are cut over the files of distributed checkpoints, and what is refused of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_files import COLUMNS, GRID, ROWS, Cut, Distributed, sharding_info, shards
from numpy.typing import NDArray
from quantized_files import check
from source_contract import files_open_in, matrix_of, same
from source_files import safetensors_bytes

import qstore
from qstore.errors import IncompleteError, SourceError
from qstore.sources import QuantizedSource, RowSource, TensorInfo, list_tensors, open_source

pytestmark = pytest.mark.usefixtures("no_leaks")
DATA = Path(__file__).parents[1] / "data" / "sources"
WHOLE: list[Cut] = [(slice(None), slice(None))]
NAMES = {
    "bitsandbytes-int8": "model.embed_tokens.weight",
    "compressed-tensors-fp8-tensor": "model.embed_tokens.weight",
    "compressed-tensors-int8-channel": "model.embed_tokens.weight",
    "compressed-tensors-pack4-group-asymmetric": "model.embed_tokens.weight",
    "gpt-oss-mxfp4": "table",
    "mlx-4bit": "model.embed_tokens.weight",
    "transformers-fp8-block": "model.embed_tokens.weight",
}
"""Libraries whose tables torch 2.13 has cut over two processes, and what the matrix is called."""
FOLDERS = ("quantized", "quantized_shards")
CODES = matrix_of("int8")
SCALES = np.linspace(0.5, 2, len(CODES)).astype(np.float32)[:, None]

Save = Callable[..., Path]


@pytest.mark.parametrize("library", NAMES)
@pytest.mark.parametrize("cut", ["rows", "columns"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_as_the_library_has_it(folder: str, cut: str, library: str) -> None:
    """What torch saved of tables by their own libraries: their values, or codes and scales."""
    name = f"{cut}.{library}.{NAMES[library]}"
    with open_source(DATA / folder, name) as source:
        assert (source.name, bool(source.convention)) == (name, True)
        check(source, library)
    assert files_open_in(DATA / folder) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_families_are_listed_as_the_matrices_they_are(folder: str) -> None:
    found = list_tensors(DATA / folder)
    assert [one.name for one in found] == sorted(
        f"{cut}.{library}.{name}" for cut in ("rows", "columns") for library, name in NAMES.items()
    )
    assert all(one.convention for one in found)
    stored = list_tensors(DATA / folder, as_stored=True)
    assert {one.name for one in stored} == {part.name for one in found for part in one.parts}


@pytest.mark.parametrize("folder", FOLDERS)
def test_stores_of_them(folder: str, tmp_path: Path) -> None:
    name = "columns.compressed-tensors-int8-channel.model.embed_tokens.weight"
    report = qstore.build(DATA / folder, tmp_path / "out.h5", tensor=name)
    assert report.convention == "int8 * weight_scale of its row"
    with qstore.open(tmp_path / "out.h5") as store, open_source(DATA / folder, name) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(0, 10)
        assert np.array_equal(store.codes, codes)
        assert np.array_equal(store.scales, scales)
        assert qstore.verify_against(store, DATA / folder, tensor=name).ok


# both ways, made without torch ------------------------------------------------------------------------


def save_pieces(folder: Path, tensors: dict[str, tuple[NDArray[Any], list[Cut]]]) -> Path:
    """As torch.distributed.checkpoint saves them."""
    made = Distributed(folder)
    for name, (values, cuts) in tensors.items():
        made.add(name, values, cuts)
    return made.write()


def save_shards(folder: Path, tensors: dict[str, tuple[NDArray[Any], list[Cut]]]) -> Path:
    """As the Hugging Face storage writer saves them: a file for each process."""
    for rank in range(max(2, *(len(cuts) for _, cuts in tensors.values()))):
        held: dict[str, Any] = {}
        places: dict[str, Any] = {}
        for name, (values, cuts) in tensors.items():
            if rank < len(cuts):
                rows, columns = cuts[rank]
                held[name] = np.ascontiguousarray(values[rows, columns])
                places[name] = (rows.start or 0, columns.start or 0)
        path = folder / f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"
        path.write_bytes(safetensors_bytes(held, sharding_info(places)))
    return folder


@pytest.fixture(params=[save_pieces, save_shards])
def save(request: pytest.FixtureRequest) -> Save:
    """One of the two writers."""
    found: Save = request.param
    return found


def refused(path: Path, *words: str, **options: Any) -> None:
    """Neither opened nor built, and no file stays open."""
    with pytest.raises(SourceError) as caught:
        qstore.build(path, path.parent / "out.h5", **options)
    for one in words:
        assert one in str(caught.value)
    assert not list(path.parent.glob("out.h5*"))
    assert files_open_in(path) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory for the checkpoint alone."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    return path


@pytest.mark.parametrize("cuts", [ROWS, COLUMNS, GRID])
def test_codes_and_scales_as_they_are(folder: Path, save: Save, cuts: list[Cut]) -> None:
    save(folder, {"e.weight": (CODES, cuts), "e.weight_scale": (SCALES, ROWS)})
    with open_source(folder) as source:
        assert isinstance(source, QuantizedSource)
        for start, stop in ((0, len(CODES)), (89, 102), (100, 101), (7, 7)):
            codes, scales = source.read_codes(start, stop)
            assert np.array_equal(codes.astype(int) - 128, CODES[start:stop])
            assert np.array_equal(scales, SCALES[start:stop, 0])


def test_scales_that_are_missing_or_do_not_fit(folder: Path, save: Save) -> None:
    save(
        folder, {"e.weight": (CODES, ROWS), "e.weight_scale": (SCALES[:-1], WHOLE), "f.gain": (SCALES, WHOLE)}
    )
    ways = ("looks quantized (int8)", "'e.weight_scale' float32 (256, 1)", "--scale TENSOR", "--as-stored")
    refused(folder, *ways, tensor="e.weight")
    with open_source(folder, "e.weight", scale="f.gain") as source:
        assert isinstance(source, QuantizedSource)
        assert np.array_equal(source.read_codes(0, 257)[1], SCALES[:, 0])
    with open_source(folder, "e.weight", as_stored=True) as source:
        assert same(np.concatenate(list(source.chunks())), CODES)
    refused(folder, "cannot be scaled by 'e.weight_scale'", tensor="e.weight", scale="e.weight_scale")
    refused(folder, "has no tensor 'f.gai'", "did you mean 'f.gain'", tensor="e.weight", scale="f.gai")


def test_a_weight_without_scales_among_others_that_have_some(folder: Path, save: Save) -> None:
    tensors = {"e.weight": (CODES, ROWS), "e.weight_scale": (SCALES, ROWS), "f.weight": (CODES, COLUMNS)}
    save(folder, tensors)
    refused(folder, "other weights of the checkpoint have scales, and it has none", tensor="f.weight")
    with open_source(folder, "e.weight_scale") as source:
        assert same(np.concatenate(list(source.chunks())), SCALES)


def test_numbered_tables_of_one_checkpoint(folder: Path, save: Save) -> None:
    tensors: dict[str, tuple[NDArray[Any], list[Cut]]] = {}
    for number in (1, 0, 2):
        tensors[f"t.shard_{number}.weight"] = (CODES + np.int8(number), ROWS)
        tensors[f"t.shard_{number}.weight_scale"] = (SCALES * (number + 1), WHOLE)
    save(folder, tensors)
    with open_source(folder, "t.shard_*.weight", join=True) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(0, 3 * len(CODES))
    expected = [CODES + np.int8(number) for number in range(3)]
    assert np.array_equal(codes.astype(int) - 128, np.concatenate(expected))
    assert np.array_equal(scales, np.concatenate([SCALES[:, 0] * (number + 1) for number in range(3)]))


def test_config_beside_the_files(folder: Path, save: Save) -> None:
    values = matrix_of("float32")[:48, :4]
    blocks = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
    save(
        folder,
        {
            "e.weight": (
                values.astype(np.int8),
                [(slice(0, 20), slice(None)), (slice(20, None), slice(None))],
            ),
            "e.weight_scale_inv": (blocks, WHOLE),
        },
    )
    (folder.parent / "config.json").write_text('{"quantization_config": {"weight_block_size": [5, 5]}}')
    refused(folder, "config.json beside the file must say how large they are", tensor="e.weight")
    (folder / "config.json").write_text(json.dumps({"quantization_config": {"weight_block_size": [16, 2]}}))
    with open_source(folder, "e.weight") as source:
        assert isinstance(source, RowSource)
        wide = blocks.repeat(16, 0).repeat(2, 1)
        assert np.array_equal(source.read(0, 48), values.astype(np.int8) * wide)


# what is incomplete -----------------------------------------------------------------------------------


def test_pieces_of_codes_or_scales_that_are_missing(folder: Path) -> None:
    half: list[Cut] = [(slice(0, 100), slice(None)), (slice(100, None), slice(None))]
    made = Distributed(folder).add("e.weight", CODES, half)
    made.add("e.weight_scale", SCALES, [*half, (slice(257, None), slice(None))])
    for item in made.items:  # scales in files of their own
        if item.name == "e.weight_scale" and item.offsets == (100, 0):
            shutil.copy(folder / item.file, folder / "scales.distcp")
            item.file = "scales.distcp"
    made.write()
    (folder / "scales.distcp").unlink()
    refused(folder, "scales.distcp does not exist")
    refused(folder, "scales.distcp does not exist", tensor="e.weight")
    with pytest.raises(IncompleteError) as caught:
        list_tensors(folder)
    assert caught.value.tensors == (TensorInfo("e.weight", CODES.shape, "int8"),)
    with open_source(folder, "e.weight", as_stored=True) as source:
        assert same(np.concatenate(list(source.chunks())), CODES)


def test_nothing_is_the_only_matrix_where_something_is_missing(folder: Path) -> None:
    made = Distributed(folder).add("e.weight", CODES, WHOLE).add("other", matrix_of("float32"), ROWS)
    made.shapes["other"], made.items[1].sizes = (257, 5), (99, 5)
    made.write()
    refused(folder, "leave a hole")
    with open_source(folder, "e.weight") as source:
        assert same(np.concatenate(list(source.chunks())), CODES)


def test_shards_of_scales_that_are_missing(folder: Path) -> None:
    save_shards(folder, {"e.weight": (CODES, ROWS), "e.weight_scale": (SCALES, ROWS)})
    (folder / "shard-00002-model-00001-of-00001.safetensors").unlink()
    refused(folder, "expected shards 1, 2 and so on", tensor="e.weight")


@pytest.mark.parametrize(
    ("shape", "cut", "words"),
    [
        ((4, 2, 16), ((0, 0, 0), (4, 2, 8)), "expected whole bytes, cut in the first two dimensions"),
        ((4, 2, 16), ((0, 0, 0), (4, 1, 16)), "leave a hole"),
    ],
)
def test_tensors_of_three_dimensions(folder: Path, shape: Any, cut: Any, words: str) -> None:
    """Blocks of MXFP4 whose pieces are not all there, or are cut inside of a block."""
    made = Distributed(folder).add("table_scales", np.full((4, 2), 127, np.uint8), WHOLE)
    made.add("table_blocks", np.zeros((4, 32), np.uint8), WHOLE)
    made.shapes["table_blocks"] = shape
    made.items[-1].offsets, made.items[-1].sizes = cut
    refused(made.write(), words, tensor="table")


def test_items_in_another_order_than_their_bytes(folder: Path) -> None:
    """A transposed tensor is saved as it lay in memory: the numbers of its rows are not together."""
    made = Distributed(folder).add("e.weight", CODES, WHOLE, columns_first=True)
    made.add("e.weight_scale", SCALES, WHOLE).write()
    refused(folder, "save tensor.contiguous() instead", tensor="e.weight")


def test_a_checkpoint_that_changes(folder: Path) -> None:
    shards(folder, CODES, ROWS, name="e.weight")
    with open_source(folder, "e.weight") as source:
        (folder / "shard-00002-model-00001-of-00001.safetensors").write_bytes(b"x")
        with pytest.raises(SourceError, match="was changed while it was read"):
            source.check_unchanged()
