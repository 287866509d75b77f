"""README.md and docs/*.md tell the truth: their examples run, and every public name is described.

Conventions, invisible in rendered Markdown:

- ``python`` blocks of a page run in order, in one namespace and one temporary directory.
  ``<!-- no-run -->`` on the line before exempts a block; ``<!-- needs: NAME -->`` exempts it where that
  module is not installed.
- ``console`` blocks run where ``<!-- run -->`` (or ``<!-- run, exit 1 -->``: of the last command) is on
  the line before, in order with the Python blocks. Each ``$ qstore …`` line is one command; what is shown
  below it must be what it prints, with ``...`` for anything.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import pkgutil
import re
import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import qstore
from qstore.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (?P<marker>.+?) -->\n)?```(?P<kind>python|console)\n(?P<text>.*?)```", re.DOTALL)
MODULES = [
    found.name
    for found in pkgutil.walk_packages(qstore.__path__, "qstore.")
    if not found.name.endswith((".__main__", "._native"))
]
OUTPUT_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    """One example of a page."""

    kind: str
    marker: str
    text: str
    line: int

    @property
    def wanted(self) -> bool:
        """Whether it is to be run here."""
        if self.kind == "console":
            return self.marker.startswith("run")
        needed = self.marker.removeprefix("needs: ") if self.marker.startswith("needs: ") else ""
        return self.marker != "no-run" and not (needed and importlib.util.find_spec(needed) is None)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["kind"], found["marker"] or "", found["text"], text.count("\n", 0, found.start("text")))
        for found in BLOCK.finditer(text)
    ]


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    # Empty lines in front: a traceback then shows the line of the page.
    exec(compile("\n" * block.line + block.text, page, "exec"), namespace)


def run_console(block: Block, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    assert commands, f"{page}:{block.line}: no line begins with '$ '"
    expected = [0] * (len(commands) - 1) + [int(block.marker.partition("exit ")[2] or 0)]
    for command, status in zip(commands, expected, strict=True):
        line, _, shown = command.replace("\\\n", "").partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "qstore", f"{page}:{block.line}: only qstore is run here, found {program}"
        assert run_main(arguments) == status, line
        printed = capsys.readouterr().out
        if shown.strip():
            alike = doctest.OutputChecker().check_output(shown, printed, OUTPUT_OPTIONS)
            assert alike, f"{page}:{block.line}: {line} printed\n{printed}"


def run_main(arguments: list[str]) -> int:
    try:
        return main(arguments) or 0
    except SystemExit as stopped:
        return int(stopped.code or 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks_of(page):
            if block.wanted and block.kind == "python":
                run_python(block, page, namespace)
            elif block.wanted:
                run_console(block, page, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_marker_is_one_of_the_convention(page: Path) -> None:
    known = re.compile(r"|no-run|needs: \w+|run|run, exit \d")
    assert [block.marker for block in blocks_of(page) if not known.fullmatch(block.marker)] == []


def test_the_readme_has_examples_that_run() -> None:
    assert {block.kind for block in blocks_of(ROOT / "README.md") if block.wanted} >= {"python"}


def test_an_example_that_is_wrong_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nassert 1 == 2\n```\n<!-- run -->\n```console\n$ qstore --version\nno such version\n```\n"
        "<!-- run, exit 1 -->\n```console\n$ qstore --version\n```\n"
    )
    python, console, status = blocks_of(page)
    with pytest.raises(AssertionError):
        run_python(python, page, {})
    with pytest.raises(AssertionError, match="printed"):
        run_console(console, page, capsys)
    with pytest.raises(AssertionError, match="--version"):
        run_console(status, page, capsys)


@pytest.mark.parametrize("name", qstore.__all__)
def test_every_public_name_is_described(name: str) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert re.search(rf"`(qstore\.)?{re.escape(name)}\b", text), (
        f"docs/api.md does not describe qstore.{name}"
    )


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the installed modules: collecting the source tree would import it without the C engine."""
    monkeypatch.chdir(tmp_path)
    try:
        module = importlib.import_module(name)
    except qstore.MissingExtraError as missing:
        pytest.skip(str(missing))
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


@pytest.mark.skipif(os.environ.get("QSTORE_CI") != "1", reason="of the installed package, under QSTORE_CI=1")
def test_the_installed_package_is_tested() -> None:
    assert not Path(qstore.__file__).is_relative_to(ROOT)


def test_pages_name_this_version_and_say_how_to_cite_it() -> None:
    readme, changelog = (page.read_text() for page in (ROOT / "README.md", ROOT / "docs" / "changelog.md"))
    cited = re.search(r"To cite: \*([^*]+)\*", readme)
    assert cited is not None
    assert f"version {qstore.__version__}, " in cited[0].replace("\n", " ")
    assert f"\n## {qstore.__version__}\n" in changelog
    assert changelog.index("## What versions promise") < changelog.index(f"## {qstore.__version__}")
