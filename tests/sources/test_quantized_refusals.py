"""Weights that look quantized and are not all there, or of no known convention: refused, not published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_files import LIBRARIES, Held, matrix, of_library, read, save
from source_contract import files_open_in

import qstore
from qstore.errors import SourceError
from qstore.sources import RowSource, list_tensors, open_source

pytestmark = pytest.mark.usefixtures("no_leaks")
SCALES = ("weight_scale", "scale", "scales", "SCB", "_scale", "weight_scale_inv", "table_scales")
CODES = ("weight", "weight_packed", "_weight_qdata", "_data", "table_blocks", "embeddings")


def leaf(name: str) -> str:
    return name.rpartition(".")[2]


def copied(name: str, directory: Path) -> tuple[dict[str, Held], dict[str, str]]:
    """Tensors of a library's checkpoint, with its config.json beside what will be saved."""
    said = of_library(name) / "config.json"
    if said.exists():
        shutil.copy(said, directory)
    return read(of_library(name) / "model.safetensors")


def refused(path: Path, tensor: str | None = None) -> str:
    """The error of a weight that is refused: nothing is published, and no file stays open."""
    out = path.parent / "out.h5"
    with pytest.raises(SourceError) as caught:
        qstore.build(path, out, tensor=tensor)
    assert not list(path.parent.glob("out.h5*"))
    assert files_open_in(path.parent) == []
    return str(caught.value)


def scale_of(tensors: dict[str, Held]) -> str:
    names = (*SCALES, "_weight_scale", "mapping")
    return next(name for name in tensors if leaf(name) in names)


def codes_of(tensors: dict[str, Held]) -> str:
    return next(name for name in tensors if leaf(name) in CODES)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_scale_with_a_row_too_few(name: str, tmp_path: Path) -> None:
    tensors, metadata = copied(name, tmp_path)
    scale = scale_of(tensors)
    if tensors[scale].shape in ((), (1,), (1, 1)):
        pytest.skip("one scale for all has no rows")
    tensors[scale] = tensors[scale].rows(*range(tensors[scale].shape[0] - 1))
    words = refused(save(tmp_path / "model.safetensors", tensors, metadata), codes_of(tensors))
    assert "looks quantized" in words
    assert "--scale TENSOR" in words
    assert "--as-stored" in words


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_scale_that_is_not_there(name: str, tmp_path: Path) -> None:
    tensors, metadata = copied(name, tmp_path)
    del tensors[scale_of(tensors)]
    path = save(tmp_path / "model.safetensors", tensors, metadata)
    others = [one for one in tensors if one != codes_of(tensors)]
    if not others and not (tmp_path / "config.json").exists() and leaf(codes_of(tensors)) == "weight":
        # Nothing tells any more that these numbers are codes.
        report = qstore.build(path, tmp_path / "out.h5", tensor=codes_of(tensors))
        assert "no scales beside it" in report.warnings[0]
        return
    assert "looks quantized" in refused(path, codes_of(tensors))


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_cut_short(name: str, tmp_path: Path) -> None:
    content = (of_library(name) / "model.safetensors").read_bytes()
    copied(name, tmp_path)
    for length in (len(content) - 1, len(content) // 2, 9):
        (tmp_path / "model.safetensors").write_bytes(content[:length])
        refused(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_order_of_tensors_does_not_matter(name: str, tmp_path: Path) -> None:
    tensors, metadata = copied(name, tmp_path)
    save(tmp_path / "model.safetensors", dict(reversed(tensors.items())), metadata)
    with open_source(tmp_path) as source, open_source(of_library(name)) as other:
        assert isinstance(source, RowSource)
        assert isinstance(other, RowSource)
        np.testing.assert_array_equal(source.read(0, source.rows), other.read(0, other.rows))


@pytest.mark.parametrize("name", [one for one in LIBRARIES if not one.startswith("model2vec")])
def test_shapes_that_are_exchanged(name: str, tmp_path: Path) -> None:
    """Scales as (groups, rows), which a transposed matrix would have."""
    tensors, metadata = copied(name, tmp_path)
    scale = scale_of(tensors)
    shape = tensors[scale].shape
    if len(shape) < 2 or shape[0] == shape[1]:
        pytest.skip("there is nothing to exchange")
    tensors[scale] = replace(tensors[scale], shape=tuple(reversed(shape)))
    assert "looks quantized" in refused(
        save(tmp_path / "model.safetensors", tensors, metadata), codes_of(tensors)
    )


@pytest.mark.parametrize("name", LIBRARIES)
def test_something_more_beside_it(name: str, tmp_path: Path) -> None:
    tensors, metadata = copied(name, tmp_path)
    if name.startswith(("model2vec", "gpt-oss")):
        pytest.skip("names without a parent say nothing about each other")
    parent = codes_of(tensors).rpartition(".")[0]
    tensors[f"{parent}.second_scale"] = matrix(np.ones(1, np.float32))
    path = save(tmp_path / "model.safetensors", tensors, metadata)
    words = refused(path, codes_of(tensors))
    assert f"'{parent}.second_scale'" in words
    # What scales the activations of a layer says nothing about its weights.
    tensors[f"{parent}.input_scale"] = tensors.pop(f"{parent}.second_scale")
    save(path, tensors, metadata)
    qstore.build(path, tmp_path / "out.h5", tensor=codes_of(tensors))


def weights(**tensors: Held) -> dict[str, Held]:
    return {f"emb.{name}": one for name, one in tensors.items()}


INT8 = np.arange(640, dtype=np.int64).astype(np.int8).reshape(10, 64)
ONES = np.ones((10, 1), np.float32)


@pytest.mark.parametrize(
    ("tensors", "tensor", "words"),
    [
        (
            weights(weight=matrix(INT8), weight_scale=matrix(ONES), scale=matrix(ONES)),
            None,
            "could be its scales",
        ),
        (weights(weight=matrix(INT8), weight_scale=matrix(ONES.astype(np.int32))), None, "holds int32"),
        (
            weights(weight=matrix(INT8), weight_zero_point=matrix(INT8[:, :1])),
            None,
            "no convention that is known",
        ),
        (weights(weight=matrix(INT8.view(np.uint8)), weight_scale=matrix(ONES)), None, "need a zero point"),
        (weights(weight=matrix(INT8), SCB=matrix(np.ones(1, np.float32))), None, "largest value of each row"),
        (
            weights(weight=matrix(INT8), weight_scale=matrix(ONES), weight_zero_point=matrix(ONES)),
            None,
            "holds float32: expected zero points",
        ),
        (
            weights(weight=matrix(INT8), weight_scale=matrix(ONES), weight_zero_point=matrix(INT8[:, :2])),
            None,
            "expected that of its scales",
        ),
        (
            weights(
                weight=matrix(INT8, "F8_E4M3"), weight_scale=matrix(ONES), weight_zero_point=matrix(INT8)
            ),
            None,
            "floats, which have no zero point",
        ),
        (
            weights(weight=matrix(INT8), scale=matrix(INT8[:, :4], "F8_E8M0").rows(0, 1)),
            None,
            "two in each byte",
        ),
        (
            {**weights(weight=matrix(INT8)), "other.weight_scale": matrix(ONES)},
            "emb.weight",
            "other weights of the checkpoint have scales",
        ),
        (
            weights(qweight=matrix(INT8.view(np.int32)), g_idx=matrix(INT8[0]), scales=matrix(ONES)),
            "emb.weight",
            "GPTQ",
        ),
        (weights(qweight=matrix(INT8.view(np.int32)), qzeros=matrix(INT8[0])), "emb.qweight", "AWQ or GPTQ"),
        (weights(trellis=matrix(INT8), suh=matrix(ONES)), "emb.trellis", "EXL3"),
        (weights(q_weight=matrix(INT8.view(np.int32)), q_scale=matrix(INT8)), "emb.weight", "EXL2"),
        (weights(W_q=matrix(INT8.view(np.uint8))), "emb.W_q", "HQQ"),
        (
            {**weights(weight=matrix(INT8.view(np.uint8))), "emb.weight.absmax": matrix(ONES)},
            "emb.weight",
            "bitsandbytes 4-bit",
        ),
        (weights(weight=matrix(INT8.view(np.uint32)), scales=matrix(ONES)), "emb.weight", "biases"),
        (
            weights(weight=matrix(INT8.view(np.uint32)), scales=matrix(ONES), biases=matrix(ONES)),
            "emb.weight",
            "16 words and 1 groups a row could be 4 bits in groups of 128 or 8 bits in groups of 64",
        ),
        (
            weights(weight=matrix(INT8), weight_scale=matrix(np.ones((4, 2), np.float32))),
            None,
            "has shape (4, 2)",
        ),
        (
            weights(
                weight_packed=matrix(INT8.view(np.int32)),
                weight_scale=matrix(ONES),
                weight_shape=matrix(np.array([11, 64])),
            ),
            "emb.weight",
            "says 11 × 64",
        ),
        (
            weights(
                weight_packed=matrix(INT8.view(np.int32)),
                weight_scale=matrix(ONES),
                weight_shape=matrix(np.array([10, 100])),
            ),
            "emb.weight",
            "are 5 bits each: expected 4 or 8",
        ),
    ],
)
def test_refused(tensors: dict[str, Held], tensor: str | None, words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors", tensors)
    found = refused(path, tensor or "emb.weight")
    assert words in found
    assert "--as-stored" in found
    assert list_tensors(path) == list_tensors(path, as_stored=True)


def test_blocks_that_could_be_several(tmp_path: Path) -> None:
    codes = np.zeros((40, 64), np.uint8)
    tensors = weights(weight=matrix(codes, "F8_E4M3"), weight_scale_inv=matrix(np.ones((2, 2), np.float32)))
    path = save(tmp_path / "model.safetensors", tensors)
    with open_source(path) as source:  # 32 x 32 alone are powers of two that cut 40 rows into 2 blocks
        assert source.convention.endswith("of 32 x 32")
    tensors["emb.weight_scale_inv"] = matrix(np.ones((3, 2), np.float32))
    save(path, tensors)
    assert "config.json beside the file must say how large they are" in refused(path, "emb.weight")
    for shape in ((3, 1), (1, 2), (7, 4), (40, 3), (41, 2)):
        tensors["emb.weight_scale_inv"] = matrix(np.ones(shape, np.float32))
        save(path, tensors)
        assert f"has shape {shape}" in refused(path, "emb.weight")
    tensors["emb.weight_scale_inv"] = matrix(np.ones((3, 2), np.float32))
    save(path, tensors)
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"weight_block_size": [32, 32]}})
    )
    assert "config.json speaks of blocks of 32 x 32" in refused(path, "emb.weight")


def test_groups_that_config_denies(tmp_path: Path) -> None:
    tensors = weights(weight=matrix(INT8), weight_scale=matrix(np.ones((10, 2), np.float32)))
    path = save(tmp_path / "model.safetensors", tensors)
    with open_source(path) as source:
        assert source.convention == "int8 * weight_scale of 1 x 32"
    group = {"config_groups": {"group_0": {"weights": {"group_size": 16, "num_bits": 8}}}}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": group}))
    assert "config.json speaks of groups of 16" in refused(path, "emb.weight")


def test_a_scale_whose_file_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", weights(weight=matrix(INT8)))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": {"emb.weight": "a.safetensors", "emb.weight_scale": "b.safetensors"}})
    )
    assert "b.safetensors" in refused(index, "emb.weight")
    with open_source(index, "emb.weight", as_stored=True) as source:
        assert source.dtype == "int8"


def test_scales_that_are_no_numbers(tmp_path: Path) -> None:
    bad = ONES.copy()
    bad[7] = np.nan
    path = save(tmp_path / "a.safetensors", weights(weight=matrix(INT8), weight_scale=matrix(bad)))
    assert "row 7 has scale nan" in refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda mapping: mapping + 4,
        lambda mapping: -1 - mapping,
    ],
)
def test_tokens_without_an_embedding(change: Callable[[Any], Any], tmp_path: Path) -> None:
    tensors, _ = copied("model2vec-float32", tmp_path)
    mapping = np.frombuffer(tensors["mapping"].data, np.int32)
    tensors["mapping"] = matrix(change(mapping).astype(np.int32))
    assert "expected 0 to 3" in refused(save(tmp_path / "model.safetensors", tensors))


def test_as_stored_takes_what_is_refused(tmp_path: Path) -> None:
    tensors = weights(weight=matrix(INT8), weight_scale=matrix(ONES[:9]))
    path = save(tmp_path / "a.safetensors", tensors)
    qstore.build(path, tmp_path / "out.h5", tensor="emb.weight", as_stored=True, step=1)
    with qstore.open(tmp_path / "out.h5") as store:
        np.testing.assert_array_equal(store[:], INT8)
        assert qstore.verify_against(store, path, tensor="emb.weight", as_stored=True, step=1).ok
    with pytest.raises(SourceError, match="looks quantized"), qstore.open(tmp_path / "out.h5") as store:
        qstore.verify_against(store, path, tensor="emb.weight")
