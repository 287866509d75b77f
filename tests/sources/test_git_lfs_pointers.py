"""Git LFS pointers in the place of any file that is read: named, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import refused
from word_files import VALUES

import qstore
from qstore.cli import main
from qstore.errors import FormatError, QStoreError, SourceError
from qstore.sources import FORMATS, RawSource

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 2336927\n" % 7
NAMED = "is a Git LFS pointer in the place of the file: run git lfs pull"
SUFFIXES = sorted(
    {suffix for known in FORMATS for suffix in known.suffixes} | {".unknown", "", ".txt.gz", ".zip"}
)


def place(path: Path, content: bytes = POINTER) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sources(tmp_path: Path, suffix: str) -> None:
    path = place(tmp_path / f"model{suffix}")
    refused(path, f"{path} {NAMED}")
    with pytest.raises(SourceError, match=NAMED):
        qstore.list_tensors(path)
    with pytest.raises(SourceError, match=NAMED):
        qstore.build([path, path], tmp_path / "store.h5")


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ],
)
def test_directories(tmp_path: Path, name: str) -> None:
    path = place(tmp_path / name)
    refused(tmp_path, f"{path} {NAMED}")


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.json", "model-1.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model-1.bin"),
    ],
)
def test_files_of_an_index(tmp_path: Path, index: str, shard: str) -> None:
    """Indexes are small, and often in Git itself."""
    place(tmp_path / index, json.dumps({"weight_map": {"w": shard}}).encode())
    path = place(tmp_path / shard)
    refused(tmp_path, f"{path} {NAMED}")
    refused(tmp_path, f"{path} {NAMED}", tensor="w")


def test_raw(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=NAMED):
        RawSource(place(tmp_path / "x.raw"), "uint8", 1)


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.json", "tokenizer.json", "ids.npy", "keys"])
def test_key_files(tmp_path: Path, name: str) -> None:
    """A pointer has three lines: three keys for three rows."""
    keys = place(tmp_path / name)
    for way in (qstore.build, qstore.plan):
        with pytest.raises(SourceError, match=f"{name} {NAMED}"):
            way(VALUES, tmp_path / "store.h5", keys=keys)
    with pytest.raises(SourceError, match=NAMED):
        qstore.build_shards(VALUES, tmp_path / "shards", 2, keys=keys)
    qstore.build(VALUES, tmp_path / "store.h5", keys=["a", "b", "c"])
    with qstore.open(tmp_path / "store.h5") as store, pytest.raises(SourceError, match=NAMED):
        qstore.verify_against(store, VALUES, keys=keys)


# --------------------------------------------------------------------------- stores

STORE = "this is a Git LFS pointer in the place of the file: run git lfs pull"


def test_stores(tmp_path: Path) -> None:
    path = place(tmp_path / "store.h5")
    qstore.build(VALUES, tmp_path / "good.h5")
    ways: list[Callable[[], Any]] = [
        lambda: qstore.open(path),
        lambda: qstore.open([tmp_path / "good.h5", path]),
        lambda: qstore.open(str(tmp_path / "*.h5")),
        lambda: qstore.concat([tmp_path / "good.h5", path], tmp_path / "all.h5"),
        lambda: qstore.compare(tmp_path / "good.h5", path),
        lambda: qstore.publish_shards(tmp_path),
        lambda: qstore.export(path, tmp_path / "x.npy"),
    ]
    for way in ways:
        with pytest.raises(FormatError, match=STORE):
            way()


def test_shards_and_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    qstore.build_shards(VALUES, folder, 2)
    manifest = (folder / "qstore.json").read_bytes()
    place(folder / "part-00001.h5")
    with pytest.raises(
        qstore.ShardError, match=r"part-00001.h5 \(expected \d+ bytes, found a Git LFS pointer"
    ):
        qstore.open(folder)
    place(folder / "qstore.json")
    with pytest.raises(FormatError, match=f"qstore.json: {STORE}"):
        qstore.open(folder)
    place(folder / "qstore.json", manifest[:-9])
    with pytest.raises(FormatError, match="expected JSON, found something else"):
        qstore.open(folder)


def test_behind_a_url(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    path = place(tmp_path / "store.h5")
    pytest.importorskip("aiohttp")
    sys.path.append(str(Path(__file__).parents[2] / "tools"))
    from range_server import serving

    with serving() as server:
        server.objects["store.h5"] = path.read_bytes()
        with pytest.raises(FormatError, match=rf"{STORE}.*/resolve/ in the place of /raw/"):
            qstore.open(server.url("store.h5"))


def test_other_files_are_what_they_were(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"not an HDF5 file .*qstore ls .*qstore build"):
        qstore.open(place(tmp_path / "x.h5", b"version 1 of something\n"))
    assert (
        qstore.build(VALUES, tmp_path / "s.h5", keys=place(tmp_path / "k.txt", b"version\noid\nsize\n")).rows
        == 3
    )


# ---------------------------------------------------------------------- the command


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, path, npy = tmp_path / "good.h5", place(tmp_path / "p"), tmp_path / "m.npy"
    np.save(npy, VALUES)
    qstore.build(VALUES, good)
    qstore.build_shards(VALUES, tmp_path / "shards", 2)
    place(tmp_path / "shards" / "qstore.json")
    out = tmp_path / "out.h5"
    for words in (
        ("build", path, "-o", out),
        ("build", path, "-o", out, "--raw", "uint8:1"),
        ("build", npy, "-o", out, "--keys", path),
        ("build", npy, "-o", f"{tmp_path}/shards2", "--shard-rows", 2, "--keys", path),
        ("ls", path),
        ("ls", tmp_path / "shards"),
        ("info", path),
        ("get", path, 0),
        ("search", good, "--vector", path),
        ("search", path, "--row", 0),
        ("verify", path),
        ("verify", good, "--against", path),
        ("verify", good, "--against", npy, "--keys", path),
        ("stats", path),
        ("compare", good, path),
        ("concat", path, good, "-o", out),
        ("append", tmp_path / "shards", good),
        ("export", path, "-o", tmp_path / "x.npy"),
    ):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2, words
        shown = capsys.readouterr().err
        assert "Git LFS pointer in the place of the file: run git lfs pull" in shown, words
        assert not out.exists()


# ----------------------------------------------------------------------- the remedy


def git(home: Path, folder: str, *words: str) -> None:
    # As on a machine where nothing of Git is set up but the filters of Git LFS.
    environment = {
        **os.environ,
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": str(home / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    subprocess.run(["git", *words], cwd=home / folder, env=environment, check=True, capture_output=True)


@pytest.mark.skipif(
    shutil.which("git") is None or shutil.which("git-lfs") is None, reason="Git LFS is not installed"
)
def test_git_lfs_pull(tmp_path: Path) -> None:
    work, clone = tmp_path / "work", tmp_path / "clone"
    work.mkdir()
    git(tmp_path, ".", "lfs", "install", "--skip-repo")
    git(tmp_path, ".", "config", "--global", "user.email", "a@b.c")
    git(tmp_path, ".", "config", "--global", "user.name", "a")
    git(tmp_path, ".", "init", "--bare", "origin")
    git(tmp_path, "work", "init")
    git(tmp_path, "work", "lfs", "track", "*.npy", "*.h5", "vocab.txt")
    np.save(work / "m.npy", VALUES)
    qstore.build(VALUES, work / "store.h5")
    (work / "vocab.txt").write_text("a\nb\nc\n")
    git(tmp_path, "work", "add", ".")
    git(tmp_path, "work", "commit", "-m", "all")
    git(tmp_path, "work", "remote", "add", "origin", str(tmp_path / "origin"))
    git(tmp_path, "work", "push", "origin", "HEAD:refs/heads/main")
    git(tmp_path, ".", "clone", "-b", "main", str(tmp_path / "origin"), "clone")
    with pytest.raises(QStoreError, match="run git lfs pull"):
        qstore.open(clone / "store.h5")
    with pytest.raises(QStoreError, match="run git lfs pull"):
        qstore.build(clone / "m.npy", tmp_path / "s.h5")
    with pytest.raises(QStoreError, match="run git lfs pull"):
        qstore.build(VALUES, tmp_path / "s.h5", keys=clone / "vocab.txt")
    git(tmp_path, "clone", "lfs", "pull")
    qstore.build(clone / "m.npy", tmp_path / "s.h5", keys=clone / "vocab.txt")
    with qstore.open(clone / "store.h5") as store:
        assert qstore.verify_against(store, clone / "m.npy").ok
