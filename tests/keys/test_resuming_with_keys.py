"""An interrupted build or writer goes on with its keys, and not with others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.format.checksums import crc32
from qstore.keys import packed
from qstore.writing import journal


class Stop(Exception):
    """Interrupts a build."""


def interrupted(values: NDArray[Any], path: Path, keys: Any) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= len(values) // 2:
            raise Stop

    with pytest.raises(Stop):
        qstore.build(values, path, keys=keys, progress=stop, threads=1)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_a_build_goes_on_with_its_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 64 * 4)
    values = np.random.default_rng(2).standard_normal((1000, 4)).astype(np.float32)
    keys: list[Any] = [f"w{row}" if kind == "text" else row * 3 for row in range(1000)]
    qstore.build(values, tmp_path / "expected.h5", keys=keys)
    interrupted(values, tmp_path / "store.h5", keys)
    report = qstore.build(values, tmp_path / "store.h5", keys=keys)
    assert 400 < report.rows_resumed < 1000
    assert report.key_kind == kind
    assert (tmp_path / "store.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


def test_a_build_does_not_go_on_with_other_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 64 * 4)
    values = np.random.default_rng(2).standard_normal((1000, 4)).astype(np.float32)
    keys = [f"w{row}" for row in range(1000)]
    interrupted(values, tmp_path / "store.h5", keys)
    for other in (["x", *keys[1:]], list(range(1000)), None):
        with pytest.raises(qstore.ResumeError):
            qstore.build(values, tmp_path / "store.h5", keys=other)
    interrupted(values, tmp_path / "bare.h5", None)
    with pytest.raises(qstore.ResumeError):
        qstore.build(values, tmp_path / "bare.h5", keys=keys)
    qstore.build(values, tmp_path / "store.h5", keys=list(range(1000)), resume=False)
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_kind == "integer"


def test_a_writer_goes_on_in_a_block_that_was_not_whole(tmp_path: Path) -> None:
    keys = [f"w{row}" for row in range(30)]
    values = np.arange(60.0).reshape(30, 2)
    writer = qstore.Writer(tmp_path / "store.h5", 2, resume=True)
    writer.append(values[:20], keys=keys[:20])
    (tmp_path / "store.h5").write_bytes(b"in the way")
    with pytest.raises(qstore.ExistsError):
        writer.close()
    (tmp_path / "store.h5").unlink()
    with qstore.Writer(tmp_path / "store.h5", 2, resume=True) as writer:
        assert (writer.rows, writer.key_kind) == (20, "text")
        writer.append(values[20:], keys=keys[20:])
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_of(slice(None)) == keys
        assert store.verify().ok


def test_a_journal_keeps_keys_with_their_block(tmp_path: Path) -> None:
    made = journal.Journal(tmp_path / "journal")
    made.start({"a": 1})
    blocks = [packed.packed(["é", ""]), packed.packed([1, -2]), None]
    for number, block in enumerate(blocks):
        made.append(journal.BlockRecord(2, number, 3, np.array([1.0, 2.0]), block))
    found = list(made.records(2))
    assert [record.rows for record in found] == []  # the checksums of the scales are made up
    made.start({"a": 1})
    scales = np.array([1.0, 2.0])
    for block in blocks:
        made.append(journal.BlockRecord(2, 5, crc32(scales), scales, block))
    whole = os.fstat(made.fd).st_size
    assert [record.keys and record.keys.payload() for record in made.records(2)] == [
        block and block.payload() for block in blocks
    ]
    for size in range(whole):  # cut anywhere: a block with all of its keys, or no such block
        os.truncate(tmp_path / "journal", size)
        for record, block in zip(made.records(2), blocks, strict=False):
            assert (record.keys and record.keys.payload()) == (block and block.payload())
    made.close()
