"""Tensors that are one matrix in pieces: in the order of their numbers, or refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from source_contract import Maker, SourceContract, files_open_in, matrix_of, refused, same
from source_files import safetensors_bytes

from qstore.errors import IncompleteError, SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, joined, list_tensors, numbered_tensors, open_source
from qstore.sources.numbered import chosen

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from fixtures.ngram_tables import LAYOUTS, PATTERN, Table, write

Tensors = dict[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


def saved(directory: Path, tensors: Tensors, files: int = 3, seed: int = 1) -> Path:
    """A checkpoint in several files, its tensors in shuffled order."""
    names = list(tensors)
    random.Random(seed).shuffle(names)
    places = {}
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        inside = names[number::files]
        (directory / name).write_bytes(safetensors_bytes({one: tensors[one] for one in inside}))
        places.update(dict.fromkeys(inside, name))
    path = directory / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": places}))
    return path


def pieces_of(values: NDArray[Any], count: int, first: int = 0) -> Tensors:
    """A matrix in pieces, the last of them longer."""
    step = len(values) // count
    bounds = [*(number * step for number in range(count)), len(values)]
    return {
        f"a.layers.3.shard_{first + number}.weight": values[begin:end]
        for number, (begin, end) in enumerate(itertools.pairwise(bounds))
    }


NAMES = "a.layers.3.shard_*.weight"


def other() -> Tensors:
    return {"a.layers.3.bias": np.zeros(3, np.float32), "a.layers.4.up.weight": np.zeros((7, 5), np.float32)}


# the contract ------------------------------------------------------------------------------------------


def in_files(directory: Path, values: NDArray[Any]) -> Path:
    saved(directory, pieces_of(values, 12) | other())
    return directory


def in_one_file(directory: Path, values: NDArray[Any]) -> Path:
    path = directory / "model.safetensors"
    tensors = list((pieces_of(values, 12, first=1) | other()).items())
    path.write_bytes(safetensors_bytes(dict(sorted(tensors))))
    return path


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "files": Maker(in_files, NAMES, join=True, tells_length=False, working_memory=2 << 20),
        "one file": Maker(in_one_file, NAMES, join=True, working_memory=2 << 20),
    }


class TestWithFewOpen(SourceContract):
    """More members than may be open at a time."""

    makers = TestContract.makers

    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(joined, "_MOST_OPEN", 3)

    def test_so_many_are_open_at_most(self, tmp_path: Path) -> None:
        values = matrix_of("float32")
        with open_source(in_files(tmp_path, values), NAMES, join=True) as source:
            assert isinstance(source, RowSource)
            assert len(files_open_in(tmp_path)) == 3
            with ThreadPoolExecutor(8) as pool:
                rows = list(pool.map(lambda row: source.read(row, row + 1), range(len(values))))
            assert same(np.concatenate(rows), values)
            source.read(0, 1)
            assert len(files_open_in(tmp_path)) == 3
            source.check_unchanged()

    def test_file_cut_short_after_opening(self, maker: Maker, tmp_path: Path) -> None:
        with maker.open(tmp_path, matrix_of("float32", rows=20_000)) as source:
            for file in tmp_path.iterdir():
                os.truncate(file, min(3000, file.stat().st_size))
            with pytest.raises(SourceError):
                list(source.chunks())

    def test_file_replaced_while_closed(self, tmp_path: Path) -> None:
        values = matrix_of("float32")
        with open_source(in_files(tmp_path, values), NAMES, join=True) as source:
            assert isinstance(source, RowSource)
            source.read(200, 257)  # the last ones are open
            in_files(tmp_path, values[::-1])
            with pytest.raises(SourceError, match=r"shard_0\.weight.*changed while it was read"):
                source.read(0, 1)


# order -------------------------------------------------------------------------------------------------


@given(
    st.integers(2, 140),
    st.integers(0, 1),
    st.sampled_from(["{}", "{:05d}", "t{}.w", "7.s{}_1"]),
    st.randoms(),
)
def test_order_is_that_of_the_numbers(count: int, first: int, form: str, order: random.Random) -> None:
    names = [form.format(number) for number in range(first, first + count)]
    infos = [TensorInfo(name, (number, 4), "float32") for number, name in enumerate(names)]
    order.shuffle(infos)
    found = chosen("x", infos, form.replace("{:05d}", "{}").format("*"))
    assert [info.name for info in found.members] == names
    assert found.name == form.replace("{:05d}", "{}").format("*")
    assert [family.name for family in numbered_tensors(infos)] == [found.name]


def test_rows_come_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    values = np.arange(5 * 130 * 2, dtype=np.int32).reshape(-1, 2)
    path = saved(tmp_path, pieces_of(values, 130) | other(), files=9)
    with open_source(path, "a.layers.*.shard_*.weight", join=True) as source:
        assert isinstance(source, RowSource)
        assert (source.name, source.dtype, source.rows) == (NAMES, "int32", 650)
        assert np.array_equal(source.read(0, 650), values)
        assert np.array_equal(source.read(43, 59), values[43:59])


def test_all_formats_that_have_names(tmp_path: Path) -> None:
    pieces = {f"t.{number}": matrix_of("float32", seed=number) for number in range(11)}
    with h5py.File(tmp_path / "tables.h5", "w") as file:
        for name, values in pieces.items():
            file[name] = values
    arrays: dict[str, Any] = pieces
    np.savez(tmp_path / "stored.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    expected = np.concatenate(list(pieces.values()))
    for name in ("tables.h5", "stored.npz", "packed.npz"):
        with open_source(tmp_path / name, "t.*", join=True) as source:
            assert same(np.concatenate(list(source.chunks())), expected)
            assert source.name == "t.*"


def test_brackets_in_names_stand_for_themselves(tmp_path: Path) -> None:
    tensors = {f"emb[0].{number}": np.full((2, 3), number, np.float32) for number in range(3)}
    path = saved(tmp_path, tensors)
    with open_source(path, "emb[0].*", join=True) as source:
        assert np.concatenate(list(source.chunks()))[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts(tmp_path: Path, layout: str) -> None:
    table = Table(layout, 128 * 3, 160, 128)
    write(tmp_path / "made", table, files=5)
    with open_source(tmp_path / "made", PATTERN, join=True) as source:
        assert isinstance(source, RowSource)
        assert same(source.read(0, table.rows), table.values(0, table.rows))
        assert source.name == PATTERN


# what is refused ---------------------------------------------------------------------------------------


def infos(*names: str, shape: tuple[int, ...] = (3, 4), dtype: str = "float32") -> list[TensorInfo]:
    return [TensorInfo(name, shape, dtype) for name in names]


@pytest.mark.parametrize(
    ("tensors", "pattern", "words"),
    [
        (infos("s0", "s1", "s3", "s7"), "s*", ["'s1' is followed by 's3'", "'s3' is followed by 's7'"]),
        (infos("s2", "s3"), "s*", ["begins with 's2'", "expected number 0 or 1"]),
        (infos("s0", "s1", "s01"), "s*", ["'s1' and 's01' have the same number"]),
        (infos("s0", "s1", "sx"), "s*", ["'s0' and 'sx' both match", "narrower"]),
        (infos("s0.w", "s0.b"), "s*", ["'s0.w' and 's0.b' both match"]),
        (infos("l0.s0", "l0.s1", "l1.s0", "l1.s1"), "l*", ["differ in 2 numbers", "'l0.s0'", "'l1.s0'"]),
        (infos("s0", "t"), "s*", ["only 's0' matches 's*'", "leave join=True (--join) out"]),
        ([*infos("s0"), *infos("s1", shape=(3, 5))], "s*", ["'s1'", "'s0'", "columns expected 4, found 5"]),
        ([*infos("s0"), *infos("s1", dtype="int8")], "s*", ["'s1'", "type expected float32, found int8"]),
        ([*infos("s0"), *infos("s1", shape=(3,))], "s*", ["'s1' has shape (3,)", "expected matrices"]),
        (infos("s0", "s1", dtype="bool"), "s*", ["'s0'", "bool", "expected matrices"]),
        (infos("s0", f"s{'1' * 5000}"), "s*", ["a number of 5000 digits"]),
    ],
)
def test_what_is_no_whole_matrix_is_refused(
    tensors: list[TensorInfo], pattern: str, words: list[str]
) -> None:
    for given_order in (tensors, tensors[::-1]):
        with pytest.raises(SourceError) as caught:
            chosen("model", given_order, pattern)
        message = str(caught.value)
        assert message.startswith("model: ")
        assert len(message) < 1000
    with pytest.raises(SourceError) as caught:
        chosen("model", tensors, pattern)
    assert all(word in str(caught.value) for word in words)


def test_unknown_patterns_get_a_hint(tmp_path: Path) -> None:
    path = saved(tmp_path, pieces_of(matrix_of("float32"), 4))
    error = refused(path, "has no tensor", tensor="shard_*", join=True, error=TensorError)
    assert isinstance(error, TensorError)
    refused(path, "expects a pattern", "--tensor PATTERN", join=True)
    refused([path, path], "expected one file or checkpoint", tensor=NAMES, join=True)
    refused(np.eye(3), "ndarray holds no tensors by name", tensor=NAMES, join=True)


def test_files_of_other_tensors_may_be_missing(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = saved(tmp_path, pieces_of(values, 6), files=2)
    index = json.loads(path.read_text())
    index["weight_map"] |= {"b.weight": "lost.safetensors"}
    path.write_text(json.dumps(index))
    with pytest.raises(IncompleteError) as caught:
        list_tensors(path)
    assert caught.value.missing == ("b.weight",)
    with open_source(path, NAMES, join=True) as source:
        assert same(np.concatenate(list(source.chunks())), values)


@pytest.mark.parametrize("number", [6, 3])
def test_files_of_its_own_may_not(tmp_path: Path, number: int) -> None:
    """The last one leaves no gap behind."""
    path = saved(tmp_path, pieces_of(matrix_of("float32"), 6), files=2)
    index = json.loads(path.read_text())
    index["weight_map"] |= {f"a.layers.3.shard_{number}.weight": "lost.safetensors"}
    path.write_text(json.dumps(index))
    refused(path, f"'a.layers.3.shard_{number}.weight'", "cannot be read", tensor=NAMES, join=True)
    with pytest.raises(IncompleteError) as caught:
        list_tensors(path)
    assert caught.value.missing is not None
    assert numbered_tensors(caught.value.tensors, caught.value.missing) == []


def test_scales_of_its_own_may_not_be_missing_either() -> None:
    with pytest.raises(SourceError, match=r"'s2\.weight_packed'"):
        chosen("x", infos("s0.weight", "s1.weight"), "s*.weight", ["other", "s2.weight_packed"])


def test_fingerprints_cover_all_files(tmp_path: Path) -> None:
    values = matrix_of("float32")
    prints = []
    for number, tensors in enumerate([pieces_of(values, 6), pieces_of(values, 7), pieces_of(values, 6, 1)]):
        (tmp_path / str(number)).mkdir()
        with open_source(saved(tmp_path / str(number), tensors), NAMES, join=True) as source:
            prints.append(source.fingerprint())
    for file in sorted((tmp_path / "0").glob("*.safetensors")):
        copy = shutil.copytree(tmp_path / "0", tmp_path / f"of {file.name}")
        os.utime(copy / file.name, ns=(1, 1))
        with open_source(copy / "model.safetensors.index.json", NAMES, join=True) as source:
            prints.append(source.fingerprint())
    assert all(one is not None for one in prints)
    assert len({json.dumps(one, sort_keys=True) for one in prints}) == len(prints)


# listing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "found"),
    [
        (infos("s0", "s1"), ["s*"]),
        (infos("s1", "s2"), ["s*"]),
        (infos("s0"), []),
        (infos("s0", "s2"), []),
        (infos("s2", "s3"), []),
        (infos("s0", "s1", "s01"), []),
        (infos("s0", "s1", "s_all"), []),
        (infos("h.0.up", "h.0.down", "h.1.up", "h.1.down"), []),
        (infos("h.0.s0", "h.0.s1", "h.1.s0", "h.1.s1"), ["h.0.s*", "h.1.s*"]),
        ([*infos("s0"), *infos("s1", dtype="int8")], []),
        ([*infos("s0"), *infos("s1", shape=(3, 5))], []),
        ([*infos("s0.w", "s1.w"), *infos("s0.bias", "s1.bias", shape=(4,))], ["s*.w"]),
        ([*infos("s0", "s1"), *infos("s0.bias", "s1.bias", shape=(4,))], []),
        (infos("s0", "s1", shape=(3,)), []),
        (infos(*(f"{'1.' * 200}{number}" for number in range(3))), []),
    ],
)
def test_what_is_listed_as_one(tensors: list[TensorInfo], found: list[str]) -> None:
    families = numbered_tensors(tensors[::-1])
    assert [one.name for one in families] == found
    for family in families:
        assert chosen("x", tensors, family.name) == family


def test_listing_takes_bounded_work() -> None:
    hostile = infos(*(f"{'1a' * 120}{number}" for number in range(3000)))
    assert [one.name for one in numbered_tensors(hostile)] == []
    assert numbered_tensors(infos("s0", "s1") * 60_000) == []


def test_a_scale_given_by_hand_is_one_number(tmp_path: Path) -> None:
    """Rows of one piece's scales would be taken for those of all others."""
    path, codes = tmp_path / "m.safetensors", np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scales = {"rows": np.array([[1], [2], [4]], np.float32), "one": np.array([0.5], np.float32)}
    path.write_bytes(safetensors_bytes({"t.0": codes, "t.1": codes + np.int8(1), **scales}))
    with pytest.raises(SourceError, match=r"the scale 'rows' has shape \(3, 1\), expected one number"):
        open_source(path, "t.*", join=True, scale="rows")
    with open_source(path, "t.*", join=True, scale="one") as source:
        values = np.concatenate(list(source.chunks()))
    assert np.array_equal(values, np.concatenate([codes, codes + 1]) * 0.5)
