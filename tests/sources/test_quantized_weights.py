"""Weights as libraries quantize and save them: bit for bit what these make of them, or codes and scales."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from quantized_files import LIBRARIES, Held, check, matrix, of_library, read, save, save_sharded
from source_contract import files_open_in
from torch_files import checkpoint, mapping, rebuild, storage

import qstore
from qstore.engine import quantization
from qstore.errors import SourceError, TensorError
from qstore.sources import QuantizedSource, RowSource, list_tensors, open_source

pytestmark = pytest.mark.usefixtures("no_leaks")
FLOAT8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz"}
FLOAT8 |= {"F8_E5M2FNUZ": "float8_e5m2fnuz"}


@pytest.mark.parametrize("name", LIBRARIES)
def test_as_the_library_has_it(name: str, tmp_path: Path) -> None:
    folder = of_library(name)
    (info,) = list_tensors(folder)
    with open_source(folder) as source:
        assert (info.name, info.shape, info.dtype) == (source.name, (source.rows, source.dim), source.dtype)
        assert info.convention == source.convention != ""
        check(source, name)
    stored = list_tensors(folder, as_stored=True)
    assert {one.name for one in stored} == {one.name for one in info.parts}


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_store_is_that_of_the_values(name: str, tmp_path: Path) -> None:
    folder = of_library(name)
    report = qstore.build(folder, tmp_path / "out.h5")
    with qstore.open(tmp_path / "out.h5") as store, open_source(folder) as source:
        assert isinstance(source, RowSource)
        if isinstance(source, QuantizedSource):
            codes, scales = source.read_codes(0, source.rows)
        else:
            values = source.read(0, source.rows)
            codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
            assert quantization.quantize(values, codes, scales, False) == -1
        np.testing.assert_array_equal(store.codes, codes)
        np.testing.assert_array_equal(store.scales, scales)
        assert (store.source_dtype, report.convention) == (source.convention[:64], source.convention)
        assert (store.fidelity is None) == isinstance(source, QuantizedSource)
        assert qstore.verify_against(store, folder).ok


@pytest.mark.parametrize("name", LIBRARIES)
def test_tensors_in_several_files(name: str, tmp_path: Path) -> None:
    tensors, metadata = read(of_library(name) / "model.safetensors")
    save_sharded(tmp_path, dict(reversed(tensors.items())), metadata)
    said = of_library(name) / "config.json"
    if said.exists():
        shutil.copy(said, tmp_path)
    (info,) = list_tensors(tmp_path)
    with open_source(tmp_path, info.name) as source:
        check(source, name)
    assert files_open_in(tmp_path) == []


TORCH = {"I8": "CharStorage", "U8": "ByteStorage", "I32": "IntStorage", "I64": "LongStorage"}
TORCH |= {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage"}
SIZES = {"I8": 1, "U8": 1, "I32": 4, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def as_torch(path: Path, tensors: dict[str, Held]) -> Path:
    """The same tensors as torch.save writes them."""
    members, storages = {}, {}
    for number, (name, one) in enumerate(tensors.items()):
        count = len(one.data) // SIZES[one.dtype]
        strides = tuple(int(np.prod(one.shape[axis + 1 :])) for axis in range(len(one.shape)))
        held = storage(str(number), count, TORCH[one.dtype])
        members[name] = rebuild(held, 0, one.shape, strides)
        storages[str(number)] = np.frombuffer(one.data, np.uint8)
    return checkpoint(path, b"\x80\x02" + mapping(**members) + b".", storages)


@pytest.mark.parametrize(
    "name", [one for one in LIBRARIES if "int8" in one or "pack" in one or one.endswith("mxfp4")]
)
def test_a_checkpoint_of_torch(name: str, tmp_path: Path) -> None:
    if name.startswith(("mlx", "torchao-mx")):
        pytest.skip("its types are none of those that storages have names for")
    tensors, _ = read(of_library(name) / "model.safetensors")
    as_torch(tmp_path / "model.pt", tensors)
    if (of_library(name) / "config.json").exists():
        shutil.copy(of_library(name) / "config.json", tmp_path)
    (info,) = list_tensors(tmp_path / "model.pt")
    assert info.convention
    with open_source(tmp_path / "model.pt") as source:
        check(source, name)


def test_the_name_in_the_model_and_in_the_file() -> None:
    for name, stored in (
        ("compressed-tensors-pack4-group", "weight_packed"),
        ("torchao-int8-row", "_weight_qdata"),
    ):
        for asked in ("weight", stored):
            with open_source(of_library(name), f"model.embed_tokens.{asked}") as source:
                assert source.name == "model.embed_tokens.weight"
    with open_source(of_library("quanto-int8"), "lm_head.weight._data") as source:
        assert source.name == "lm_head.weight"
    with pytest.raises(TensorError, match=r"has no tensor 'model\.embed_tokens\.wait'"):
        open_source(of_library("torchao-int8-row"), "model.embed_tokens.wait")


def table(rows: int = 20, columns: int = 64) -> NDArray[np.int8]:
    return np.random.default_rng(5).integers(-128, 128, (rows, columns)).astype(np.int8)


def parts(**tensors: Held) -> dict[str, Held]:
    return {f"emb.{name}": one for name, one in tensors.items()}


ONES = np.linspace(0.5, 2, 20).astype(np.float32)


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
@pytest.mark.parametrize("name", ["weight_scale", "scale", "scales", "weight_scale_inv"])
def test_codes_and_scales_of_rows(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    path = save(
        tmp_path / "a.safetensors", parts(weight=matrix(table()), **{name: matrix(ONES.reshape(shape))})
    )
    with open_source(path) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(0, 20)
        np.testing.assert_array_equal(codes.astype(int) - 128, table())
        np.testing.assert_array_equal(scales, ONES.astype(np.float64))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_for_all(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scale = np.full(shape, 0.1, np.float64)
    path = save(tmp_path / "a.safetensors", parts(weight=matrix(table()), weight_scale=matrix(scale)))
    with open_source(path) as source:
        assert isinstance(source, QuantizedSource)
        np.testing.assert_array_equal(source.read_codes(3, 7)[1], [0.1] * 4)


def test_a_matrix_of_one_row(tmp_path: Path) -> None:
    for shape in ((), (1,), (1, 1)):
        path = save(
            tmp_path / "a.safetensors",
            parts(weight=matrix(table(1)), weight_scale=matrix(np.full(shape, 0.5, np.float32))),
        )
        with open_source(path) as source:
            assert isinstance(source, QuantizedSource)
            np.testing.assert_array_equal(source.read(0, 1), table(1) * 0.5)


@pytest.mark.parametrize("word", FLOAT8)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_float8_with_powers_of_two(tmp_path: Path, word: str, groups: int) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8).reshape(4, 64)
    codes[codes & 127 >= 124] = 1
    codes[codes == 128] = 2  # NaN without a negative zero
    powers = np.random.default_rng(1).integers(100, 140, (4, groups)).astype(np.uint8)
    path = save(
        tmp_path / "a.safetensors", parts(weight=matrix(codes, word), scale=matrix(powers, "F8_E8M0"))
    )
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        found = source.read(0, 4)
    values = codes.view(getattr(ml_dtypes, FLOAT8[word])).astype(np.float32)
    np.testing.assert_array_equal(
        found, values * np.exp2(powers.astype(np.float32) - 127).repeat(64 // groups, 1)
    )


@pytest.mark.parametrize("word", FLOAT8)
def test_every_code_of_float8(tmp_path: Path, word: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8).reshape(4, 64)
    one = matrix(np.ones(1, np.float32))
    path = save(tmp_path / "a.safetensors", parts(weight=matrix(codes, word), weight_scale=one))
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        np.testing.assert_array_equal(
            source.read(0, 4), codes.view(getattr(ml_dtypes, FLOAT8[word])).astype(np.float32)
        )


def test_blocks_that_the_edges_cut(tmp_path: Path) -> None:
    codes, scales = table(70, 40), np.random.default_rng(2).random((3, 2)).astype(np.float32)
    tensors = parts(weight=matrix(codes), weight_scale_inv=matrix(scales))
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"weight_block_size": [32, 24]}})
    )
    save(tmp_path / "model.safetensors", tensors)
    blocks = scales.repeat(32, 0)[:70].repeat(24, 1)[:, :40]
    with open_source(tmp_path) as source:
        assert isinstance(source, RowSource)
        for start, stop in ((0, 70), (31, 33), (63, 70)):
            np.testing.assert_array_equal(source.read(start, stop), (codes * blocks)[start:stop])


def test_one_scale_for_the_parts_of_a_table(tmp_path: Path) -> None:
    tensors = {f"ngram.shard_{number}.weight": matrix(table() + number) for number in range(3)}
    tensors["ngram.weight_scale"] = matrix(np.array(0.25, np.float32))
    path = save(tmp_path / "a.safetensors", tensors)
    assert [info.name for info in list_tensors(path)] == [
        f"ngram.shard_{number}.weight" for number in range(3)
    ]
    for number in range(3):
        with open_source(path, f"ngram.shard_{number}.weight") as source:
            assert isinstance(source, RowSource)
            np.testing.assert_array_equal(source.read(0, 20), (table() + number) * 0.25)
    tensors["ngram.weight_scale"] = matrix(ONES)
    with pytest.raises(SourceError, match="expected one number for all parts of the table"):
        open_source(save(tmp_path / "a.safetensors", tensors), "ngram.shard_0.weight")


def test_zero_points_in_the_middle_lose_nothing(tmp_path: Path) -> None:
    codes = table().view(np.uint8)
    for middle, lossless in ((128, True), (127, False)):
        zero = np.full(20, middle, np.int32)
        path = save(
            tmp_path / "a.safetensors",
            parts(weight=matrix(codes), weight_scale=matrix(ONES), weight_zero_point=matrix(zero)),
        )
        with open_source(path) as source:
            assert isinstance(source, QuantizedSource) == lossless
            assert isinstance(source, RowSource)
            np.testing.assert_array_equal(
                source.read(0, 20), (codes.astype(np.float64) - middle) * ONES[:, None]
            )


def test_by_hand(tmp_path: Path) -> None:
    tensors = parts(weight=matrix(table()), odd=matrix(ONES[:, None]), weight_zero_scale=matrix(ONES))
    path = save(tmp_path / "a.safetensors", tensors)
    with open_source(path, "emb.weight", scale="emb.odd") as source:
        assert isinstance(source, QuantizedSource)
        np.testing.assert_array_equal(source.read_codes(0, 20)[1], ONES)
    with open_source(path, "emb.weight", as_stored=True) as source:
        assert isinstance(source, RowSource)
        np.testing.assert_array_equal(source.read(0, 20), table())
    for wrong, words in (
        ({"scale": "emb.weight"}, "cannot be scaled by 'emb.weight'"),
        ({"scale": "emb.od"}, "has no tensor 'emb.od'.*emb.odd"),
        ({"scale": "emb.odd", "as_stored": True}, "do not go together"),
    ):
        with pytest.raises(SourceError, match=words):
            open_source(path, "emb.weight", **wrong)
    with pytest.raises(SourceError, match="needs the name of a tensor"):
        open_source(path, scale="emb.odd")
    np.save(tmp_path / "a.npy", table())
    for source_of in (tmp_path / "a.npy", table()):
        with pytest.raises(SourceError, match="holds no tensors by name"):
            open_source(source_of, scale="x")


@pytest.mark.parametrize("companion", [False, True])
def test_numbers_without_scales_are_what_they_are(tmp_path: Path, companion: bool) -> None:
    tensors = {"ids": matrix(np.arange(8, dtype=np.int64).reshape(4, 2))} if companion else {}
    path = save(tmp_path / "a.safetensors", {**tensors, **parts(weight=matrix(table()))})
    report = qstore.build(path, tmp_path / "out.h5", tensor="emb.weight")
    assert "the source holds int8 and no scales beside it" in report.warnings[0]
    assert (report.source_dtype, report.convention) == ("int8", "")
    assert not any(
        "no scales" in text
        for text in qstore.build(
            path, tmp_path / "out.h5", tensor="emb.weight", as_stored=True, overwrite=True
        ).warnings
    )


def test_model2vec_never_saves_its_scale(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {"embeddings": matrix(table())})
    (tmp_path / "config.json").write_text(json.dumps({"embedding_dtype": "int8"}))
    report = qstore.build(tmp_path, tmp_path / "out.h5")
    assert (
        "the scale of Model2Vec's int8 embeddings (the largest value / 127) was never saved"
        in report.warnings[0]
    )


def test_many_shared_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are the same whether the embeddings fit into memory or not."""
    monkeypatch.setattr("qstore.sources.quantized_weights.rows._KEPT_EMBEDDINGS", 0)
    with open_source(of_library("model2vec-float32")) as source:
        check(source, "model2vec-float32")
