"""The scripts of findings/, read, not run, and the tool that runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
BASH = shutil.which("bash")
# As a package manager takes it: name, extras, one exact version.
PINNED = re.compile(r"'[\w.-]+(\[\w+\])?==\d[\w.]*'|[\w-]+@\d+\.\d+\.\d+")
needs_bash = pytest.mark.skipif(BASH is None, reason="runs Bash")


def installed(text: str) -> list[str]:
    """The packages that a script has pip or npm install, as it writes them."""
    commands = re.findall(
        r"^(?:venv/bin/pip|npm) install (.*?) (?:> /dev/null )?\|\| exit 2$", text, re.M | re.S
    )
    words = " ".join(commands).replace("\\\n", " ").replace("--prefix .", "").split()
    return [word for word in words if not word.startswith("-")]


def run_tool(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    tool = ROOT / "tools" / "findings.py"
    command = [sys.executable, str(tool), *words, "--folder", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_there_are_some() -> None:
    assert len(SCRIPTS) >= 10


def test_the_index_names_each_script_once_and_no_other() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\((\w+)\.sh\) \|", text, re.M)
    assert all(shown == file for shown, file in rows)
    assert sorted(file for _, file in rows) == [script.stem for script in SCRIPTS]


@needs_bash
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_bash(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_states_what_it_saw_and_pins_what_it_installs(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert re.match(
        r"#!/usr/bin/env bash\n(# .+\n)+#\n# Version: (.+\n)+# Behaviour: (.+\n)+# Hurt: (.+\n)+#\n", text
    )
    assert re.search(r"\n# Seen:\n(#> .+\n)+set -euo pipefail\n", text)
    assert 'work=$(mktemp -d)\ntrap \'rm -rf "$work"\' EXIT\ncd "$work"\npython3 -m venv venv\n' in text
    packages = installed(text)
    assert packages
    assert [package for package in packages if not PINNED.fullmatch(package)] == []
    assert text.count(" install ") == text.count(" || exit 2\n")
    assert "qstore" not in text


@needs_bash
def test_the_tool_says_which_changed(tmp_path: Path) -> None:
    for name, script in {
        "a_same": "echo seen; exit 0",
        "b_changed": "echo 'CHANGED, expected was:'; exit 1",
        "c_missing": "exit 2",
    }.items():
        (tmp_path / f"{name}.sh").write_text(script + "\n")
    done = run_tool(tmp_path)
    assert done.returncode == 1, done.stderr
    lines = [re.sub(r"  \d+ s$", "", line) for line in done.stdout.splitlines() if line[0] != " "]
    assert [line.split("  ")[0] for line in lines[:3]] == ["same", "changed", "could not be run"]
    assert [line.split()[-1] for line in lines[:3]] == ["a_same", "b_changed", "c_missing"]
    assert lines[3] == "1 same, 1 changed, 1 could not be run"
    assert "    CHANGED, expected was:" in done.stdout
    assert "seen" not in done.stdout

    done = run_tool(tmp_path, "a_same")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 same")


@needs_bash
def test_the_tool_ends_what_takes_too_long(tmp_path: Path) -> None:
    (tmp_path / "slow.sh").write_text("echo begun\nsleep 50\n")
    done = run_tool(tmp_path, "--minutes", "0.02")
    assert done.returncode == 1
    assert done.stdout.startswith("took too long")


def test_the_tool_refuses_a_name_that_is_not_there(tmp_path: Path) -> None:
    for words in (("nothing",), ()):
        done = run_tool(tmp_path, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert str(tmp_path) in done.stderr
