"""The parser of the command line: wrong usage, help, version, one module a command."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from commands import Run

import qstore
from qstore.cli import main
from qstore.cli.parser import COMMANDS, find_command, make_parser


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["build", "x.npy"],
        ["build", "x.npy", "-o", "out.h5", "--threads", "0"],
        ["build", "x.npy", "-o", "out.h5", "--rows", "0:9:2"],
        ["build", "x.npy", "-o", "out.h5", "--rows", "5"],
        ["build", "x.npy", "y.npy", "-o", "out/"],
        ["build", "x.npy", "-o", "out.h5", "--forc"],
        ["get", "x.h5"],
        ["get", "x.h5", "queen"],
        ["get", "x.h5", "1.5"],
        ["get", "x.h5", "::0"],
        ["get", "x.h5", "1:2:3:4"],
        ["get", "x.h5", "0", "--format", "xml"],
        ["demo", "--rows", "many"],
    ],
)
def test_wrong_usage(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.status == 2
    assert result.out == ""
    assert "error: " in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.status == 0
    assert f"qstore {command}" in result.out
    assert "examples:" in result.out


def test_version_and_help(run: Run) -> None:
    assert run("--version") == (0, f"qstore {qstore.__version__}\n", "")
    text = run("--help").out
    assert re.findall(r"^  (\d+) ", text, flags=re.MULTILINE) == ["0", "1", "2", "130", "141"]


def test_words_of_the_process_are_the_default(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["qstore", "--version"])
    assert main() == 0


def test_each_command_is_in_the_module_of_its_name() -> None:
    assert all(find_command(name).examples for name in COMMANDS)
    assert make_parser().prog == "qstore"
