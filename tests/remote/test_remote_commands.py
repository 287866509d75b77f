"""Commands take URLs: the same output as for a file, and the same errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from range_server import RangeServer
from remote_stores import ROWS

from qstore.cli import main

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def test_commands(url: str, path: Path, server: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["info", "--json"], ["get", "7", "100:103", "-1"], ["verify", "--json"]):
        printed = []
        for place in (str(path), url):
            assert main([command[0], place, *command[1:]]) == 0
            printed.append(capsys.readouterr().out.replace(place, "PLACE"))
        assert printed[0] == printed[1]
    assert json.loads(printed[0])["ok"]
    assert main(["get", url, str(ROWS)]) == 2
    assert f"index {ROWS} is out of bounds for axis 0 with size {ROWS}" in capsys.readouterr().err
    server.misbehave("ignore ranges")
    for command in (["info"], ["get", "7"], ["verify"]):
        assert main([command[0], url, *command[1:]]) == 2
        assert "the server ignores ranges" in capsys.readouterr().err
