"""Files of keys with more than a key in a line: read where it is known what the key is, else refused."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.keys.files import read_key_file


def keys_in(path: Path, padded: bool = False) -> list[Any]:
    stream = read_key_file(path, padded=padded)
    assert stream.count is not None
    found = stream.take(stream.count).values()
    assert stream.drain() == stream.count
    return found


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def base64_lines(*tokens: bytes) -> str:
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    return "".join(lines)


@pytest.mark.parametrize(
    ("name", "content", "keys"),
    [
        (
            "m.vocab",
            "<unk>\t0\n<s>\t0\n▁the\t-3.25\nx y\t-4e-05\n\t\t-5\n",
            ["<unk>", "<s>", "▁the", "x y", "\t"],
        ),
        ("bpe.vocab", "<unk>\t0\r\n▁t\t-0\r\nhe\t-1\r\n", ["<unk>", "▁t", "he"]),
        ("pieces.txt", "<unk>\t0\n▁the\t-3.25\n", ["<unk>", "▁the"]),
        (
            "dict.txt",
            "the 100\nof 50\na b 7\nmadeupword0000 0\n",
            ["<s>", "<pad>", "</s>", "<unk>", "the", "of", "a b", "madeupword0000"],
        ),
        (
            "dict.en.txt",
            "the 100\n<special> 1 #fairseq:overwrite\n",
            ["<s>", "<pad>", "</s>", "<unk>", "the", "<special>"],
        ),
        ("tokens.txt", "<blk> 0\n▁the 1\nof 2\n", ["<blk>", "▁the", "of"]),
        ("words", "<eps>\t0\nthe\t1\n", ["<eps>", "the"]),
        ("words", "0 a\n1 b,x\n2 3\n", ["a", "b,x", "3"]),
        ("words", "0 new york\n1 paris\n", ["new york", "paris"]),
        ("words", "0\ta b\r\n1\tc\r\n", ["a b", "c"]),
        ("words.csv", "0,a\n1,b c\n", ["a", "b c"]),
        ("digits", "7 0\n8 1\n", ["7", "8"]),
        ("k.jsonl", '"the"\n"a\\nb"\n"é"\n', ["the", "a\nb", "é"]),
        ("k.ndjson", "3\n-4\n", [3, -4]),
    ],
)
def test_the_part_that_is_the_key_is_read(tmp_path: Path, name: str, content: str, keys: list[Any]) -> None:
    assert keys_in(written(tmp_path / name, content)) == keys


@pytest.mark.parametrize("name", ["m.tiktoken", "cl100k_base"])
def test_tiktoken(tmp_path: Path, name: str) -> None:
    tokens = [b"!", b"a", b" world", "é".encode(), b"hello"]
    path = written(tmp_path / name, base64_lines(*tokens))
    assert keys_in(path) == ["!", "a", " world", "é", "hello"]
    swapped = base64_lines(*tokens).splitlines(keepends=True)[::-1]
    assert keys_in(written(path, "".join(swapped))) == ["!", "a", " world", "é", "hello"]


def test_tokens_of_tiktoken_that_are_no_text(tmp_path: Path) -> None:
    path = written(tmp_path / "m.tiktoken", base64_lines(b"!", b"\x80", b" world", b"\xff"))
    with pytest.raises(qstore.SourceError, match=r"line 2 is the token b'\\x80', .*--missing-keys none"):
        qstore.build(np.eye(4), tmp_path / "s.h5", keys=path)
    qstore.build(np.eye(4), tmp_path / "s.h5", keys=path, missing_keys="none")
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)) == ["!", None, " world", None]


WHOLE_LINES: list[tuple[str, str]] = [
    ("k.txt", "key 0\nkey 1\nkey 2\n"),
    ("k.txt", "chapter 1\nchapter 2\n"),
    ("k.txt", "Paris, France\nBonn, Germany\n"),
    ("k.txt", "a b\nc d\n"),
    ("k.txt", "the 5\nof\n"),
    ("k.txt", "a\tb\nc\n"),
    ("k.txt", "a 1\n"),
    ("k.txt", "3\n4\n"),
    ("k.txt", "[PAD]\n[unused1]\n"),
    ("k.txt", '"\n{\n['),
    ("plain.vocab", "the\nof\n"),
    ("dict.txt", "the\nof\n"),
    ("k.txt", "word 0\n"),
    ("k.txt", "0 word\n"),
    ("k.txt", "0 key\n1 key\n"),
    ("k.txt", "7 seas\n7 samurai\n"),
]


@pytest.mark.parametrize(("name", "content"), WHOLE_LINES)
def test_other_lines_are_keys_as_they_are(tmp_path: Path, name: str, content: str) -> None:
    assert keys_in(written(tmp_path / name, content)) == content.removesuffix("\n").split("\n")


REFUSED: list[tuple[str, str, str, list[list[str] | None]]] = [
    ("vocab.txt", "the 100\nof 50\n", "each line has 2 columns", [["the", "of"], ["the 100", "of 50"]]),
    ("t.txt", "the 1\n<blk> 0\n", "each line has 2 columns", [["the", "<blk>"], ["the 1", "<blk> 0"]]),
    ("v.tsv", "1\tthe\n2\tof\n", "2 columns", [["the", "of"], ["1\tthe", "2\tof"]]),
    ("v.txt", "1 the\n2 of\n", "2 columns", [["the", "of"], ["1 the", "2 of"]]),
    ("v.txt", "1 new york\n0 los angeles\n", "3 columns", [["new york", "los angeles"], None]),
    ("v.csv", "5,the\n3,of\n", "2 columns", [["the", "of"], ["5,the", "3,of"]]),
    ("v.csv", "row,word\n0,the\n1,of\n", "2 columns", [["the", "of"], None]),
    ("v.tsv", "0\tthe\t500\n1\tof\t300\n", "3 columns", [["the", "of"], None]),
    ("v.txt", "0 100\n1 90\n", "2 columns", [["0", "1"], ["0 100", "1 90"]]),
    ("v.csv", "w,count\nthe,5\nof,3\n", "has 2 columns", [["the", "of"], ["w,count", "the,5", "of,3"]]),
    ("v.vec", "2 2\nthe .1 -2\nof 3 4e5\n", "3 columns", [["the", "of"], ["2 2", "the .1 -2", "of 3 4e5"]]),
    ("it's a.txt", "the 100\nof 50\n", "2 columns", [["the", "of"], ["the 100", "of 50"]]),
    ("k.jsonl", '{"id": 0, "t": "the"}\n{"id": 1, "t": "of"}\n', "an object with 'id', 't'", [["the", "of"]]),
    ("k.txt", '{"id": 0, "t": "the"}\n{"id": 1, "t": "of"}\n', "an object with 'id', 't'", [["the", "of"]]),
    ("k.jsonl", '[7, "the"]\n[8, "of"]\n', "line 1 is a list in JSON", [["the", "of"]]),
    ("k.txt", '"the"\n"of"\n', "texts in JSON", [['"the"', '"of"']]),
    ("m.vocab", "<unk>\t0\nthe\n", "line 2 is 'the', expected a piece, a tab", [["<unk>\t0", "the"]]),
    ("dict.txt", "the 7\nof\n", "line 2 is 'of', expected a word, a space", [["the 7", "of"]]),
]


@pytest.mark.parametrize(("name", "content", "words", "remedies"), REFUSED)
def test_what_is_refused_and_each_remedy(
    tmp_path: Path, name: str, content: str, words: str, remedies: list[list[str] | None]
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(qstore.SourceError) as caught:
        keys_in(path)
    assert words in str(caught.value)
    commands = re.findall("`(.+?)`", str(caught.value))
    for command, keys in zip(commands, remedies, strict=True):
        runnable = command.replace("python3", sys.executable, 1)
        subprocess.run(runnable, shell=True, cwd=tmp_path, check=True)
        assert keys_in(tmp_path / command.rpartition("> ")[2]) == (keys or content.splitlines())


@pytest.mark.parametrize("content", ["0 the 500\n1 of 300\n", '0,"a"\n1,"b"\n', "0,a,b\n1,c,d\n"])
def test_more_than_a_key_behind_the_number_of_a_row_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(qstore.SourceError, match=r"each line has [23] columns"):
        keys_in(written(tmp_path / "k.txt", content))


def test_a_number_later_on_that_is_not_its_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstore.keys.files._PIECE_BYTES", 100)
    lines = [f"{row}\tw{row}\n" for row in range(200)]
    assert keys_in(written(tmp_path / "t.txt", "".join(lines))) == [f"w{row}" for row in range(200)]
    lines[150] = "151\tw150\n"
    with pytest.raises(qstore.SourceError, match=r"line 151 is '151\\tw150', expected the number of its row"):
        keys_in(written(tmp_path / "t.txt", "".join(lines)))


def test_a_line_later_on_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.keys.files._PIECE_BYTES", 100)
    lines = [f"w{row} {row}\n" for row in range(200)]
    assert keys_in(written(tmp_path / "t.txt", "".join(lines))) == [f"w{row}" for row in range(200)]
    lines[150] = "w150 151\n"
    with pytest.raises(qstore.SourceError, match=r"line 151 is 'w150 151', expected a word, .* its row"):
        keys_in(written(tmp_path / "t.txt", "".join(lines)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k.jsonl", '"the"\nof\n', "line 2 is no JSON"),
        ("k.jsonl", "null\n", "line 1 is None, expected a text or a whole number"),
        ("k.jsonl", "true\n", "line 1 is True, expected"),
        ("k.jsonl", '"a"\n\n"b"\n', "line 2 is no JSON"),
        ("k.jsonl", "[" * 100_000, "line 1 is no JSON"),
        ("k.jsonl", "9" * 5000 + "\n", "line 1 is no JSON"),
        ("k.jsonl", '"a"\n3\n', "the key of row 1 is 3, expected text"),
        ("m.tiktoken", "the\n", "line 1 is 'the', expected a token in base64"),
        ("m.tiktoken", "IQ== 0\n?? 1\n", "line 2 is"),
        ("m.tiktoken", "IQ== " + "9" * 5000, "line 1 is"),
        ("m.tiktoken", "IQ== -1\n", "the row of '!' is -1, expected a number from 0 on"),
        ("m.tiktoken", "IQ== 0\nYQ== 0\n", "row 0 has two keys, '!' and 'a'"),
        ("t.txt", "a 0\nb " + "1" * 5000, "each line has 2 columns"),
    ],
)
def test_what_is_damaged(tmp_path: Path, name: str, content: str, words: str) -> None:
    with pytest.raises(qstore.SourceError, match=re.escape(words)):
        keys_in(written(tmp_path / name, content))


def test_json_lines_under_the_name_of_json(tmp_path: Path) -> None:
    path = written(tmp_path / "k.json", '"the"\n"of"\n')
    with pytest.raises(qstore.SourceError, match=r"is no JSON: Extra data.*ends with \.jsonl"):
        keys_in(path)
    assert keys_in(path.rename(tmp_path / "k.jsonl")) == ["the", "of"]


def test_the_special_symbols_of_fairseq_are_counted_and_named(tmp_path: Path) -> None:
    path = written(tmp_path / "dict.txt", "the 7\nof 5\n")
    qstore.build(np.eye(6), tmp_path / "s.h5", keys=path)
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.rows_of(["<pad>", "the", "of"]).tolist() == [1, 4, 5]
    for rows in (2, 9):
        with pytest.raises(
            qstore.SourceError, match=r"there are 6 keys, .*fairseq, .*<s>, <pad>, </s>, <unk>"
        ):
            qstore.build(np.ones((rows, 2)), tmp_path / "t.h5", keys=path)


def test_a_store_of_each(tmp_path: Path) -> None:
    """Through a build: rows are found by what was read."""
    written(tmp_path / "m.vocab", "<unk>\t0\n▁the\t-3.25\n▁of\t-4\n")
    written(tmp_path / "k.jsonl", "".join(json.dumps(key) + "\n" for key in ["<unk>", "▁the", "▁of"]))
    written(tmp_path / "m.tiktoken", base64_lines(b"<unk>", "▁the".encode(), "▁of".encode()))
    for name in ("m.vocab", "k.jsonl", "m.tiktoken"):
        qstore.build(np.eye(3), tmp_path / "s.h5", keys=tmp_path / name, overwrite=True)
        with qstore.open(tmp_path / "s.h5") as store:
            assert store.rows_of(["▁of", "<unk>", "▁the"]).tolist() == [2, 0, 1]
