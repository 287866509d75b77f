"""Words of a command in any order, commands that do not exist, and help by name."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest

import qstore
from qstore.cli import main
from qstore.cli.parser import COMMANDS, command_parser
from qstore.cli.word_order import in_order


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("order")
    np.save(folder / "m.npy", np.arange(1, 81, dtype=np.float32).reshape(10, 8))
    qstore.build(folder / "m.npy", folder / "words.h5")
    return folder / "words.h5"


@pytest.mark.parametrize("rows", [["5"], ["-1", "2:4"]], ids=" ".join)
def test_every_order_reads_the_same(rows: list[str], words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = set()
    file, options = [str(words)], [["--columns", "-3:"], ["--format", "json"], ["--dtype=float64"]]
    for pieces in itertools.permutations([file, rows, *options]):
        if pieces.index(file) < pieces.index(rows):
            assert main(["get", *itertools.chain(*pieces)]) == 0
            printed.add(capsys.readouterr().out)
    assert len(printed) == 1


def test_the_file_may_follow_an_option_of_several_values(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(words.with_name("m.npy"))
    assert main(["verify", "--against", source, str(words)]) == 0
    assert "every code and scale of 10 rows agrees with" in capsys.readouterr().out
    assert main(["verify", str(words), "--against", source]) == 0
    pytest.importorskip("matplotlib")
    assert main(["plot", "-o", str(tmp_path / "x.png"), "--kind", "norms", str(words)]) == 0
    assert main(["plot", "-o", str(tmp_path / "y.png"), "--kind", "norms", "scales", str(words)]) == 0


def test_names_may_follow_an_option(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        qstore.build(np.ones((2, 3)), tmp_path / name)
    assert main(["append", str(tmp_path), "--json", "a.h5", "b.h5"]) == 0
    assert len(qstore.open(tmp_path)) == 4


def test_what_follows_two_dashes_is_no_option(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "--format", "json", str(words), "--", "-1", "-2:"]) == 0
    assert capsys.readouterr().out.count("80.0") == 2  # row 9 ends with it, and is there twice


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["f", "--opt", "--many"], ["--opt", "--many", "--", "f"]),  # argparse says what is missing
        (["--opt", "-x", "f"], ["--opt=-x", "--", "f"]),
        (["--many", "a", "--", "b", "-c"], ["--many", "a", "--", "b", "-c"]),
        (["--many", "a"], ["--many", "a"]),
        (["--many", "a", "b", "c"], ["--many", "a", "b", "--", "c"]),
        (["--flag", "f", "-o", "out"], ["--flag", "-o", "out", "--", "f"]),
        (["--unknown", "f"], ["--unknown", "--", "f"]),
        (["-oout", "f", "-"], ["-oout", "--", "f", "-"]),
    ],
)
def test_order(given: list[str], expected: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("rows", nargs="*")
    parser.add_argument("-o")
    parser.add_argument("--opt")
    parser.add_argument("--flag", action="store_true")
    parser.add_argument("--many", nargs="+")
    assert in_order(given, parser) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_words_show_the_usage_of_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--no-such-option"]) == 2
    assert capsys.readouterr().err.startswith(f"usage: qstore {name} ")


def test_a_command_mistyped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert "there is no command 'serach': did you mean 'search'?" in capsys.readouterr().err
    assert main(["nothing"]) == 2
    assert "there is no command 'nothing': expected one of build, append" in capsys.readouterr().err


def test_help_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "get"]) == 0
    assert capsys.readouterr().out == command_parser("get").format_help()
    assert main(["help"]) == 0
    assert "COMMAND" in capsys.readouterr().out
