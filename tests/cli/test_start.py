"""What starts with a command: --help and --version need no library, choices are those of the library."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from qstore.cli import export, get, plot, search
from qstore.cli.formats import FORMATS
from qstore.cli.parser import COMMANDS
from qstore.engine.search_scan import Metric

WORDS = [["--help"], ["--version"], [], ["nothing"], *([name, "--help"] for name in COMMANDS)]

LOADED = """\
import sys
from qstore.cli import main
from qstore.cli.parser import COMMANDS
status = main(sys.argv[1:])
found = {"qstore.cli." + name for name in COMMANDS} & {*sys.modules}
found |= {"numpy", "h5py", "tqdm"} & {*sys.modules}
print(status, *sorted(found), file=sys.stderr)
"""


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_help_imports_no_library_and_no_other_command(words: list[str]) -> None:
    run = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True, check=True)
    wrong = words in ([], ["nothing"])
    expected = [f"qstore.cli.{words[0]}"] if len(words) == 2 else []
    assert run.stderr.splitlines()[-1].split() == [str(2 if wrong else 0), *expected]


def test_the_page_has_the_start_of_every_command() -> None:
    page = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert sorted(re.findall(r"`qstore (\w+) --help` \| \d+ ", page)) == sorted(COMMANDS)


def test_choices_are_those_of_the_library() -> None:
    from qstore.exporting import formats
    from qstore.reports import pictures

    assert tuple(FORMATS) == get._FORMATS
    assert tuple(known.name for known in formats.FORMATS) == export._FORMATS
    assert tuple(pictures.KINDS) == plot._KINDS
    assert get_args(Metric) == search._METRICS
