"""Exports that are refused, interrupted or find the disk full: nothing is lost and nothing left behind."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from exported_files import SUFFIXES, WITHOUT_LIBRARY, store_to_export, use_small_blocks

import qstore
from qstore.exporting import selection, word2vec
from qstore.exporting.formats import FORMATS
from qstore.exporting.npy import NpyFormat
from qstore.exporting.selection import Selection
from qstore.system import durable_files

MakeStore = Callable[..., qstore.Store]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[qstore.Store]:
    with store_to_export(tmp_path_factory.mktemp("export")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


# What cannot be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.xyz", {}, r"out\.xyz tells no format: expected .*\.npy \(npy\)"),
        ("out.csv", {}, r"\(--format\); CSV is written by qstore get STORE : --format csv -o out\.csv$"),
        ("out.npy", {"format": "xyz"}, "format is 'xyz', expected one of npy, "),
        ("out.npy", {"dtype": "int8"}, "npy holds float32 or float64 or float16, found dtype 'int8'"),
        ("out.bin", {"dtype": "float64"}, "word2vec-binary holds float32, found dtype 'float64'"),
        ("out.npy", {"codes": True}, "codes can only be exported to safetensors"),
        ("out.safetensors", {"codes": True, "dtype": "float64"}, "without a dtype"),
        ("out.npy", {"keys": ["a"] * 3001}, "npy has no place for keys: leave keys out, or choose word2vec"),
        ("out.txt", {"keys": ["a"]}, "there are 1 keys, expected one for each of the store's 3,001 rows"),
        ("out.txt", {"keys": ["a"] * 3000 + ["b c"]}, r"key of row 3000 is 'b c', .* export to \.parquet"),
        ("out.txt", {"keys": [""] * 3001}, "key of row 0 is ''"),
        ("out.bin", {"keys": ["a"] * 500 + ["x\n"] * 2501}, r"key of row 500 is 'x\\n'"),
        ("out.bin", {"keys": [7] * 3001}, "key of row 0 is 7, expected text"),
        ("out.bin", {"keys": ["\ud800"] * 3001}, "key of row 0 is '.ud800', expected text"),
    ],
)
def test_what_cannot_be_exported(
    store: qstore.Store, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(qstore.ExportError, match=message):
        qstore.export(store, tmp_path / name, **options)
    assert os.listdir(tmp_path) == []


def test_the_store_itself_is_not_replaced(store: qstore.Store) -> None:
    before = Path(store.path).read_bytes()
    with pytest.raises(qstore.ExportError, match="is the store itself"):
        qstore.export(store, store.path, format="npy", overwrite=True)
    assert Path(store.path).read_bytes() == before


@pytest.mark.parametrize("rows", [(0, 3002), slice(0, 10, 2)])
def test_rows_that_are_not_there(store: qstore.Store, tmp_path: Path, rows: Any) -> None:
    with pytest.raises(qstore.SourceError, match="rows"):
        qstore.export(store, tmp_path / "out.npy", rows=rows)


def test_what_is_there_is_replaced_only_when_asked(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    path.write_text("precious")
    (tmp_path / "link.npy").symlink_to(path)
    for name in (path, tmp_path / "link.npy"):
        with pytest.raises(qstore.ExistsError, match="overwrite=True"):
            qstore.export(store, name)
    assert path.read_text() == "precious"
    qstore.export(store, tmp_path / "link.npy", overwrite=True)
    assert (tmp_path / "link.npy").is_symlink()
    np.testing.assert_array_equal(np.load(path), store[:])


def test_places_that_cannot_be_written(store: qstore.Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (
        ("pipe.npy", "not a regular file"),
        ("folder.npy", "is a directory"),
        ("no/out.npy", "there is no directory"),
    ):
        with pytest.raises(qstore.OutputError, match=message):
            qstore.export(store, tmp_path / name, overwrite=True)


def test_an_output_that_appears_meanwhile_is_kept(store: qstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    with pytest.raises(qstore.ExistsError):
        qstore.export(store, path, progress=lambda done, total: path.write_text("precious"))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["out.npy"]


# Interrupted, full, large ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.usefixtures("no_leaks")
def test_an_interrupted_export_leaves_nothing(store: qstore.Store, tmp_path: Path, name: str) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")

    def stop(done: int, total: int | None) -> None:
        assert total == 3001
        if done >= 2000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.export(store.path, tmp_path / f"out{SUFFIXES[name]}", progress=stop)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("name", SUFFIXES)
@pytest.mark.usefixtures("no_leaks")
def test_a_full_disk(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codes: bool
) -> None:
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    if codes and name != "safetensors":
        return
    resource = pytest.importorskip("resource", reason="file sizes cannot be limited here")
    signal = pytest.importorskip("signal")
    monkeypatch.setattr(durable_files, "allocate", lambda fd, size: None)
    (tmp_path / "out").mkdir()
    kept, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # EFBIG stands for ENOSPC
        with pytest.raises(qstore.OutputError, match=r"cannot write .*/out/out\."):
            qstore.export(store.path, tmp_path / "out" / f"out{SUFFIXES[name]}", codes=codes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, kept)
    assert os.listdir(tmp_path / "out") == []


def test_a_full_disk_is_told_before_anything_is_read(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def full(fd: int, size: int) -> None:
        asked.append(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files, "allocate", full)
    monkeypatch.setattr(Selection, "blocks", pytest.fail)
    with pytest.raises(
        qstore.OutputError, match=r"No space left on device: .* bytes are free; free some space"
    ):
        qstore.export(store, tmp_path / "out.npy")
    assert asked == [3001 * 48 * 4]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_space_reserved_is_never_more_than_the_file(
    store: qstore.Store, tmp_path: Path, name: str
) -> None:
    known = next(known for known in FORMATS if known.name == name)
    if name == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    qstore.export(store, tmp_path / "out", format=name)
    chosen = Selection(store, 0, 3001, None, "text", lambda count: None)
    assert 0 <= known.least_size(chosen) <= (tmp_path / "out").stat().st_size
    assert known.least_size(chosen) in (0, store.nbytes)


@pytest.mark.parametrize("name", WITHOUT_LIBRARY)
def test_memory_is_that_of_a_block(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(selection, "_BLOCK_VALUES", 1 << 15)
    monkeypatch.setattr(word2vec, "_TEXT_VALUES", 1 << 12)
    rows = 4_000 if name == "word2vec-text" else 60_000
    opened = make_store(np.ones((rows, 64), np.float32))
    tracemalloc.start()
    try:
        qstore.export(opened, tmp_path / f"out{SUFFIXES[name]}")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (tmp_path / f"out{SUFFIXES[name]}").stat().st_size / 2
    assert peak < 1.5e6


def test_what_is_written_is_synced_and_then_named(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{fd}")).name.partition(".tmp")[0][:7])
        fsync(fd)

    def replaced(source: Path, target: Path) -> None:
        events.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    qstore.export(store, tmp_path / "out.npy")
    assert events == ["sync out.npy", "replace out.npy", f"sync {tmp_path.name[:7]}"]


def test_two_outputs_of_one_name_do_not_meet(tmp_path: Path) -> None:
    with durable_files.atomic_output(tmp_path / "x") as one:
        with durable_files.atomic_output(tmp_path / "x") as other:
            other.write(b"other")
        one.write(b"one")
    assert (tmp_path / "x").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("codes", [False, True])
def test_progress(store: qstore.Store, tmp_path: Path, codes: bool) -> None:
    seen: list[tuple[int, int | None]] = []
    path = tmp_path / "out.safetensors"
    qstore.export(store, path, codes=codes, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3001, 3001)
    assert len(seen) > 5


def test_an_error_of_the_system_names_the_output(
    store: qstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: NpyFormat, file: BinaryIO, chosen: Selection) -> None:
        file.write(b"some")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(NpyFormat, "write", broken)
    with pytest.raises(qstore.OutputError, match="Input/output error"):
        qstore.export(store, tmp_path / "out.npy")
    assert os.listdir(tmp_path) == []
