"""fastText's models: vectors of words as it gives them, the matrix behind them, and damaged ones refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import Maker, SourceContract, matrix_of, refused

import qstore
from qstore.errors import SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source

DATA = Path(__file__).parents[1] / "data" / "libraries"
BUCKET = 40


def model(
    values: NDArray[Any],
    words: list[bytes],
    *,
    labels: int = 0,
    grams: tuple[int, int] = (0, 0),
    version: int = 12,
    kind: int = 2,
    quantized: bool = False,
    pruned: int = -1,
) -> bytes:
    """A model as `FastText::saveModel` writes it, up to its input matrix."""
    rows, dim = values.shape
    arguments = struct.pack("<12id", dim, 5, 5, 1, 5, 1, 1, kind, BUCKET, *grams, 100, 1e-4)
    counts = struct.pack("<3i2q", len(words) + labels, len(words), labels, 99, pruned)
    named = [(word, 0) for word in words] + [(b"__label__%d" % number, 1) for number in range(labels)]
    entries = b"".join(word + b"\0" + struct.pack("<qb", 7, kind) for word, kind in named)
    head = struct.pack("<2i", 793712314, version) + arguments + counts + entries
    return head + bytes([quantized]) + struct.pack("<2q", rows, dim) + values.astype("<f4").tobytes()


def names(rows: int) -> list[bytes]:
    return [b"w%d" % row for row in range(rows)]


def make_words(directory: Path, values: NDArray[Any]) -> Path:
    (directory / "m.bin").write_bytes(model(values, names(len(values))))
    return directory / "m.bin"


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "words": Maker(make_words, working_memory=16 << 20),
        "input": Maker(make_words, "input"),
    }


def subwords(word: bytes, shortest: int, longest: int) -> list[int]:
    """`Dictionary::computeSubwords`, one character after the other."""
    if word == b"</s>":
        return []
    text, found = b"<" + word + b">", []
    for begin in range(len(text)):
        if text[begin] & 0xC0 == 0x80:
            continue
        end, hashed = begin, 2166136261
        for length in range(1, longest + 1):
            if end == len(text):
                break
            first = end
            while end < len(text) and (end == first or text[end] & 0xC0 == 0x80):
                signed = text[end] - 256 if text[end] > 127 else text[end]
                hashed = ((hashed ^ (signed & 0xFFFFFFFF)) * 16777619) & 0xFFFFFFFF
                end += 1
            if length >= shortest and not (length == 1 and (begin == 0 or end == len(text))):
                found.append(hashed % BUCKET)
    return found


def vectors(values: NDArray[Any], words: list[bytes], grams: tuple[int, int]) -> NDArray[np.float32]:
    found = []
    for row, word in enumerate(words):
        total, ids = np.zeros(values.shape[1], np.float32), subwords(word, *grams)
        for one in [row, *(len(words) + number for number in ids)]:
            total = total + values[one]
        found.append(total * np.float32(1 / (1 + len(ids))))
    return np.array(found)


def rows_of(path: Path, tensor: str | None = None) -> NDArray[Any]:
    with open_source(path, tensor) as source:
        assert isinstance(source, RowSource)
        return source.read(0, source.rows)


def test_vectors_and_words_of_fasttext(tmp_path: Path) -> None:
    with np.load(DATA / "fasttext.npz") as expected:
        words, values = expected["words"].tolist(), expected["vectors"]
    assert "</s>" in words
    assert np.array_equal(rows_of(DATA / "fasttext.bin"), values)
    qstore.build(DATA / "fasttext.bin", tmp_path / "x.h5")
    with qstore.open(tmp_path / "x.h5") as store:
        assert list(store.key_of(slice(None))) == words
        assert np.array_equal(store.codes, qstore.quantize(values)[0])
        assert qstore.verify_against(store, DATA / "fasttext.bin").ok


@pytest.mark.parametrize("grams", [(1, 3), (3, 6), (2, 2), (1, 64), (5, 4), (0, 2)])
def test_n_grams(tmp_path: Path, grams: tuple[int, int]) -> None:
    words = ["", "a", "ab", "ü", "naïve", "日本語テキスト", "🙂🙂", "<x>", "</s>", "x" * 300]
    raw = [word.encode() for word in words] + [b"\x80\x80cut\xe6\x97", b"\xc3"]
    values = matrix_of("float32", len(raw) + BUCKET, 7)
    path = tmp_path / "m.bin"
    path.write_bytes(model(values, raw, grams=grams, labels=3))
    expected = vectors(values, raw, grams)
    assert np.array_equal(rows_of(path), expected)
    assert np.array_equal(rows_of(path, "input"), values)
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert np.array_equal(source.read(5, 9), expected[5:9])


@pytest.mark.parametrize("count", [255, 256, 257, 5000])
def test_many_words(tmp_path: Path, count: int) -> None:
    values = matrix_of("float32", count + BUCKET, 3)
    path = tmp_path / "m.bin"
    for labels in (0, 2):
        path.write_bytes(model(values, names(count), grams=(2, 3), labels=labels))
        expected = vectors(values, names(count), (2, 3))
        with open_source(path) as source:
            assert isinstance(source, RowSource)
            assert list_tensors(path) == [
                TensorInfo("words", (count, 3), "float32"),
                TensorInfo("input", (count + BUCKET, 3), "float32"),
            ]
            for start, stop in [(0, count), (count - 1, count), (count, count), (200, 255), (254, count)]:
                assert np.array_equal(source.read(start, stop), expected[start:stop])
            assert [key for part in source.key_pieces() or () for key in part] == [
                word.decode() for word in names(count)
            ]


def test_old_supervised_models_have_no_n_grams(tmp_path: Path) -> None:
    values = matrix_of("float32", 3)
    path = tmp_path / "m.bin"
    path.write_bytes(model(values, names(3), grams=(3, 6), version=11, kind=3))
    assert np.array_equal(rows_of(path), values)


def test_words_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(model(matrix_of("float32", 2), [b"a", b"k\xf6ln"]))
    with pytest.raises(SourceError, match="the word of row 1 is no UTF-8"):
        qstore.build(path, tmp_path / "x.h5")
    qstore.build(path, tmp_path / "x.h5", key_encoding="latin-1")
    with qstore.open(tmp_path / "x.h5") as store:
        assert store.rows_of(["köln"]).tolist() == [1]


VALUES = matrix_of("float32", 3)
BAD: dict[str, tuple[bytes, str]] = {
    "quantized": (model(VALUES, names(3), quantized=True), "quantized fastText model (.ftz)"),
    "pruned": (model(VALUES, names(3), pruned=0), "quantized fastText model (.ftz)"),
    "version": (model(VALUES, names(3), version=13), "found version 13"),
    "rows": (model(VALUES, names(4)), "a matrix of 3 × 5, expected at least 4 rows"),
    "buckets": (model(VALUES, names(3), grams=(3, 6)), "expected at least 43 rows"),
    "long n-grams": (model(VALUES, names(3), grams=(3, 65)), "n-grams up to 65"),
    "long word": (model(VALUES, [b"a", b"b" * 70_000, b"c"]), "a word of"),
    "labels": (
        model(VALUES, names(3)).replace(b"w1\0\7" + bytes(8), b"w1\0\7" + bytes(7) + b"\1"),
        "of type 1",
    ),
    "counts": (
        model(VALUES, names(3)).replace(struct.pack("<2i", 3, 3), struct.pack("<2i", 4, 3)),
        "4 entries",
    ),
    "absurd": (
        model(VALUES, names(3)).replace(struct.pack("<2i", 3, 3), struct.pack("<2i", 2**31 - 1, 2**31 - 1)),
        "2147483647 words",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    (tmp_path / "m.bin").write_bytes(content)
    refused(tmp_path / "m.bin", words)


def test_names_that_are_not_there(tmp_path: Path) -> None:
    refused(make_words(tmp_path, VALUES), "'words', 'input'", tensor="output", error=TensorError)
