"""Word vectors with tabs: behind the word, between the numbers, or both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from source_contract import refused
from word_files import VALUES, WORDS, text_words

import qstore
from qstore.errors import SourceError
from qstore.sources import TensorInfo, list_tensors, open_source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.tsv"


def words_of(path: Path) -> list[str]:
    with open_source(path) as source:
        pairs = list(source.keyed_chunks())
    assert np.array_equal(np.concatenate([values for values, _ in pairs]), VALUES)
    return [str(word) for _, words in pairs for word in words]


@pytest.mark.parametrize("between", ["\t", " "], ids=["tabs", "spaces"])
@pytest.mark.parametrize("rows", [None, -1], ids=["header", "no header"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\t\n"])
def test_read(path: Path, between: str, rows: int | None, end: bytes) -> None:
    path.write_bytes(text_words(between=between, behind="\t", rows=rows).replace(b"\n", end))
    assert list_tensors(path) == [TensorInfo("", (3, 3), "float32")]
    assert words_of(path) == [word.decode() for word in WORDS]


def test_the_store_is_that_of_the_file_with_spaces(tmp_path: Path) -> None:
    ids = []
    for name, gap in (("x.txt", " "), ("x.tsv", "\t")):
        (tmp_path / name).write_bytes(text_words(between=gap, behind=gap))
        qstore.build(tmp_path / name, tmp_path / "store.h5", overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            ids.append(store.content_id)
            assert qstore.verify_against(store, tmp_path / "x.txt").ok
    assert ids[0] == ids[1]


@pytest.mark.parametrize("between", ["\t", " "], ids=["tabs", "spaces"])
@pytest.mark.parametrize("word", ["new york", "route 66", "66", " ", "", ". . .", "-1 1e5"])
@pytest.mark.parametrize("header", [True, False])
def test_words_end_at_the_first_tab(path: Path, between: str, word: str, header: bool) -> None:
    path.write_bytes(text_words([b"the", word.encode(), b"c d"], between, "\t", rows=None if header else -1))
    assert words_of(path) == ["the", word, "c d"]


def test_first_word_of_a_headed_file(path: Path) -> None:
    path.write_bytes(text_words([b"route 66", b"b", b"c"], "\t", "\t"))
    assert words_of(path) == ["route 66", "b", "c"]


@pytest.mark.parametrize("words", [[b"a", b"b\tc", b"d"], [b"b\tc", b"a", b"d"], [b"1\t2", b"a", b"d"]])
def test_spaces_with_a_tab_in_a_word(path: Path, words: list[bytes]) -> None:
    """As it was before: the header tells how many numbers belong to a word."""
    path.write_bytes(text_words(words))
    assert words_of(path) == [word.decode() for word in words]


REFUSED: dict[str, tuple[bytes, list[str]]] = {
    "too few": (b"a\t1\t2\t3\nb\t1\t2\n", ["line 2 expected a word and 3 numbers", "found 2 numbers"]),
    "too many": (b"a\t1\t2\t3\nb\t1\t2\t3\t4\n", ["line 2 expected", "found 4 numbers"]),
    "no tab": (b"a\t1\t2\t3\nb 1 2 3\n", ["line 2 expected", "a tab behind the word", "found 0 numbers"]),
    "one column, no tab": (b"a\t1\nb 1\n", ["line 2 expected a word and 1 numbers", "found 0 numbers"]),
    "word alone": (b"a\t1\nb\n", ["line 2 expected", "found 0 numbers"]),
    "nothing between": (b"a\t1\t2\t3\nb\t1\t\t3\n", ["line 2 expected a number, found ''"]),
    "no number": (b"a\t1\t2\nb\t1\tx\n", ["line 2 expected a number, found 'x'"]),
    "second tab in a word": (b"a\t1\t2\nb\tc\t1\t2\n", ["line 2 expected a word and 2 numbers"]),
    "header wider": (b"2 4\na\t1\t2\t3\nb\t1\t2\t3\n", ["line 2 expected a word and 4 numbers"]),
    "header says more": (b"3 2\na\t1\t2\nb\t1\t2\n", ["header says 3 rows, found 2"]),
    "header says fewer": (b"1 2\na\t1\t2\nb\t1\t2\n", ["header says 1 rows, found at least 2"]),
    "names of columns": (b"word\tx\ty\na\t1\t2\n", ["line 1 expected a word and numbers"]),
    "numbers only": (b"0.5\t1\t2\n1.5\t1\t2\n", ["line 1 is all numbers", "np.loadtxt"]),
    "where the word ends": (b"a 1\t2\t3\nb 1\t2\t3\n", ["line 1 has a number before its first tab"]),
    "table": (b"id\tname\tcity\n7\tAnn\tRome\n", ["line 1 expected a word and numbers"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(path: Path, name: str) -> None:
    content, words = REFUSED[name]
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        qstore.build(path, path.with_name("store.h5"))
    for word in words:
        assert word in str(caught.value)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_remedies_for_a_first_line_that_tells_too_little(path: Path) -> None:
    path.write_bytes(b"a 1\t2\t3\nb 1\t2\t3\n")
    refused(path, "put a line with the numbers of rows and columns before it")
    path.write_bytes(b"2 2\n" + path.read_bytes())
    with open_source(path) as source:
        ((values, words),) = source.keyed_chunks()
    assert (values.tolist(), words) == ([[2, 3], [2, 3]], ["a 1", "b 1"])
    path.write_bytes(b"0.5\t1\t2\n1.5\t1\t2\n")
    refused(path, "np.loadtxt(path)")
    with open_source(np.loadtxt(path)) as source:
        assert (source.rows, source.dim) == (2, 3)
