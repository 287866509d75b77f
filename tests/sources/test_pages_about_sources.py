"""The pages name every format that is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from qstore.sources.registry import FORMATS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["api.md", "sources.md"])
def test_every_format_is_named(page: str) -> None:
    text = (DOCS / page).read_text().lower()
    names = [known.name.lower().split()[0] for known in FORMATS]
    assert [name for name in names if name not in text] == []
