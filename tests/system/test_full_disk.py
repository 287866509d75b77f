"""A disk without room: the error says how much is needed and how much is free, as far as it can be known."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.system import durable_files

VALUES = np.ones((1000, 64), np.float32)
NEEDED = r"cannot write .*: No space left on device: ([\d,]+) bytes more are needed, ([\d,]+) are free; free"


def no_room(fd: int, size: int) -> bool:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize("reserves", [True, False], ids=["fallocate", "no fallocate"])
def test_where_the_size_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reserves: bool) -> None:
    whole = qstore.plan(VALUES, tmp_path / "x.h5").file_bytes or 0
    status = os.statvfs(tmp_path)
    free = 4 * status.f_frsize
    full = os.statvfs_result((*status[:4], 4, *status[5:]))
    monkeypatch.setattr(durable_files, "_fallocate", no_room if reserves else lambda fd, size: False)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: full)
    with pytest.raises(qstore.OutputError, match=NEEDED) as caught:
        qstore.build(VALUES, tmp_path / "x.h5")
    assert caught.value.errno == errno.ENOSPC
    match = re.search(NEEDED, str(caught.value))
    assert match is not None
    assert number(match[2]) == free
    assert 64_000 < number(match[1]) <= whole
    assert os.listdir(tmp_path) == []


def test_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a stream, and what is written beside the rows."""

    def fail(*_: Any) -> None:
        no_room(0, 0)

    monkeypatch.setattr(durable_files, "free_bytes", lambda directory: 4096)
    monkeypatch.setattr(durable_files, "write_all", fail)
    with pytest.raises(qstore.OutputError, match="No space left on device: 4,096 bytes are free; free some"):
        qstore.build(iter([VALUES]), tmp_path / "x.h5")


def test_other_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qstore.build(VALUES, tmp_path / "x.h5")
    monkeypatch.setattr(durable_files, "_fallocate", no_room)
    with qstore.open(tmp_path / "x.h5") as store, pytest.raises(qstore.OutputError, match=NEEDED):
        qstore.export(store, tmp_path / "x.npy")
    with pytest.raises(qstore.OutputError, match=NEEDED):
        qstore.concat([tmp_path / "x.h5"], tmp_path / "y.h5")
    assert os.listdir(tmp_path) == ["x.h5"]


def test_plans_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "m.npz", a=VALUES, b=VALUES)
    one = qstore.plan(VALUES, tmp_path / "x.h5").file_bytes
    assert one is not None
    for free, fits in ((one - 1, False), (one, True)):
        monkeypatch.setattr(durable_files, "free_bytes", lambda directory, free=free: free)
        if fits:
            plan = qstore.plan(VALUES, tmp_path / "x.h5")
            assert (plan.file_bytes, plan.free_bytes) == (one, one)
            continue
        with pytest.raises(qstore.OutputError, match=NEEDED):
            qstore.plan(VALUES, tmp_path / "x.h5")
        with pytest.raises(qstore.OutputError, match=NEEDED):
            qstore.plan(VALUES, tmp_path / "x.h5", keys=range(1000))  # at least so much
    with pytest.raises(qstore.OutputError, match=NEEDED):
        qstore.plan_all(tmp_path / "m.npz", tmp_path / "out")
    with pytest.raises(qstore.OutputError, match=NEEDED):
        qstore.plan_shards(VALUES, tmp_path / "out", 300)
    assert os.listdir(tmp_path) == ["m.npz"]


def test_what_is_reserved_already_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.h5.partial").write_bytes(bytes(1 << 20))
    taken = os.stat(tmp_path / "x.h5.partial").st_blocks * 512
    if taken < 1 << 20:
        pytest.skip("this file system keeps zeros in less room")
    monkeypatch.setattr(durable_files, "free_bytes", lambda directory: 0)
    assert qstore.plan(VALUES, tmp_path / "x.h5").free_bytes == 0


def test_free_bytes_of_what_is_to_be_made(tmp_path: Path) -> None:
    assert durable_files.free_bytes(tmp_path / "a" / "b") is not None
