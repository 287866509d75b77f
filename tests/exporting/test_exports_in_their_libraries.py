"""Exports read by each format's own library."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exported_files import DTYPES, NAME, store_to_export, use_small_blocks, values_of

import qstore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    with store_to_export(tmp_path_factory.mktemp("export")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES["safetensors"])
def test_safetensors_reads_it(store: qstore.Store, tmp_path: Path, dtype: str) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    qstore.export(store, tmp_path / "out.safetensors", dtype=dtype)
    np.testing.assert_array_equal(
        library.load_file(tmp_path / "out.safetensors")[NAME], values_of(store, dtype)
    )
    qstore.export(store, tmp_path / "codes.safetensors", codes=True)
    found = library.load_file(tmp_path / "codes.safetensors")
    np.testing.assert_array_equal(found["codes"], store.codes)
    np.testing.assert_array_equal(found["scales"], store.scales)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", DTYPES["torch"])
def test_torch_reads_it(store: qstore.Store, tmp_path: Path, dtype: str, mmap: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    for rows in ((0, 3001), (0, 0)):
        path = tmp_path / f"{rows[1]}.pt"
        qstore.export(store, path, dtype=dtype, rows=rows)
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert list(found) == [NAME]
        np.testing.assert_array_equal(found[NAME].numpy(), values_of(store, dtype)[: rows[1]])
    module = torch.nn.Embedding(3001, 48, dtype=getattr(torch, dtype))
    qstore.export(store, tmp_path / "whole.pt", dtype=dtype)
    state = torch.load(tmp_path / "whole.pt", weights_only=True, mmap=mmap)
    module.load_state_dict({"weight": state[NAME]})
    np.testing.assert_array_equal(module.weight.detach().numpy(), values_of(store, dtype))


@pytest.mark.parametrize("suffix", [".txt", ".bin"])
def test_gensim_reads_it(store: qstore.Store, tmp_path: Path, suffix: str) -> None:
    gensim = pytest.importorskip("gensim.models", reason="gensim is not installed")
    keys = [f"wörd-{row}" for row in range(3001)]
    qstore.export(store, tmp_path / f"out{suffix}", keys=keys)
    found = gensim.KeyedVectors.load_word2vec_format(tmp_path / f"out{suffix}", binary=suffix == ".bin")
    assert found.index_to_key == keys
    np.testing.assert_array_equal(found.vectors, store[:])


@pytest.mark.parametrize("dtype", DTYPES["parquet"])
def test_pyarrow_reads_it(store: qstore.Store, tmp_path: Path, dtype: str) -> None:
    library = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    path = tmp_path / "out.parquet"
    qstore.export(store, path, dtype=dtype)
    table = library.read_table(path)
    assert table.column_names == ["embedding"]
    assert table.schema.field("embedding").type.list_size == 48
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(flat.reshape(-1, 48), values_of(store, dtype))
    if dtype != "float16":
        np.testing.assert_array_equal(qstore.quantize(flat.reshape(-1, 48))[0], store.codes)
    keys = [f"key {row}" for row in range(3001)]  # blanks are fine here
    qstore.export(store, path, dtype=dtype, keys=keys, rows=(700, 2300), overwrite=True)
    table = library.read_table(path)
    assert table["key"].to_pylist() == keys[700:2300]
    assert library.ParquetFile(path).num_row_groups == 2
    qstore.export(store, path, dtype=dtype, rows=(0, 0), overwrite=True)
    assert library.read_table(path).num_rows == 0


def test_pyarrow_missing(store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[parquet\]"'):
        qstore.export(store, tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == []
