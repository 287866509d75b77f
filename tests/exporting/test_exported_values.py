"""Exports read back by hand and built again: the values of the store, in every format."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_files import (
    DTYPES,
    NAME,
    SUFFIXES,
    WITHOUT_LIBRARY,
    read_back,
    read_binary,
    read_safetensors,
    read_text,
    read_torch,
    store_to_export,
    use_small_blocks,
    values_of,
)

import qstore
from qstore.exporting.formats import FORMATS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    with store_to_export(tmp_path_factory.mktemp("export")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


MakeStore = Callable[..., qstore.Store]


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in WITHOUT_LIBRARY for dtype in DTYPES[name]]
)
def test_values_are_those_of_the_store(store: qstore.Store, tmp_path: Path, name: str, dtype: str) -> None:
    path = tmp_path / f"out{SUFFIXES[name]}"
    report = qstore.export(store, path, dtype=dtype)
    np.testing.assert_array_equal(read_back(path, dtype), values_of(store, dtype))
    assert (report.path, report.format, report.rows, report.dim) == (str(path), name, 3001, 48)
    assert (report.dtype, report.file_bytes) == (dtype, path.stat().st_size)
    assert report.seconds > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_quantizing_an_export_gives_the_same_codes(
    store: qstore.Store, tmp_path: Path, name: str, dtype: str
) -> None:
    if dtype in DTYPES[name]:
        path = tmp_path / f"out{SUFFIXES[name]}"
        qstore.export(store, path, dtype=dtype)
        codes, scales = qstore.quantize(read_back(path, dtype))
        np.testing.assert_array_equal(codes, store.codes)
        if dtype == "float64":
            np.testing.assert_array_equal(scales, store.scales)


def test_codes_and_scales(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    assert qstore.export(store, path, codes=True).dtype == "uint8"
    found = read_safetensors(path)
    np.testing.assert_array_equal(found["codes"], store.codes)
    np.testing.assert_array_equal(found["scales"], store.scales)
    raw = path.read_bytes()
    about = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    assert about == {"tensor": NAME, "zero_point": "128", "formula": "(codes - 128) * scales"}


@pytest.mark.parametrize("rows", [(0, 0), (1, 2), (250, None), slice(-7, None), slice(5, 1205)])
@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_some_rows(store: qstore.Store, tmp_path: Path, name: str, rows: Any) -> None:
    path = tmp_path / f"out{SUFFIXES[name]}"
    report = qstore.export(store, path, rows=rows)
    expected = store[rows if isinstance(rows, slice) else slice(*rows)]
    assert report.rows == len(expected)
    np.testing.assert_array_equal(read_back(path, "float32"), expected)


def test_some_rows_of_codes(store: qstore.Store, tmp_path: Path) -> None:
    qstore.export(store, tmp_path / "out.safetensors", codes=True, rows=(90, 301))
    found = read_safetensors(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(found["codes"], store.codes[90:301])
    np.testing.assert_array_equal(found["scales"], store.scales[90:301])


def test_row_numbers_and_keys_are_words(store: qstore.Store, tmp_path: Path) -> None:
    keys = [f"wörd-{row}" for row in range(3001)]
    for suffix, read in ((".txt", lambda path: read_text(path, "float32")), (".bin", read_binary)):
        qstore.export(store, tmp_path / f"numbers{suffix}", rows=(98, 205))
        assert read(tmp_path / f"numbers{suffix}")[0] == [str(row) for row in range(98, 205)]
        qstore.export(store, tmp_path / f"keys{suffix}", rows=(98, 205), keys=keys)
        assert read(tmp_path / f"keys{suffix}")[0] == keys[98:205]


def test_a_tensor_without_a_name_is_weight(make_store: MakeStore, tmp_path: Path) -> None:
    opened = make_store(np.ones((2, 3)))
    qstore.export(opened, tmp_path / "out.pt")
    qstore.export(opened, tmp_path / "out.safetensors")
    assert list(read_torch(tmp_path / "out.pt")) == ["weight"]
    assert list(read_safetensors(tmp_path / "out.safetensors")) == ["weight"]


def test_text_has_the_shortest_exact_numbers(make_store: MakeStore, tmp_path: Path) -> None:
    values = np.array([[0.25, -12.7], [3e-9, 1e22]])
    opened = make_store(values)
    qstore.export(opened, tmp_path / "out.vec", dtype="float64")
    lines = [f"{row} {' '.join(map(repr, opened.astype('float64')[row].tolist()))}" for row in range(2)]
    assert (tmp_path / "out.vec").read_text() == "\n".join(["2 2", *lines, ""])
    qstore.export(opened, tmp_path / "out.txt")
    lines = [f"{row} {' '.join(map(str, opened[row]))}" for row in range(2)]
    assert (tmp_path / "out.txt").read_text() == "\n".join(["2 2", *lines, ""])


def test_a_path_a_store_of_another_type_and_an_engine_agree(store: qstore.Store, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.pt" for number in range(3)]
    qstore.export(store.path, paths[0])
    qstore.export(store.astype("float64"), paths[1])
    qstore.export(store, str(paths[2]), format="torch")
    assert len({path.read_bytes() for path in paths}) == 1  # no clock, no random id


def test_values_of_a_torch_file_are_aligned(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.pt"
    qstore.export(store, path)
    position = path.read_bytes().index(store[:100].tobytes())
    assert position % 64 == 0


def test_sizes_beyond_32_bits_in_a_torch_file(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZIP64_LIMIT", 1000)
        qstore.export(store, tmp_path / "out.pt")
    np.testing.assert_array_equal(read_torch(tmp_path / "out.pt")[NAME], store[:])
    torch = pytest.importorskip("torch", reason="torch is not installed")
    np.testing.assert_array_equal(torch.load(tmp_path / "out.pt", weights_only=True)[NAME], store[:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SUFFIXES)
def test_building_from_an_export_gives_the_same_codes(
    store: qstore.Store, tmp_path: Path, name: str, dtype: str
) -> None:
    if dtype not in DTYPES[name]:
        return
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = tmp_path / f"out{SUFFIXES[name]}"
    qstore.export(store, path, dtype=dtype)
    qstore.build(path, tmp_path / "again.h5")
    with qstore.open(tmp_path / "again.h5") as again:
        np.testing.assert_array_equal(again.codes, store.codes)


def test_every_format_is_tested() -> None:
    assert set(SUFFIXES) == {known.name for known in FORMATS}
    suffixes = [suffix for known in FORMATS for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))
