"""What a notebook shows of a store: facts that are known, escaped, without a look at the data."""

from __future__ import annotations

import html.parser
import os
from pathlib import Path

import numpy as np
import pytest

import qstore


class Cells(html.parser.HTMLParser):
    """Tags, and the texts between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_facts_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "<b>'&amp;.h5"
    qstore.build(np.ones((1234, 8), np.float32), path, keys=np.arange(1234))
    store = qstore.open(path).astype("float64")
    store.close()  # what is known needs no file
    os.unlink(path)
    shown = Cells(store._repr_html_())
    assert set(shown.tags) == {"table", "caption", "tr", "th", "td"}
    assert shown.texts[0] == "qstore.Store"
    assert dict(zip(shown.texts[1::2], shown.texts[2::2], strict=True)) == {
        "shape": "1,234 × 8",
        "dtype": "float64",
        "size": "19,744 bytes of codes and scales; 78,976 as float64",
        "keys": "integer",
        "path": str(path),
    }


@pytest.mark.parametrize("keyed", [False, True])
def test_directories_and_stores_without_keys(tmp_path: Path, keyed: bool) -> None:
    keys = [f"word-{row}" for row in range(100)] if keyed else None
    qstore.build_shards(np.ones((100, 8), np.float32), tmp_path / "shards", 30, keys=keys)
    with qstore.open(tmp_path / "shards") as store:
        shown = Cells(store._repr_html_()).texts
    assert shown[shown.index("keys") + 1] == ("text" if keyed else "none")
    assert str(tmp_path / "shards") in shown
