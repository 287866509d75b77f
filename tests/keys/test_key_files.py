"""Files of keys: text, JSON and arrays; what holds no keys is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.keys.files import read_key_file


def keys_in(path: Path) -> list[Any]:
    stream = read_key_file(path)
    count = stream.count
    assert count is not None
    block = stream.take(count)
    assert stream.drain() == count
    if block.kind == "integer":
        return list(np.frombuffer(block.data, np.int64).tolist())
    return [raw.decode() for raw in block.each()]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n\na", ["", "", "a"]),
        (b"a\n\n", ["a", ""]),
        (b" a \n\tb\n", [" a ", "\tb"]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        ("a\u2028b\x0bc\x85d\ne".encode(), ["a\u2028b\x0bc\x85d", "e"]),
        (b"a\rb\n\0\n", ["a\rb", "\0"]),
    ],
)
def test_text_files(tmp_path: Path, content: bytes, keys: list[str]) -> None:
    (tmp_path / "keys.txt").write_bytes(content)
    assert keys_in(tmp_path / "keys.txt") == keys


def test_long_text_files(tmp_path: Path) -> None:
    keys = [f"{row} " + "x" * (row % 50) for row in range(200_000)]
    (tmp_path / "vocab").write_text("\n".join(keys))
    assert keys_in(tmp_path / "vocab") == keys


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (["a", "", "é"], ["a", "", "é"]),
        ([3, -1], [3, -1]),
        ([], []),
        ({"b": 1, "a": 0}, ["a", "b"]),
        (
            {"model": {"vocab": {"x": 1, "y": 0}}, "added_tokens": [{"id": 2, "content": "<s>"}]},
            ["y", "x", "<s>"],
        ),
        ({"model": {"vocab": {"x": 0}}, "added_tokens": [{"id": 0, "content": "x"}]}, ["x"]),
        ({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["▁a", -1.5]]}}, ["<unk>", "▁a"]),
    ],
)
def test_json_files(tmp_path: Path, content: Any, keys: list[Any]) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(content))
    assert keys_in(tmp_path / "keys.json") == keys


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("k.txt", b"a\nb\xff\n", "line 2 is not UTF-8"),
        ("k.json", b"{", "is no JSON"),
        ("k.json", b"[" * 100_000, "is no JSON"),
        ("k.json", b"3", "holds a int, expected a list"),
        ("k.json", b'[{"a": 1}]', "the key of row 0 is"),
        ("k.json", b'["\\ud800"]', "half a surrogate pair"),
        (
            "k.json",
            b'{"a": 0, "b": 2, "c": 5}',
            "3 keys have rows up to 5: 3 rows have no key, the first is row 1",
        ),
        ("k.json", b'{"a": 0, "b": 0}', "row 0 has two keys, 'a' and 'b'"),
        ("k.json", b'{"a": -1}', "expected a number from 0 on"),
        ("k.json", b'{"a": "0"}', "expected a number from 0 on"),
        ("k.json", b'{"a": true}', "expected a number from 0 on"),
        ("tokenizer.json", b'{"model": {"vocab": 3}}', "has no vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": [3]}}', "has no vocabulary"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": {}}, "added_tokens": [3]}',
            "added_tokens is no list of objects",
        ),
        ("k.npy", b"\x93NUMPY", "expected an array of whole numbers"),
        ("k.npy", b"", "expected an array of whole numbers"),
    ],
)
def test_files_that_hold_no_keys(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(qstore.SourceError, match=words):
        keys_in(tmp_path / name)


def test_arrays_that_hold_no_keys(tmp_path: Path) -> None:
    for array in (np.zeros(3), np.zeros((2, 2), int)):
        np.save(tmp_path / "k.npy", array)
        with pytest.raises(qstore.SourceError, match="expected whole numbers of shape"):
            read_key_file(tmp_path / "k.npy")
