"""publish_shards and append_shards: atomic, whatever stops them and whoever else appends."""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked_programs import forked
from numpy.typing import NDArray
from sharded_stores import DIM, ROWS, make_shards, published

import qstore


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    return published(tmp_path / "shards", matrix)


def test_publish(tmp_path: Path, matrix: NDArray[Any]) -> None:
    folder = tmp_path / "x"
    names = make_shards(folder, matrix)
    shards = qstore.publish_shards(folder, names[::-1])
    assert [os.path.basename(shard.path) for shard in shards] == names[::-1]
    before = (folder / "qstore.json").stat()
    assert qstore.publish_shards(folder, names[::-1]) == shards
    assert (folder / "qstore.json").stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(qstore.ExistsError, match=r"qstore\.json exists"):
        qstore.publish_shards(folder, names)
    assert qstore.publish_shards(folder, names, overwrite=True)[0].path == str(folder / names[0])
    assert sorted(os.listdir(folder)) == sorted([*names, "qstore.json"])


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], qstore.SourceError, "name at least one"),
        (["part-0.h5", "part-0.h5"], qstore.FormatError, "stands twice"),
        (["nothing.h5"], qstore.OutputError, "cannot publish .*nothing.h5: No such file"),
        (["../x/part-0.h5"], qstore.FormatError, "cannot be the name of a shard"),
        (["notes.txt"], qstore.FormatError, "not an HDF5 file"),
        (["link.h5"], qstore.OutputError, "a link, expected a file"),
        ("part-0.h5", TypeError, "expected a list of file names"),
    ],
)
def test_publish_refuses(
    tmp_path: Path, matrix: NDArray[Any], names: Any, error: type[Exception], message: str
) -> None:
    folder = tmp_path / "x"
    make_shards(folder, matrix, (0, 5))
    (folder / "notes.txt").write_text("some notes")
    (folder / "link.h5").symlink_to(folder / "part-0.h5")
    with pytest.raises(error, match=message):
        qstore.publish_shards(folder, names)
    assert not (folder / "qstore.json").exists()
    qstore.publish_shards(folder, ["part-0.h5"])
    if names and "part-0.h5" not in names:
        with pytest.raises(error, match=message):
            qstore.append_shards(folder, names)


def test_publish_nothing(tmp_path: Path) -> None:
    with pytest.raises(qstore.SourceError, match=r"holds no \*\.h5"):
        qstore.publish_shards(tmp_path)
    with pytest.raises(qstore.OutputError, match="No such file"):
        qstore.publish_shards(tmp_path / "nowhere")


def test_append(folder: Path, matrix: NDArray[Any]) -> None:
    with qstore.open(folder) as old:
        qstore.build(matrix[:10], folder / "more.h5")
        shards = qstore.append_shards(folder, ["more.h5"])
        assert (shards[-1].first, shards[-1].rows) == (ROWS, 10)
        assert len(old) == ROWS
        with qstore.open(folder) as new:
            assert len(new) == ROWS + 10
            np.testing.assert_array_equal(new[ROWS:], old[:10])
    with pytest.raises(qstore.FormatError, match="is a shard already"):
        qstore.append_shards(folder, ["more.h5"])
    qstore.build(np.eye(3), folder / "odd.h5")
    with pytest.raises(qstore.FormatError, match="has 3 columns, expected 48"):
        qstore.append_shards(folder, ["odd.h5"])
    (folder / "qstore.json").unlink()
    with pytest.raises(qstore.FormatError, match="there is no manifest"):
        qstore.append_shards(folder, ["more.h5"])


def test_appenders_do_not_lose_each_others_shards(folder: Path) -> None:
    names = [f"new-{number}.h5" for number in range(12)]
    for number, name in enumerate(names):
        qstore.build(np.full((3, DIM), number, np.float32), folder / name)
    append = functools.partial(qstore.append_shards, folder)
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(append, [[name] for name in names]))
    with qstore.open(folder) as store:
        assert len(store) == ROWS + 36
        assert sorted(store[ROWS::3, 0].tolist()) == list(range(12))


KILLED = """\
import os, sys, qstore
folder, step = sys.argv[1], int(sys.argv[2])
count = 0
def counted(name, call):
    def run(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return call(*arguments, **options)
    return run
for name in ("fsync", "replace", "open"):
    setattr(os, name, counted(name, getattr(os, name)))
{call}
"""


@pytest.mark.parametrize(
    "call", ["append_shards(folder, ['more.h5'])", "publish_shards(folder, overwrite=True)"]
)
def test_killed_at_every_step(folder: Path, matrix: NDArray[Any], call: str) -> None:
    """Readers see the old manifest or the new one, and the same command again ends well."""
    qstore.build(matrix[:10], folder / "more.h5")
    old = (folder / "qstore.json").read_bytes()
    script = KILLED.replace("{call}", f"qstore.{call}")
    with forked(script, folder) as publish:
        for step in range(1, 100):
            (folder / "qstore.json").write_bytes(old)
            status = publish(folder, step)
            with qstore.open(folder) as store:
                assert len(store) in (ROWS, ROWS + 10)
                store[:]
            if status == 0:
                break
            assert status == 9
    assert 4 < step < 99
    (folder / "qstore.json").write_bytes(old)
    qstore.append_shards(folder, ["more.h5"])
    assert sorted(os.listdir(folder)) == sorted(
        [*(f"part-{n}.h5" for n in range(6)), "more.h5", "qstore.json"]
    )


def test_a_full_disk_publishes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = (folder / "qstore.json").read_bytes()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(qstore.OutputError, match=r"cannot write .*qstore\.json: No space left"):
        qstore.publish_shards(folder, ["part-0.h5"], overwrite=True)
    assert (folder / "qstore.json").read_bytes() == old
    assert not list(folder.glob("*.tmp"))
