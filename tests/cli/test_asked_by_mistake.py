"""Keys given where row numbers are expected, and files that hold no lines of keys: what to do is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from commands import Run

import qstore


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    qstore.build(np.eye(3), "words.h5", keys=["queen", "king", "pawn"])
    return "words.h5"


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (("get", "words.h5", "queen"), "--key queen"),
        (("keys", "words.h5", "queen"), "--key queen"),
        (("search", "words.h5", "--row", "queen"), "--key queen"),
        (("search", "words.h5", "queen"), "--key queen"),
        (("search", "words.h5", "the queen"), "--key 'the queen'"),
    ],
)
def test_a_key_in_the_place_of_a_row(run: Run, words: str, command: tuple[str, ...], hint: str) -> None:
    result = run(*command)
    assert result.status == 2
    assert hint in result.err


@pytest.mark.parametrize("command", [("get",), ("keys",), ("search",)])
def test_files_of_keys_that_are_none(run: Run, words: str, command: tuple[str, ...]) -> None:
    Path("lfs.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    Path("k.txt.gz").write_bytes(gzip.compress(b"queen\n"))
    Path("k.json").write_text(json.dumps(["queen"]))
    Path("latin.txt").write_bytes(b"queen\nk\xf6nig\n")
    for file, said in (
        ("lfs.txt", "is a Git LFS pointer"),
        ("k.txt.gz", "gzip -dc k.txt.gz"),
        ("k.json", "expected keys as text in UTF-8, one a line"),
        ("latin.txt", "line 2 is not UTF-8"),
        ("https://example.org/k.txt", "is a URL: expected a file of this machine"),
    ):
        result = run(*command, words, "--keys", file)
        assert result.status == 2
        assert said in result.err
    Path("good.txt").write_bytes(b"\xef\xbb\xbfqueen\r\nking\r\n")
    assert run(*command, words, "--keys", "good.txt").status == 0


def test_queries_behind_a_url(run: Run, words: str) -> None:
    result = run("search", words, "--vector", "https://example.org/q.npy")
    assert result.status == 2
    assert "is a URL: expected a file of this machine" in result.err


def test_keys_in_the_place_of_row_numbers(words: str) -> None:
    with qstore.open(words) as store:
        for wrong in (
            lambda: store.take(["king"]),
            lambda: store.take(np.array(["king"], object)),
            lambda: store.pool(["king"], [0]),
            lambda: store.search(np.ones(3), 1, exclude="king"),
        ):
            with pytest.raises(IndexError, match=r"store\.rows_of\(keys\)"):
                wrong()
