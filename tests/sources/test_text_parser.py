"""Word vectors as text, read by the extension: rows, words and errors as specified, bit for bit."""

from __future__ import annotations

import contextlib
import gzip
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_engine import native
from hypothesis import given, settings
from hypothesis import strategies as st

from qstore.engine import kernels
from qstore.errors import SourceError
from qstore.sources import open_source
from qstore.sources.words import text
from qstore.sources.words.text import TextWordVectors, count_lines

pytestmark = pytest.mark.skipif(
    native is None, reason="qstore._native is not installed: there is one reader only"
)

GOOD = st.one_of(
    st.floats(width=32, allow_nan=False).map(repr),
    st.floats(-10, 10).map("{:.4f}".format),
    st.integers(-999, 999).map(str),
)
ODD_NUMBERS = [
    *["nan", "NaN", "-nan", "+nan", "inf", "-INF", "Infinity", "infi", "infinit", "nan(1)", "na", "i"],
    *["0x1p3", "0x1", "1_000", "1,5", "1j", "1d5", "1f", "1e", "1e+", "e5", ".", "", "+", "--1", "+-1"],
    *["1e400", "-1e400", "1e-400", "1e99999999999999999999", "1e-99999999999999999999", "0e999999999999"],
    *["1e-45", "7.006492321624085e-46", "7.1e-46", "-1e-46", "1e-66", "4.9e-324", "3.4028235677973366e38"],
    *["3.4028235677973362e38", "1e38", "1e39", "+1", ".5", "5.", "-.5E+3", "-0", "-0.0", "007", "1E5"],
    *["1.e5", "1..2"],
    *["0" * 30 + "1", "9" * 40, "0." + "0" * 40 + "1", "1." + "0" * 40 + "1", "1" + "0" * 30, "0" * 50],
    *["18446744073709551615", "18446744073709551616", "9007199254740993", "9007199791611904.5"],
    *["1.00000005960464477539062", "1.000000059604644775390625", "1.00000005960464477539062500001"],
    *["\u0661", "\xa01", "1\xa0", "1\x0b", "1\x1c", "1\x85", "\ufeff1", "1\r", "1\0", "½"],
]
ODD_WORDS = [
    *["the", "w1", "", " ", "a b", ". . .", "at 1", "1", "-1.5", "nan", "a nan", "inf 1", "a 1e5 b", "a\tb"],
    *["a\t1", "\xa0", "\x85", "\u2028", "\ufeff", "\x0b", "\x1c", "\r", "a\rb", "語", "a  b", " a", "a "],
    *["1" * 25, "a " + "1" * 25, "a 1." + "0" * 30 + "1"],
]
WORDS = st.one_of(st.sampled_from(ODD_WORDS).map(str.encode), st.binary(max_size=5))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Most of it as it should be."""

    def mostly(usual: str, others: list[str]) -> str:
        return draw(st.sampled_from(others)) if draw(st.integers(0, 24)) == 24 else usual

    dim, rows = draw(st.integers(1, 4)), draw(st.integers(0, 8))
    space = draw(st.sampled_from([" ", " ", "\t"]))
    tab = draw(st.sampled_from([" ", " ", "\t"]))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", " \n"]))
    lines = []
    for _ in range(rows):
        word = draw(WORDS) if draw(st.integers(0, 3)) == 3 else b"word"
        numbers = [mostly(draw(GOOD), ODD_NUMBERS) for _ in range(int(mostly(str(dim), ["0", "1", "5"])))]
        between = [mostly(space, ["  ", "\t", " \t", "\r", " "]) for _ in numbers[1:]] + [""]
        line = "".join(number + gap for number, gap in zip(numbers, between, strict=False))
        behind = mostly(tab, ["\t", " ", "  ", "\n"])
        ending = mostly(end, ["\n", "\t\n", " \r\n", "\n\n", "\n \n", "\r", "\r\r\n", ""])
        lines.append(word + (behind + line + ending).encode())
    body = b"".join(lines)
    head = mostly(f"{rows} {dim}\n", ["", f"{rows + 1} {dim}\n", f"{rows} {dim + 1}\n", "\ufeff", "9\n"])
    rest = mostly("", ["\n\n", " \t\n", "\0", "x"])
    whole = head.encode() + body + rest.encode()
    return whole.rstrip(b"\n") if draw(st.booleans()) else whole


Found = tuple[list[Any], str]


def read(path: Path, start: int, threads: int = 1) -> Found:
    """Everything that can be told of the rows, and the error that ends them."""
    pieces: list[Any] = []
    try:
        with TextWordVectors(str(path)) as source:
            source.threads = threads
            pieces.append((source.rows, source.dim))
            for row, words, values, line in source._word_rows(start):
                pieces.append((row, words, values.tobytes(), line))
            pieces.append(source.count_rows())
    except SourceError as error:
        return pieces, str(error)
    return pieces, ""


@contextlib.contextmanager
def specified() -> Iterator[None]:
    """Without the extension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_native", None)
        yield


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("block", [7, 64, 1 << 19])
def test_as_specified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, threads: int) -> None:
    path = tmp_path / "x.txt"
    monkeypatch.setattr(text, "_BLOCK_BYTES", block)

    @given(files(), st.sampled_from([0, 0, 0, 1, 3]))
    @settings(max_examples=100 if threads == 1 else 25)
    def compare(content: bytes, start: int) -> None:
        path.write_bytes(content)
        with specified():
            expected = read(path, start)
        assert read(path, start, threads) == expected

    compare()


def parsed(numbers: list[str]) -> Any:
    values = np.empty((1, len(numbers)), np.float32)
    words = native.parse_rows(b"w " + " ".join(numbers).encode(), False, values)
    return None if words is None else values


def bits(values: Any) -> Any:
    return values.view(np.uint32).tolist()


NUMBERS = st.one_of(
    st.floats(width=32).map(repr),
    st.floats().map(repr),
    st.builds("{}e{}".format, st.integers(0, 10**19 - 1), st.integers(-70, 45)),
    st.builds("-{}.{}".format, st.integers(0, 10**10 - 1), st.text("0123456789", max_size=9)),
)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_numbers_of_up_to_19_digits_are_read_like_numpy_reads_them(numbers: list[str]) -> None:
    found = parsed(numbers)
    assert found is not None
    with np.errstate(all="ignore"):
        assert bits(found) == bits(np.loadtxt([" ".join(numbers)], np.float32, ndmin=2))


@given(st.integers(1, 0x7F7FFFFE), st.integers(-1, 1), st.integers(0, 30))
def test_half_way_between_two(place: int, side: int, more: int) -> None:
    """Digits beyond the nineteenth decide; what is exactly in the middle may be left to the specification."""
    low, high = np.array([place, place + 1], np.uint32).view(np.float32).astype(np.float64)
    numerator, denominator = (float(low + high) / 2).as_integer_ratio()
    power = len(str(denominator)) * 4
    digits = numerator * 10**power // denominator * 10**more + side
    number = f"{digits}e{-power - more}"
    found = parsed([number])
    if found is not None:
        assert bits(found) == bits(np.array([[float(number)]]).astype(np.float32))


def test_every_power_in_the_table() -> None:
    rng = np.random.default_rng(1)
    for power in range(-80, 50):
        numbers = [f"{number}e{power}" for number in rng.integers(1, 10**19, 50, np.uint64).tolist()]
        with np.errstate(all="ignore"):
            expected = np.array([[float(number) for number in numbers]]).astype(np.float32)
        assert bits(parsed(numbers)) == bits(expected)


def test_signs_of_nan_and_zero() -> None:
    found = parsed(["nan", "-nan", "-0", "-1e-99"])
    assert bits(found)[0] == [0x7FC00000, 0xFFC00000, 0x80000000, 0x80000000]


@given(st.lists(st.sampled_from([b"a", b"", b" ", b"\t\r", b"\r", b" x", b"\0"]), max_size=9))
def test_lines_are_counted_as_specified(lines: list[bytes]) -> None:
    content = b"\n".join(lines)
    with specified():
        expected = count_lines(content)
    assert count_lines(content) == expected


def test_arguments() -> None:
    values = np.empty((2, 3), np.float32)
    assert native.parse_rows(b"a 1 2 3\nb 4 5 6", False, values) == [b"a", b"b"]
    assert values.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert native.parse_rows(b"a 1 2 3\nb 4 5 6\n", False, values) is None  # a third line
    assert native.parse_rows(b"a 1 2 3", False, values) is None
    assert native.parse_rows(b"", False, values[:0]) is None
    assert native.parse_rows(memoryview(b"xa\t1 2\t3")[1:], True, values[:1]) == [b"a"]
    for bad in (values[:, :0], values.astype(np.float64), values[:, ::2], values[0]):
        with pytest.raises((TypeError, ValueError), match="values"):
            native.parse_rows(b"a 1 2 3\nb 4 5 6", False, bad)
    for bad_text in ("a 1", memoryview(b"a 1 2 3")[::2], 7):
        with pytest.raises((TypeError, ValueError), match=r"text|buffer|bytes-like"):
            native.parse_rows(bad_text, False, values)
        with pytest.raises((TypeError, ValueError), match=r"text|buffer|bytes-like"):
            native.count_lines(bad_text)
    with pytest.raises(TypeError, match="3 arguments"):
        native.parse_rows(b"a 1")
    with pytest.raises(TypeError, match="1 argument"):
        native.count_lines()


# ---------------------------------------------------------------------- read ahead


def large(path: Path, rows: int = 40_000) -> Path:
    path.write_bytes(b"".join(b"w%d 0.5 %d\n" % (number, number) for number in range(rows)))
    return path


def test_closed_while_it_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1 << 12)
    before = threading.active_count()
    with open_source(large(tmp_path / "x.txt")) as source:
        source.threads = 2
        chunks = source.chunks()
        assert len(next(chunks)) > 0
        assert threading.active_count() > before
    assert threading.active_count() == before
    assert list(chunks) == []


def test_rows_before_an_error_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far ahead it was found."""
    monkeypatch.setattr(text, "_BLOCK_BYTES", 1 << 12)
    path = large(tmp_path / "x.txt")
    whole = path.read_bytes()
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress(whole, 1)[:-4])
    path.write_bytes(whole[:300_000] + b"\0" + whole[300_000:])
    for broken, words in ((path, "NUL"), (packed, "ends early")):
        counts = [rows_before_error(broken, threads, words) for threads in (1, 3)]
        assert counts[0] == counts[1] > 10_000


def rows_before_error(path: Path, threads: int, words: str) -> int:
    seen: list[int] = []
    with open_source(path) as source:
        source.threads = threads
        with pytest.raises(SourceError, match=words):
            seen.extend(map(len, source.chunks()))
    return sum(seen)


def test_nan_like_words_without_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"1 2\nnan 1 " + struct.pack("<I", 0x20202020) + b"2\n")
    with specified():
        expected = read(path, 0)
    assert read(path, 0) == expected
    assert "line 2" in expected[1]
