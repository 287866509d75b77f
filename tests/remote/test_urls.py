"""What is a URL, what may be done with one, and which libraries it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from range_server import RangeServer
from remote_stores import ROWS

import qstore
from qstore.system.urls import is_url

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.mark.parametrize("module", ["fsspec", "aiohttp"])
def test_a_missing_library_is_named(module: str) -> None:
    script = f"""\
import sys, qstore
sys.modules[{module!r}] = None
try:
    qstore.open("https://127.0.0.1/x")
except qstore.MissingExtraError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 'pip install "qstore[remote]"' in run.stdout


def test_what_is_a_url() -> None:
    assert is_url("s3://bucket/x.h5")
    assert is_url("simplecache::https://host/x.h5")
    for path in ("x.h5", "/a://b", "file:///x.h5", "a/b://c", "C:\\x.h5", Path("s3://x")):
        assert not is_url(path)


def test_a_url_is_no_pattern_and_goes_alone(
    url: str, path: Path, server: RangeServer, tmp_path: Path
) -> None:
    with pytest.raises(qstore.RemoteNotFoundError):
        qstore.open(server.url("part-*.h5"))
    with pytest.raises(qstore.RemoteError, match="is a URL, expected a file of this machine"):
        qstore.open([path, url])
    with pytest.raises(qstore.RemoteError, match="is a URL, expected a file of this machine"):
        qstore.concat([url], tmp_path / "out.h5")
    assert not list(tmp_path.iterdir())
    with qstore.open([f"file://{path}", path]) as store:
        assert len(store) == 2 * ROWS
    with qstore.open(f"file://{path.parent}/sto*.h5") as store:
        assert len(store) == ROWS


def test_storage_options_need_a_url(path: Path) -> None:
    with pytest.raises(ValueError, match="storage_options are for URLs"):
        qstore.open(path, storage_options={"anon": True})


def test_local_stores_need_no_fsspec(path: Path) -> None:
    script = "import sys, qstore; qstore.open(sys.argv[1])[0]; print({'fsspec', 'aiohttp'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
