"""qstore completion: each shell completes what the parsers take, in the shell itself."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run

from qstore.cli.parser import COMMANDS, command_parser

Complete = Callable[[list[list[str]]], list[list[str]]]

SHELLS = ("bash", "zsh", "fish")

# Each prints what it has for the words in its arguments, the last of which is being typed.
ASK = {
    "bash": """\
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qstore; echo "${COMPREPLY[@]}"; }
""",
    "zsh": """\
compdef() {}
_files() { print files }
_describe() { print -r -- ${${(M)${(P)2}:#$words[CURRENT]*}%%:*} }
ask() { words=("$@"); CURRENT=$#; _qstore }
""",
    "fish": """\
function ask; complete -C "$argv" | string split -f 1 \\t | string join ' '; end
""",
}
START = {"bash": ["bash", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "-N"]}


@pytest.fixture(params=SHELLS)
def complete(request: pytest.FixtureRequest, run: Run, tmp_path: Path) -> Complete:
    """Has one shell complete the last word of each line."""
    shell = request.param
    if shutil.which(shell) is None:
        if os.environ.get("QSTORE_CI"):
            pytest.fail(f"{shell} is missing, and QSTORE_CI=1 lets nothing be skipped")
        pytest.skip(f"{shell} is not installed")
    made = run("completion", shell)
    assert (made.status, made.err) == (0, "")

    def ask(lines: list[list[str]]) -> list[list[str]]:
        asked = [shlex.join(["ask", "qstore", *line]) for line in lines]
        script = tmp_path / "script"
        script.write_text("\n".join([ASK[shell], made.out, *asked, "exit 0"]))
        done = subprocess.run(
            [*START[shell], script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [sorted(line.split()) for line in done.stdout.splitlines()]

    return ask


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("s", ["search", "stats"]),
        ("help comp", ["compare", "completion"]),
        ("completion ", ["bash", "fish", "zsh"]),
        ("get f.h5 --dt", ["--dtype"]),
        ("get f.h5 --dtype ", ["float16", "float32", "float64"]),
        ("get f.h5 --format n", ["npy"]),
        ("search f.h5 --metric l", ["l2"]),
        ("plot f.h5 -o x.png --kind er", ["error-cdf", "errors"]),
    ],
)
def test_words(complete: Complete, line: str, expected: list[str]) -> None:
    assert complete([line.split(" ")]) == [expected]


def test_every_option_of_every_command(complete: Complete) -> None:
    options = {
        name: [word for action in command_parser(name)._actions for word in action.option_strings]
        for name in COMMANDS
    }
    found = complete([[name, "--"] for name in COMMANDS])
    expected = [sorted(word for word in words if word.startswith("--")) for words in options.values()]
    assert found == expected
    assert [word for word in complete([["get", "-"]])[0] if not word.startswith("--")] == ["-h", "-o"]


def test_files_where_nothing_else_is_known(complete: Complete, tmp_path: Path) -> None:
    (tmp_path / "words.h5").touch()
    lines = [["info", "wor"], ["get", "x.h5", "-o", "wor"], ["build", "--keys", "wor"], ["plot", "wor"]]
    # bash is given nothing, and completes files itself: -o default; zsh is asked for files.
    assert {*map(tuple, complete(lines))} <= {("words.h5",), ("files",), ()}
    assert len(complete(lines)) == len(lines)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_splits_words_at_an_equals_sign(run: Run) -> None:
    lines = "ask qstore get --dtype = float1\nask qstore get --dtype ="
    script = run("completion", "bash").out + ASK["bash"] + lines
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["float16", "float32", "float64", "float16"]


def test_only_these_shells(run: Run) -> None:
    assert run("completion", "tcsh").status == 2
    assert run("completion").status == 2


def test_no_library_is_imported() -> None:
    code = (
        "import sys; from qstore.cli import main; main(['completion', 'bash']); "
        "print(*{'numpy', 'h5py', 'tqdm'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stderr.strip(), "_qstore" in done.stdout) == ("", True)
