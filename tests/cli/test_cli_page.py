"""docs/cli.md is what tools/make_cli_page.py makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from qstore.cli.parser import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "")  # the tool sets both: this puts them back afterwards
    monkeypatch.setenv("NO_COLOR", "")
    specification = importlib.util.spec_from_file_location(
        "make_cli_page", ROOT / "tools" / "make_cli_page.py"
    )
    assert specification is not None
    assert specification.loader is not None
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == tool.make_page(), "run python tools/make_cli_page.py"
    for command in COMMANDS:
        assert f"## `qstore {command}`" in page
