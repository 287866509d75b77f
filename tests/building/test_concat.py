"""Stores joined into one file: the bytes of one build, keys included, and damage is never copied over."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from forked_programs import forked
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.engine import kernels
from qstore.format import layout
from qstore.format.checksums import joined_crc32
from qstore.system import durable_files

# A checksum block of so many columns has few rows, so that small matrices have many blocks.
WIDE = 1 << 17
BLOCK = layout.block_rows(WIDE)


def pieces(folder: Path, values: NDArray[Any], cuts: list[int], **options: Any) -> list[Path]:
    """A store of each piece of a matrix, and of all of it (the last path)."""
    bounds = [0, *cuts, len(values)]
    paths = [folder / f"{number}.h5" for number in range(len(bounds) - 1)]
    keys = options.pop("keys", None)
    for path, start, stop in zip(paths, bounds, bounds[1:], strict=False):
        qstore.build(values[start:stop], path, keys=None if keys is None else keys[start:stop], **options)
    qstore.build(values, folder / "whole.h5", keys=keys, **options)
    return [*paths, folder / "whole.h5"]


def unmeasured(path: Path) -> bytes:
    """The bytes of a store of the same rows whose build did not measure errors."""
    other = path.with_suffix(".unmeasured")
    with (
        qstore.open(path) as store,
        qstore.Writer(
            other,
            store.shape[1],
            tensor=store.tensor,
            source_dtype=store.source_dtype or None,
            overwrite=True,
        ) as writer,
    ):
        keys = store.key_of(slice(None)) if store.key_kind else None
        writer.append_codes(store.codes[:], store.scales[:], keys)
    return other.read_bytes()


@given(first=st.binary(max_size=300), second=st.binary(max_size=3000))
def test_checksums_of_joined_pieces(first: bytes, second: bytes) -> None:
    assert joined_crc32(zlib.crc32(first), zlib.crc32(second), len(second)) == zlib.crc32(first + second)


@given(data=st.binary(max_size=900), start=st.integers(0, 70))
def test_checksums_are_those_of_zlib(data: bytes, start: int) -> None:
    piece = memoryview(data)[start:]
    assert kernels.crc32(piece) == zlib.crc32(piece)
    if kernels.extension() is not None:
        assert kernels.extension().crc32(piece) == zlib.crc32(piece)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cuts", [[], [BLOCK], [3], [0, 0, 3, 11, 12, 13, 29], [1, 2, 3, 4, 5, 6]])
def test_the_bytes_of_one_build(tmp_path: Path, cuts: list[int], threads: int, no_leaks: None) -> None:
    values = np.random.default_rng(0).standard_normal((30, WIDE)).astype(np.float32)
    *paths, whole = pieces(tmp_path, values, cuts)
    report = qstore.concat(paths, tmp_path / "out.h5", threads=threads)
    assert (tmp_path / "out.h5").read_bytes() == unmeasured(whole)
    with qstore.open(whole) as store:
        assert report.content_id == store.content_id
    assert (report.rows, report.dim) == (30, WIDE)
    assert report.file_bytes == len(unmeasured(whole))
    assert not list(tmp_path.glob("*.tmp"))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_rows_of_any_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", BLOCK * 16)
    values = np.random.default_rng(1).standard_normal((30, 16)).astype(np.float16)
    cuts = sorted(data.draw(st.lists(st.integers(0, 30), max_size=4)))
    first, last = sorted(data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
    *paths, _ = pieces(tmp_path, values, cuts, overwrite=True)
    qstore.concat(paths, tmp_path / "out.h5", rows=(first, last), overwrite=True)
    qstore.build(values, tmp_path / "cut.h5", rows=(first, last), overwrite=True)
    assert (tmp_path / "out.h5").read_bytes() == unmeasured(tmp_path / "cut.h5")


def test_no_rows(tmp_path: Path) -> None:
    *paths, whole = pieces(tmp_path, np.empty((0, 5)), [0])
    qstore.concat(paths, tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_bytes() == unmeasured(whole)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_keys_go_along(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((300, 7))
    keys: list[Any] = [f"wört {row}" if kind == "text" else 5 * row - 99 for row in range(300)]
    *paths, whole = pieces(tmp_path, values, [100, 101, 250], keys=keys)
    qstore.concat(paths, tmp_path / "out.h5")
    assert (tmp_path / "out.h5").read_bytes() == unmeasured(whole)
    qstore.concat(paths, tmp_path / "out.h5", rows=(90, 260), overwrite=True)
    qstore.build(values[90:260], tmp_path / "cut.h5", keys=keys[90:260])
    assert (tmp_path / "out.h5").read_bytes() == unmeasured(tmp_path / "cut.h5")
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.concat([whole, whole], tmp_path / "twice.h5")
    qstore.concat([whole, whole], tmp_path / "twice.h5", duplicates="first")
    with qstore.open(tmp_path / "twice.h5") as store:
        assert store.rows_of([keys[7]]).tolist() == [7]
        assert store.verify().ok
    qstore.build(values, tmp_path / "bare.h5")
    with pytest.raises(qstore.FormatError, match="has no keys, expected keys of kind"):
        qstore.concat([whole, tmp_path / "bare.h5"], tmp_path / "mixed.h5")
    qstore.concat([whole, tmp_path / "bare.h5"], tmp_path / "mixed.h5", keys=False)
    with qstore.open(tmp_path / "mixed.h5") as store:
        assert store.key_kind is None


def test_attributes_are_kept_where_all_agree(tmp_path: Path) -> None:
    for name, tensor, dtype in (
        ("a", "words", np.float32),
        ("b", "words", np.float16),
        ("c", "x", np.float32),
    ):
        with qstore.Writer(tmp_path / f"{name}.h5", 3, tensor=tensor) as writer:
            writer.append(np.eye(3, dtype=dtype))
    for names, expected in (("ab", ("words", "")), ("ac", ("", "float32")), ("aa", ("words", "float32"))):
        qstore.concat([tmp_path / f"{name}.h5" for name in names], tmp_path / "out.h5", overwrite=True)
        with qstore.open(tmp_path / "out.h5") as store:
            assert (store.tensor, store.source_dtype) == expected
            assert store.shape == (6, 3)


def test_codes_that_were_never_quantized_here(tmp_path: Path) -> None:
    """Codes of 0 and odd scales stay as they are."""
    codes, scales = np.zeros((5, 4), np.uint8), np.array([0.0, 5e-324, 1.0, 1e300, 0.1])
    with qstore.Writer(tmp_path / "a.h5", 4) as writer:
        writer.append_codes(codes, scales)
    qstore.concat([tmp_path / "a.h5"] * 2, tmp_path / "b.h5")
    with qstore.open(tmp_path / "b.h5") as store:
        np.testing.assert_array_equal(store.codes, np.zeros((10, 4)))
        np.testing.assert_array_equal(store.scales, np.tile(scales, 2))


def test_directories_and_patterns(tmp_path: Path, matrix: NDArray[Any]) -> None:
    (tmp_path / "x").mkdir()
    *_, whole = pieces(tmp_path / "x", matrix, [100, 2000])
    qstore.publish_shards(tmp_path / "x", ["0.h5", "1.h5", "2.h5"])
    sources: list[list[Any]] = [[tmp_path / "x"], [str(tmp_path / "x" / "[0-9].h5")]]
    for source in sources:
        qstore.concat(source, tmp_path / "out.h5", overwrite=True)
        assert (tmp_path / "out.h5").read_bytes() == unmeasured(whole)
    assert qstore.concat([tmp_path / "x", whole], tmp_path / "two.h5").files == 4


# What cannot be joined ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["codes", "scales", "keys/bytes", "keys/offsets"])
@pytest.mark.parametrize("threads", [1, 2])
def test_damage_is_found_and_not_copied(tmp_path: Path, dataset: str, threads: int) -> None:
    values = np.random.default_rng(0).standard_normal((30, WIDE)).astype(np.float16)
    one, two, _ = pieces(tmp_path, values, [11], keys=[f"w{row}" for row in range(30)])
    from qstore.opening import describe_file

    extent = describe_file(str(two)).extents[dataset]
    content = bytearray(two.read_bytes())
    content[extent.offset + extent.size // 2] ^= 1
    two.write_bytes(content)
    with pytest.raises(qstore.FormatError, match=r"1\.h5: (block \d+ differs from its checksum|/keys/)"):
        qstore.concat([one, two], tmp_path / "out.h5", threads=threads)
    assert sorted(os.listdir(tmp_path)) == ["0.h5", "1.h5", "whole.h5"]


@pytest.mark.parametrize(
    ("names", "options", "error", "message"),
    [
        ([], {}, qstore.SourceError, "expected a list of stores"),
        ("a.h5", {}, qstore.SourceError, "expected a list of stores"),
        (["a.h5", "odd.h5"], {}, qstore.FormatError, r"odd\.h5 has 4 columns, expected 3"),
        (["a.h5", "notes.txt"], {}, qstore.FormatError, "not an HDF5 file"),
        (["a.h5", "none.h5"], {}, FileNotFoundError, "none"),
        (["a.h5"], {"rows": (2, 9)}, qstore.SourceError, "rows ends at 9, but the source has 3"),
        (["a.h5"], {"rows": slice(0, 3, 2)}, qstore.SourceError, "step"),
        (["a.h5"], {"path": "a.h5", "overwrite": True}, qstore.SourceError, "both a source and the output"),
        (["a.h5"], {"path": "odd.h5"}, qstore.ExistsError, r"odd\.h5 exists"),
        (["a.h5"], {"path": "nowhere/out.h5"}, qstore.OutputError, "there is no directory"),
    ],
)
def test_refusals(
    tmp_path: Path, names: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")
    qstore.build(np.eye(4), tmp_path / "odd.h5")
    (tmp_path / "notes.txt").write_text("some notes")
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    sources = names if isinstance(names, str) else [tmp_path / name for name in names]
    target = tmp_path / options.pop("path", "out.h5")
    with pytest.raises(error, match=message):
        qstore.concat(sources, target, **options)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("failing", ["write_all", "publish"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    qstore.build(np.eye(3), tmp_path / "a.h5")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable_files, failing, full)
    with pytest.raises(qstore.OutputError, match=r"cannot write .*out\.h5: No space left"):
        qstore.concat([tmp_path / "a.h5"], tmp_path / "out.h5", threads=2)
    assert os.listdir(tmp_path) == ["a.h5"]


KILLED = """\
import os, sys, qstore
step, count, write = int(sys.argv[1]), 0, os.pwrite
def counted(name, call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return call(*arguments, **options)
    return run
for name in ("pwrite", "fsync", "replace"):
    setattr(os, name, counted(name, getattr(os, name)))
qstore.concat(["a.h5", "a.h5"], "out.h5", overwrite=True, threads=1)
"""


def test_killed_at_every_step(tmp_path: Path) -> None:
    """The name holds the old file or the new one, each whole."""
    qstore.build(np.eye(3), tmp_path / "a.h5")
    with forked(KILLED, tmp_path) as concat:
        for step in range(1, 60):
            qstore.build(np.eye(3), tmp_path / "out.h5", overwrite=True)
            status = concat(step)
            with qstore.open(tmp_path / "out.h5") as store:
                assert store.verify().ok
                assert len(store) in (3, 6)
            if status == 0:
                break
            assert status == 9
    assert 5 < step < 59


def test_command(tmp_path: Path, matrix: NDArray[Any], capsys: pytest.CaptureFixture[str]) -> None:
    *paths, whole = pieces(tmp_path, matrix, [100])
    out = str(tmp_path / "out.h5")
    assert main(["concat", *map(str, paths), "-o", out]) == 0
    assert "3,001 × 48, from 2 files" in capsys.readouterr().out
    assert Path(out).read_bytes() == unmeasured(whole)
    assert main(["concat", str(whole), "-o", out]) == 2
    assert main(["concat", str(whole), "-o", out, "--force", "--json", "--rows", "-10:"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 10
