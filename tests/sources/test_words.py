"""Word vectors: word2vec's binary files, and text with a header or without."""

from __future__ import annotations

import functools
import gzip
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import DIM, ROWS, Make, Maker, SourceContract, matrix_of, refused, same
from work_bounds import little_work

import qstore
from qstore.errors import NonFiniteError, SourceError
from qstore.sources import TensorInfo, list_tensors, open_source
from qstore.sources.base import KeyedSource
from qstore.sources.words.binary import BinaryWordVectors
from qstore.sources.words.text import TextWordVectors

WORDS = ["the", "Zürich", "語", "it's", "…", "100", "-", "nan", "e5", '"'] + [f"w{n}" for n in range(40_000)]
SMALL = np.array([[1, -2.5, 3e-5], [0, 0.1, -7]], np.float32)


def binary(
    values: NDArray[Any], words: Sequence[str | bytes] = WORDS, end: bytes = b"", header: str | None = None
) -> bytes:
    """A file as gensim writes it (end b"") or word2vec.c (end b"\\n")."""
    rows = zip(words, np.asarray(values, "<f4"), strict=False)
    body = b"".join(as_bytes(word) + b" " + row.tobytes() + end for word, row in rows)
    return (f"{values.shape[0]} {values.shape[1]}\n" if header is None else header).encode() + body


def text(
    values: NDArray[Any], words: Sequence[str | bytes] = WORDS, end: str = "\n", header: str | None = None
) -> bytes:
    """A file with every float32 in 17 digits or fewer."""
    rows = zip(words, row_texts(np.asarray(values, "<f4").tobytes(), values.shape[1]), strict=False)
    lines = [as_bytes(word) + f" {row}{end}".encode() for word, row in rows]
    return (f"{values.shape[0]} {values.shape[1]}\n" if header is None else header).encode() + b"".join(lines)


@functools.lru_cache(2)
def row_texts(data: bytes, dim: int) -> list[str]:
    """Rows of float32, their numbers with spaces between them."""
    return [repr(row)[1:-1].replace(",", "") for row in np.frombuffer(data, "<f4").reshape(-1, dim).tolist()]


def as_bytes(word: str | bytes) -> bytes:
    return word.encode() if isinstance(word, str) else word


def into(name: str, layout: Any, **options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        path = directory / name
        content = layout(values, **options)
        path.write_bytes(gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content)
        return path

    return make


MEMORY = 16 << 20  # a block of the file some times over
STREAM: dict[str, Any] = {"sliced": False, "tells_length": False, "working_memory": MEMORY}
NO_HEADER: dict[str, Any] = {**STREAM, "rows_known": False, "holds_no_rows": False}


class TestContract(SourceContract):
    makers: ClassVar = {
        "binary": Maker(into("model.bin", binary), **STREAM),
        "binary-line-ends": Maker(into("model.bin", binary, end=b"\n"), **STREAM),
        "binary-other-name": Maker(into("vectors.w2v", binary), **STREAM),
        "binary-gzip": Maker(into("model.bin.gz", binary), **STREAM),
        "word2vec": Maker(into("model.txt", text), **STREAM),
        "word2vec-gzip": Maker(into("model.txt.gz", text), **STREAM),
        "fasttext": Maker(into("model.vec", text, end=" \n"), **STREAM),
        "glove": Maker(into("glove.txt", text, header=""), **NO_HEADER),
        "glove-gzip": Maker(into("glove.gz", text, header=""), **NO_HEADER),
        "glove-windows": Maker(into("glove.txt", text, header="", end="\r\n"), **NO_HEADER),
    }


def rows_and_words(path: Path, start: int = 0) -> tuple[NDArray[Any], list[str]]:
    with open_source(path) as source:
        assert isinstance(source, KeyedSource)
        pairs = list(source.keyed_chunks(start))
    keys = [key for _, part in pairs for key in part]
    return np.concatenate([chunk for chunk, _ in pairs]), [str(key) for key in keys]


def fails(path: Path, *words: str) -> None:
    """Reading to the end is an error, soon, with these words in it."""
    with little_work(), pytest.raises(SourceError) as caught, open_source(path) as source:
        for _ in source.keyed_chunks():
            pass
    assert type(caught.value) is SourceError
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000 + len(str(path))
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.txt"


# ------------------------------------------------------------- values and words


@pytest.mark.parametrize("name", ["m.bin", "m.bin.gz", "m.txt", "m.txt.gz", "m.none"])
def test_equals_gensim(tmp_path: Path, name: str) -> None:
    models = pytest.importorskip("gensim.models", reason="gensim writes and reads word vectors")
    values = matrix_of("float32", 1000, 17) * np.float32(1e-3)
    values[3, :4] = [3.4028235e38, 1e-45, -0.0, 16777217]
    vectors = models.KeyedVectors(17)
    vectors.add_vectors(WORDS[:1000], values)
    vectors.save_word2vec_format(
        str(tmp_path / name), binary=".bin" in name, write_header=not name.endswith("none")
    )
    found, words = rows_and_words(tmp_path / name)
    assert words == WORDS[:1000]
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), values.view(np.uint32))
    if not name.endswith("none"):  # gensim leaves such files open
        loaded = models.KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=".bin" in name)
        assert np.array_equal(found, loaded.vectors)


def test_text_rounds_like_gensim(path: Path) -> None:
    """More digits than float32 holds, near the middle of two float32: by way of float64."""
    word2vec = pytest.importorskip("gensim.models.keyedvectors", reason="gensim reads word vectors")
    numbers = ["1.00000005960464477539062", "1.0000000596046447754", "0.1", "3.4028235e38", "7e-46", "1e-60"]
    path.write_text(f"1 {len(numbers)}\nw {' '.join(numbers)}\n")
    loaded = word2vec.KeyedVectors.load_word2vec_format(str(path), binary=False).vectors
    assert np.array_equal(rows_and_words(path)[0], loaded)


def test_text_and_binary_build_the_same_store(tmp_path: Path) -> None:
    values = matrix_of("float32") * np.float32(0.01)
    ids = []
    for name, content in (("m.bin", binary(values)), ("m.vec", text(values))):
        (tmp_path / name).write_bytes(content)
        qstore.build(tmp_path / name, tmp_path / "store.h5", overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            ids.append((store.content_id, store.codes.tobytes(), store.scales.tobytes()))
    assert ids[0] == ids[1]
    assert ids[0][1] == qstore.quantize(values)[0].tobytes()


@pytest.mark.parametrize("content", [binary, text], ids=["binary", "text"])
def test_many_blocks(tmp_path: Path, content: Any) -> None:
    rows = 40_000 if content is binary else 10_000
    values = matrix_of("float32", rows, 60)
    path = tmp_path / "many"
    path.write_bytes(content(values))
    for start in (0, rows // 2 + 9, rows - 1):
        found, words = rows_and_words(path, start)
        assert np.array_equal(found, values[start:])
        assert words == WORDS[start:rows]
    with open_source(path) as source:
        assert len(list(source.chunks())) > 2
        assert sum(len(chunk) for chunk in source.chunks(rows)) == 0


@pytest.mark.parametrize("length", [1, 2, 3, 5, 17])
@pytest.mark.parametrize("content", [binary, text], ids=["binary", "text"])
def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: Any, content: Any, length: int) -> None:
    monkeypatch.setattr(f"qstore.sources.words.{content.__name__}._BLOCK_BYTES", length)
    path, values = tmp_path / "x", matrix_of("float32", 12)
    path.write_bytes(content(values))
    found, words = rows_and_words(path)
    assert np.array_equal(found, values)
    assert words == WORDS[:12]


@pytest.mark.parametrize("name", ["x.bin", "x.txt", "x.bin.gz", "x.vec.gz"])
def test_tensors(tmp_path: Path, name: str) -> None:
    path = into(name, binary if ".bin" in name else text)(tmp_path, matrix_of("float32"))
    assert list_tensors(path) == [TensorInfo("", (ROWS, DIM), "float32")]
    refused(path, "without a name", tensor="w")


def test_tensors_without_a_header(path: Path) -> None:
    path.write_bytes(text(matrix_of("float32", 10_000, 60), header="") + b"\n\n")
    assert list_tensors(path) == [TensorInfo("", (10_000, 60), "float32")]


def test_keys_come_with_chunks(path: Path) -> None:
    path.write_bytes(text(SMALL))
    with open_source(path) as source:
        assert source.keyed
        assert [keys for _, keys in source.keyed_chunks(1)] == [["Zürich"]]
    with open_source(SMALL) as source:
        assert not source.keyed
        with pytest.raises(SourceError, match="the source carries no keys"):
            source.keyed_chunks()


@pytest.mark.parametrize("word", [". . .", "at name@domain.com", "• Move to", "a  b", " x", ""])
def test_words_with_spaces(path: Path, word: str) -> None:
    """GloVe's vectors of 840 billion words have such."""
    path.write_bytes(text(SMALL, ["the", word], header=""))
    found, words = rows_and_words(path)
    assert np.array_equal(found, SMALL)
    assert words == ["the", word]


@pytest.mark.parametrize("word", ["\x85", "\u2028", "\xa0", "\x1c", "a\tb", "\ufeff", "\x0b"])
def test_odd_characters_are_part_of_words(path: Path, word: str) -> None:
    path.write_bytes(text(SMALL, ["the", word]))
    assert rows_and_words(path)[1] == ["the", word]


@pytest.mark.parametrize("word", ["\x85", "\x01", "\r", "a\tb", "", "語" * 1000])
def test_odd_words_in_binary(path: Path, word: str) -> None:
    path.write_bytes(binary(SMALL, [word, word]))
    assert rows_and_words(path)[1] == [word, word]


@pytest.mark.parametrize("header", ["2 3\n", "2 3 \n", "2\t3\r\n", "02 03\n", "\ufeff2 3\n", "\ufeff"])
def test_headers(path: Path, header: str) -> None:
    path.write_bytes(text(SMALL, header=header))
    found, words = rows_and_words(path)
    assert np.array_equal(found, SMALL)
    assert words == WORDS[:2]


def test_ids_are_words(path: Path) -> None:
    path.write_text("17 0.5 1\n4 1.5 2\n")
    found, words = rows_and_words(path)
    assert found.tolist() == [[0.5, 1], [1.5, 2]]
    assert words == ["17", "4"]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n  \n\t\n"])
def test_ends_of_text(path: Path, end: str) -> None:
    path.write_bytes(text(SMALL).rstrip() + end.encode())
    assert np.array_equal(rows_and_words(path)[0], SMALL)


@pytest.mark.parametrize("header", ["2 3\n", ""])
def test_numbers_that_are_not_finite(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.txt").write_text(header + "a 1 2 3\nb 1 -inf nan\n")
    assert same(rows_and_words(tmp_path / "x.txt")[0][1, :2], np.array([1, -np.inf]))
    with pytest.raises(NonFiniteError, match="row 1, column 1"):
        qstore.build(tmp_path / "x.txt", tmp_path / "store.h5")
    qstore.build(tmp_path / "x.txt", tmp_path / "store.h5", nonfinite="zero")


def test_too_large_for_float32_is_infinite(path: Path) -> None:
    path.write_text("a 1e300 2\n")
    assert rows_and_words(path)[0].tolist() == [[np.inf, 2]]


def test_gzip_in_members(tmp_path: Path) -> None:
    """As bgzip and pigz write it, or `cat` joins it."""
    content = binary(SMALL)
    for cut in (0, 3, 20, len(content)):
        (tmp_path / "x.gz").write_bytes(gzip.compress(content[:cut]) + gzip.compress(content[cut:]))
        assert np.array_equal(rows_and_words(tmp_path / "x.gz")[0], SMALL)


@pytest.mark.parametrize("dim", [1, 2, 70])
def test_binary_is_told_from_text(tmp_path: Path, dim: int) -> None:
    for seed in range(50):
        values = matrix_of("float32", 3, dim, seed)
        (tmp_path / "x.bin").write_bytes(binary(values))
        (tmp_path / "x.txt").write_bytes(text(values))
        for name in ("x.bin", "x.txt"):
            with open_source(tmp_path / name) as source:
                assert isinstance(source, BinaryWordVectors if name == "x.bin" else TextWordVectors)
                assert np.array_equal(np.concatenate(list(source.chunks())), values)


# ------------------------------------------------------------------ what is refused


BAD_TEXT = {
    "too few": ("a 1 2 3\nb 1 2\n", "line 2 expected a word and 3 numbers", "found 2 numbers: b'b 1 2'"),
    "too many": ("a 1 2 3\nb 1 2 3 4\n", "line 2 expected a word and 3 numbers", "found 4 numbers"),
    "word alone": ("a 1 2 3\nb\n", "line 2 expected", "found 0 numbers"),
    "no word": ("a 1 2 3\n1 2 3\n", "line 2 expected", "found 2 numbers"),
    "two spaces": ("1 3\na  1 2 3\n", "line 2 expected", "single spaces"),
    "two spaces inside": ("2 3\na 1  2 3\nb 1 2 3\n", "line 2 expected"),
    "header wider": ("2 4\na 1 2 3\nb 1 2 3\n", "line 2 expected a word and 4 numbers", "found 3"),
    "header narrower": ("2 2\na 1 2 3\nb 1 2 3\n", "line 2 expected a word and 2 numbers", "found 3"),
    "header one": ("2 1\na 1 2 3\nb 1 2 3\n", "line 2 expected a word and 1 numbers"),
    "more rows": ("2 3\na 1 2 3\nb 1 2 3\nc 1 2 3\n", "header says 2 rows, found at least 3"),
    "fewer rows": ("4 1\na 1\nb 1.5000000\n", "header says 4 rows, found 2"),
    "blank inside": ("a 1 2 3\n\n\nb 1 2 3\n", "line 2 is blank"),
    "blank first": ("1 3\n \na 1 2 3\n", "line 2 is blank"),
    "no number": ("a 1 2 3\nb 1 2 x\n", "line 2 expected a number, found 'x'"),
    "no number, later": (
        "a 1 2 3\n" * 9 + "b 1 語 2\n" + "a 1 2 3\n",
        "line 10 expected a number, found '語'",
    ),
    "hexadecimal": ("a 1 2 3\nb 1 0x1 3\n", "line 2 expected a number, found '0x1'"),
    "underscore": ("a 1 2 3\nb 1 1_0 3\n", "line 2 expected a number, found '1_0'"),
    "comma": ("a 1.5 2 3\nb 1 1,5 3\n", "line 2 expected a number, found '1,5'"),
    "complex": ("a 1.5 2 3\nb 1 1j 3\n", "line 2 expected a number, found '1j'"),
    "carriage return": ("a 1.5 2 3\nb 1 2\r3 3\n", "line 2 expected a number"),
    "NUL": ("a 1.5 2 3\nb 1 2 3\nc\0 1 2 3\n", "line 3 holds a NUL byte"),
    "NUL first": ("a\0 1.5 2 3\n", "line 1 holds a NUL byte"),
    "all integers": ("1 2 3\n4 5 6\n", "line 1 is all numbers", "np.loadtxt"),
    "all floats": ("1.0 2 3\n4 5 6\n", "line 1 is all numbers"),
    "no columns": ("1 0\n", "at least 1 column"),
    "one word": ("hello\n", "line 1 expected a word and numbers"),
    "prose": ("the quick brown fox\n", "line 1 expected a number, found 'quick'"),
    "comma separated": ("a,1,2\n", "line 1 expected a word and numbers"),
    "negative header": ("-1 3\na 1 2 3\n", "line 1 is all numbers"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_text_refused(path: Path, name: str) -> None:
    content, *words = BAD_TEXT[name]
    path.write_text(content, newline="")
    fails(path, *words)
    assert not list(path.parent.glob("*.h5*"))


def test_nothing_is_published(path: Path) -> None:
    path.write_text("a 1 2 3\nb 1 2\n")
    with pytest.raises(SourceError, match="line 2"):
        qstore.build(path, path.with_name("store.h5"))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_wrong_line_is_named_in_a_large_file(path: Path) -> None:
    lines = text(matrix_of("float32", 10_000, 60)).split(b"\n")
    lines[8_000] = lines[8_000][:-300]
    path.write_bytes(b"\n".join(lines))
    fails(path, "line 8001 expected a word and 60 numbers")


BAD_BINARY: dict[str, tuple[bytes, list[str]]] = {
    "fewer rows": (binary(SMALL, header="1 3\n"), ["goes on after its last row", "says 1 rows"]),
    "more rows": (binary(SMALL, header="3 3\n"), ["ends early", "says 3 rows"]),
    "wider": (binary(SMALL, header="2 4\n"), ["ends early"]),
    "narrower": (binary(SMALL, header="2 2\n"), ["goes on after its last row", "the header is wrong"]),
    "space in a word": (binary(SMALL, ["a b", "c"]), ["row 1 is no UTF-8", "its header is wrong"]),
    "rest": (binary(SMALL, end=b"\n") + b"x", ["goes on after its last row"]),
    "no space": (b"1 3\n" + b"\xff" * 100_000, ["row 0 expected a word of at most 65536 bytes"]),
    "long word": (binary(SMALL, ["a", b"\xc3\xbc" * 40_000]), ["row 1 expected a word of at most 65536"]),
    "no columns": (b"1 0\n\0", ["at least 1 column"]),
    "absurd rows": (b"1000000000000000000 3\n\0", ["ends early", "13000000000000000000 bytes"]),
    "absurd columns": (b"1 1000000000000000000\n\0", ["ends early"]),
    "absurd both": (b"99999999999999999999 99999999999999999999\n\0", ["ends early"]),
    "negative rows": (b"-1 3\n\0\1\2", ["line 1 is all numbers"]),
    "fastText model": ((793712314).to_bytes(4, "little") + bytes(60), ["x.bin"]),
    "garbage": (bytes(range(256)), ["expected"]),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", BAD_BINARY)
def test_binary_refused(tmp_path: Path, name: str, packed: bool) -> None:
    content, words = BAD_BINARY[name]
    path = tmp_path / ("x.bin.gz" if packed else "x.bin")
    path.write_bytes(gzip.compress(content) if packed else content)
    if packed:  # what a packed file may hold is a guess, so other numbers are named
        words = words[:1]
    fails(path, *words)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("header", [f"{10**18} 3", f"3 {10**18}", f"{10**19} {10**19}", "1 20000000"])
def test_absurd_text_headers_take_no_memory(tmp_path: Path, header: str, packed: bool) -> None:
    path = tmp_path / ("x.txt.gz" if packed else "x.txt")
    content = f"{header}\nw 1 2 3\n".encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    fails(path, "ends early: its header says")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 << 20


@pytest.mark.parametrize("content", [binary, text], ids=["binary", "text"])
def test_words_that_are_no_utf8(tmp_path: Path, content: Any) -> None:
    """word2vec.c cuts words at 99 bytes, in the middle of a character."""
    path = tmp_path / "x"
    path.write_bytes(content(SMALL, ["fine", b"Z\xc3"]))
    line = " (line 3)" if content is text else ""
    fails(path, f"the word of row 1{line} is no UTF-8: b'Z\\xc3'", '"utf-8:replace"')
    kind = BinaryWordVectors if content is binary else TextWordVectors
    with kind(str(path), key_encoding="utf-8:replace") as source:
        ((found, words),) = source.keyed_chunks()
    assert words == ["fine", "Z\ufffd"]
    assert np.array_equal(found, SMALL)
    with kind(str(path), key_encoding="utf-8:backslashreplace") as source:
        report = qstore.build(source, tmp_path / "store.h5")
    assert report.rows == 2


def test_text_of_other_encodings(path: Path) -> None:
    path.write_bytes(text(SMALL, header="").decode().encode("utf-16"))
    fails(path, "line 1 holds a NUL byte: expected UTF-8")


@pytest.mark.parametrize("content", [binary, text], ids=["binary", "text"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_truncated_at_every_length(tmp_path: Path, content: Any, packed: bool) -> None:
    """A header tells; but a last number cut short, or its line end, is a shorter number."""
    path = tmp_path / "x"
    whole = content(np.full((20, 3), 1.5, np.float32))
    data = gzip.compress(whole) if packed else whole
    most = len(data) if packed or content is binary else len(data) - len("1.5\n")
    for length in range(most):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError), open_source(path) as source:
            list(source.chunks())


@pytest.mark.parametrize("name", ["x.txt", "x.vec", "x.bin", "x.txt.gz", "x.bin.gz"])
@pytest.mark.parametrize("content", [b"", b"\n", b"\n\n\n", b"\xff\xfe" * 3000, b"\x1f\x8b" * 9, b" ", b"7"])
def test_garbage_behind_known_names(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    fails(tmp_path / name)


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    values = matrix_of("float32", 30)
    originals = [binary(values), text(values), text(values, header=""), gzip.compress(text(values))]
    outcomes = {True: 0, False: 0}
    for number in range(600):
        damaged = bytearray(originals[number % 4])
        for place in rng.choice(len(damaged), 1 + number % 3, replace=False):
            damaged[place] = rng.integers(256)
        (tmp_path / "x").write_bytes(damaged)
        try:
            with open_source(tmp_path / "x") as source:
                list(source.chunks())
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 50


def bomb(path: Path, head: bytes, unit: bytes, size: int) -> None:
    """gzip of `size` bytes in a file of a thousandth of that."""
    block = unit * ((1 << 20) // len(unit))
    with gzip.open(path, "wb", 1) as file:
        file.write(head)
        for _ in range(size // len(block)):
            file.write(block)


@pytest.mark.parametrize(
    ("head", "unit", "words"),
    [
        (b"", b"a", "line 1 is longer than 16777216 bytes"),
        (b"a 1 2\n", b"1 ", "line 2 is longer than 16777216 bytes"),
        (b"a 1 2\n", b"\0", "line 2 holds a NUL byte"),
        (b"2 2\nabc", b"\0", "row 0 expected a word of at most"),
        (b"2 2\n\0 12345678", b"\0", "row 1 expected a word of at most"),
        (b"a 1 2\n", b"\n", ""),
    ],
)
def test_bombs_stay_flat(tmp_path: Path, head: bytes, unit: bytes, words: str) -> None:
    path = tmp_path / "x.txt.gz"
    bomb(path, head, unit, 100 << 20)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    if words:
        fails(path, words)
    else:  # blank lines at the end are nothing
        assert len(rows_and_words(path)[0]) == 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 96 << 20


def test_lines_up_to_the_bound(path: Path) -> None:
    path.write_bytes(b"w" * ((1 << 24) - 4) + b" 1.5")
    found, words = rows_and_words(path)
    assert found.tolist() == [[1.5]]
    assert len(words[0]) == (1 << 24) - 4
    path.write_bytes(b"w" * ((1 << 24) - 3) + b" 1.5")
    fails(path, "line 1 is longer than 16777216 bytes")


def test_chunks_are_read_when_asked_for(tmp_path: Path) -> None:
    """Rows before a damaged place are given; the first chunk does not wait for the rest."""
    path = tmp_path / "x"
    content = binary(matrix_of("float32", 20_000, 130))
    path.write_bytes(content[:-100])
    with open_source(path) as source:
        chunks: Iterator[NDArray[Any]] = source.chunks()
        assert len(next(chunks)) > 1000
        with pytest.raises(SourceError, match="expected row 19999, found the end"):
            list(chunks)


def test_changed_while_it_was_read(path: Path) -> None:
    path.write_bytes(text(SMALL))
    with open_source(path) as source:
        source.check_unchanged()
        path.write_bytes(text(SMALL) + b"\n")
        with pytest.raises(SourceError, match="was changed"):
            source.check_unchanged()


def test_floats_are_little_endian(path: Path) -> None:
    path.write_bytes(b"1 2\nw " + struct.pack("<2f", 1.5, -2))
    assert rows_and_words(path)[0].tolist() == [[1.5, -2]]
