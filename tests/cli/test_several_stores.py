"""ls, info, verify and stats of several stores: named one by one, or by the directory they lie in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run

import qstore

NAMES = ["table.2", "table.10", "a/b"]
FILES = ["a%2Fb.h5", "table.2.h5", "table.10.h5"]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A directory of three stores, and something else."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {name: rng.standard_normal((9, 4)).astype("f4") for name in NAMES}
    np.savez(tmp_path / "model.npz", **arrays)
    qstore.build_all(tmp_path / "model.npz", tmp_path / "tables")
    (tmp_path / "tables" / "notes.txt").write_text("not a store")
    return tmp_path / "tables"


def paths(tables: Path) -> list[str]:
    return [str(tables / name) for name in FILES]


def test_ls(run: Run, tables: Path) -> None:
    result = run("ls", tables)
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["file", "name", "shape", "dtype", "bytes"]
    assert [line.split()[0] for line in lines[1:]] == paths(tables)
    found = json.loads(run("ls", tables, "--json").out)
    assert [(one["path"], one["name"], one["dtype"]) for one in found] == [
        (path, name, "qstore")
        for path, name in zip(paths(tables), ["a/b", "table.2", "table.10"], strict=True)
    ]
    both = json.loads(run("ls", tables / FILES[0], tables.parent / "model.npz", "--json").out)
    assert sorted(one["name"] for one in both) == sorted(["a/b", *NAMES])
    assert run("ls", tables / FILES[0]).out.splitlines()[0].split() == ["name", "shape", "dtype", "bytes"]


@pytest.mark.parametrize("command", ["info", "stats", "verify"])
def test_a_directory_is_its_stores(run: Run, tables: Path, command: str) -> None:
    listed = run(command, tables)
    assert (listed.status, listed.err) == (0, "")
    assert listed == run(command, *paths(tables))
    assert listed.out == "\n".join(run(command, path).out for path in paths(tables))
    several = json.loads(run(command, tables, "--json").out)
    assert several == [json.loads(run(command, path, "--json").out) for path in paths(tables)]
    assert [one["path"] for one in several] == paths(tables)


def test_one_store_in_a_directory_is_a_list_too(run: Run, tables: Path) -> None:
    for name in FILES[1:]:
        os.unlink(tables / name)
    assert isinstance(json.loads(run("info", tables, "--json").out), list)
    assert isinstance(json.loads(run("info", tables / FILES[0], "--json").out), dict)


def test_verify_against_a_source_of_several_tensors(run: Run, tables: Path) -> None:
    model = tables.parent / "model.npz"
    assert run("verify", tables, "--against", model, "-q").status == 0
    found = json.loads(run("verify", *paths(tables), "--against", model, "--json").out)
    assert [one["against"]["ok"] for one in found] == [True] * 3
    os.replace(tables / FILES[0], tables / FILES[1])  # a store under another's name knows what it is
    assert run("verify", tables, "--against", model, "-q").status == 0


def test_what_is_broken_is_told_and_the_others_are_looked_at(run: Run, tables: Path) -> None:
    (tables / FILES[0]).write_bytes(b"no store")
    for command in ("info", "stats", "verify"):
        result = run(command, tables, "--json")
        assert result.status == 2
        assert FILES[0] in result.err
        assert [one["path"] for one in json.loads(result.out)] == paths(tables)[1:]
    with (tables / FILES[1]).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.unlink(tables / FILES[0])
    result = run("verify", tables)
    assert result.status == 1
    assert "broken" in result.out
    assert f"{tables / FILES[2]}: 9 rows" in result.out


def test_shards_are_one_store(run: Run, tables: Path) -> None:
    qstore.publish_shards(tables, FILES)
    found = json.loads(run("info", tables, "--json").out)
    assert (found["rows"], found["shards"]) == (27, 3)


def test_a_directory_without_stores(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for command in ("info", "stats", "verify", "ls"):
        result = run(command, tmp_path / "empty")
        assert (result.status, result.out) == (2, "")


def test_opening_such_a_directory_says_what_to_do(tables: Path) -> None:
    with pytest.raises(
        qstore.FormatError, match=r"open one of its 3 files ending in \.h5, such as 'a%2Fb\.h5'"
    ):
        qstore.open(tables)
