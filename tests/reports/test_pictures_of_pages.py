"""Pictures in the documentation: told in words, and narrow enough to be read on a telephone."""

from __future__ import annotations

import re
import struct
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_pictures_of_pages() -> None:
    found = [
        (page, words, name)
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
        for words, name in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page.read_text())
    ]
    assert len(found) >= 4
    for page, words, name in found:
        content = (page.parent / name).read_bytes()
        width, _ = struct.unpack(">II", content[16:24])
        assert re.search(r"\d.*\.$", words, flags=re.S), f"{page.name}: {name} is not told in words"
        assert width <= 740, f"{page.name}: {name} is {width} points wide: its letters are too small"
