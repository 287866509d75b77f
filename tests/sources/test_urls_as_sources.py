"""URLs where a file of this machine is expected: what is said, and that what is said works.

What is read behind URLs is in test_sources_behind_urls.py.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.cli import main
from qstore.errors import OutputError, SourceError
from qstore.sources import RawSource

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from range_server import RangeServer, serving

VALUES = np.random.default_rng(5).standard_normal((20, 4)).astype(np.float32)
URLS = [
    "https://host/m.npy",
    "s3://bucket/m.npy",
    "hf://owner/model/m.safetensors",
    "https://host/m.npy?x=[1]",
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    qstore.build(VALUES, tmp_path / "store.h5")
    return tmp_path / "store.h5"


def words(url: str) -> str:
    shown = url.partition("?")[0] + ("?…" if "?" in url else "")
    return f"{shown} is a URL: expected a file of this machine; download it first"


@pytest.mark.parametrize("url", URLS)
def test_commands_say_so(url: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.h5")
    for command in (
        ["build", url, "-o", out, "--raw", "float32:4"],
        ["build", url, "-o", str(store), "--raw", "float32:4", "--force"],
        ["build", str(store), "-o", out, "--keys", url],
        ["build", str(store), "-o", out, "--keys", f"{url}.json"],
        ["build", str(store), "-o", out, "--keys", "https://host/m.gguf"],
        ["verify", str(store), "--against", url, "--raw", "float32:4"],
        ["search", str(store), "--vector", url],
    ):
        assert main([*command]) == 2
        error = capsys.readouterr().err
        assert "is a URL: expected a file of this machine; download it first" in error
        assert url not in command or words(url) in error
    assert [one.name for one in tmp_path.iterdir()] == ["store.h5"]


@pytest.mark.parametrize(
    "use",
    [
        lambda url, out: RawSource(url, "float32", 4),
        lambda url, out: qstore.build(VALUES, out, keys=url),
    ],
)
def test_functions_say_so(use: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^https://host/m\.npy is a URL: expected a file of this machine"):
        use("https://me:secret@host/m.npy", tmp_path / "out.h5")


def test_what_is_said_works(server: RangeServer, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    np.savez(tmp_path / "m.npz", VALUES)
    server.objects["m.npz"] = (tmp_path / "m.npz").read_bytes()
    url = f"http://127.0.0.1:{server.server_port}/m.npz"
    with pytest.raises(SourceError, match="download it first, and give its path"):
        qstore.build(url, tmp_path / "out.h5")
    with urllib.request.urlopen(url, timeout=30) as answer:
        (tmp_path / "downloaded.npz").write_bytes(answer.read())
    qstore.build(tmp_path / "downloaded.npz", tmp_path / "out.h5")
    with qstore.open(tmp_path / "out.h5") as found, qstore.open(store) as expected:
        assert np.array_equal(found.codes, expected.codes)


def test_stores_are_read_where_they_are(server: RangeServer, store: Path, tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    server.objects["store.h5"] = store.read_bytes()
    url = f"http://127.0.0.1:{server.server_port}/store.h5"
    with pytest.raises(SourceError, match=r"qstore\.open and qstore info read it where it is"):
        qstore.build(url, tmp_path / "out.h5")
    with qstore.open(url) as remote, qstore.open(store) as local:
        assert np.array_equal(remote[:], local[:])


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving() as running:
        yield running


def test_the_scheme_of_files(tmp_path: Path) -> None:
    """As qstore.open takes it."""
    np.save(tmp_path / "m.npy", VALUES)
    (tmp_path / "keys.txt").write_text("".join(f"{row}\n" for row in range(20)))
    url = f"file://{tmp_path}/m.npy"
    assert qstore.list_tensors(url) == qstore.list_tensors(tmp_path / "m.npy")
    qstore.build(url, tmp_path / "out.h5", keys=f"file://{tmp_path}/keys.txt")
    with qstore.open(f"file://{tmp_path}/out.h5") as store:
        assert store.key_of(19) == "19"


def test_a_file_that_looks_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    np.save(tmp_path / "s3:" / "bucket" / "m.npy", VALUES)
    assert qstore.build("s3://bucket/m.npy", tmp_path / "out.h5").rows == 20


def test_outputs_are_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        OutputError, match="an output is a file of this machine, no URL; write one, and upload it"
    ):
        qstore.build(VALUES, "s3://bucket/out.h5")
    assert main(["build", "memory://bucket/m.npy", "-o", "s3://bucket/out.h5"]) == 2
    with pytest.raises(OutputError, match="there is no directory"):
        qstore.build(VALUES, tmp_path / "a:" / "out.h5")
