"""Keys in every form that users have them in: columns of other libraries, and whole numbers of every type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore

WORDS = [f"w{row}" for row in range(8)]
BEYOND = 2**63 + 5


def columns(values: list[Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names, and what makes a column of these values, or skips."""

    def of(library: str, make: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: make(pytest.importorskip(library, reason=f"{library} is not installed"))

    text = isinstance(values[0], str)
    yield "list", lambda: values
    yield "tuple", lambda: tuple(values)
    yield "array", lambda: np.array(values)
    yield "objects", lambda: np.array(values, object)
    yield "masked", lambda: np.ma.array(values)
    yield "pandas Series", of("pandas", lambda pandas: pandas.Series(values, index=range(7, 7 + len(values))))
    yield "pandas Index", of("pandas", lambda pandas: pandas.Index(values))
    yield "pandas category", of("pandas", lambda pandas: pandas.Series(values, dtype="category"))
    yield "pandas own", of("pandas", lambda p: p.Series(values, dtype="string" if text else "Int64"))
    yield "polars", of("polars", lambda polars: polars.Series(values))
    yield "pyarrow", of("pyarrow", lambda pyarrow: pyarrow.array(values))
    yield "pyarrow chunks", of("pyarrow", lambda p: p.chunked_array([values[:1], values[1:]]))
    yield "pyarrow dictionary", of("pyarrow", lambda p: p.array(values).dictionary_encode())
    if text:
        yield "strings", lambda: np.array(values, np.dtypes.StringDType())
        yield "polars category", of("polars", lambda p: p.Series(values, dtype=p.Categorical))
        yield "pyarrow view", of("pyarrow", lambda p: p.array(values, p.string_view()))
    else:
        yield "big-endian", lambda: np.array(values, ">u8")
        yield "scalars", lambda: [np.int8(values[0]), *map(np.uint64, values[1:])]
        yield "torch", of("torch", lambda torch: torch.tensor(values))


TEXT_COLUMNS = dict(columns(["w5", "w1", "w5"]))
NUMBER_COLUMNS = dict(columns([50, 10, 50]))


@pytest.fixture
def texts(tmp_path: Path) -> Iterator[qstore.Store]:
    qstore.build(np.arange(32.0).reshape(8, 4), tmp_path / "t.h5", keys=WORDS)
    with qstore.open(tmp_path / "t.h5") as store:
        yield store


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[qstore.Store]:
    qstore.build(np.arange(32.0).reshape(8, 4), tmp_path / "n.h5", keys=np.arange(8) * 10)
    with qstore.open(tmp_path / "n.h5") as store:
        yield store


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[qstore.Store]:
    qstore.build_shards(np.arange(32.0).reshape(8, 4), tmp_path / "x", 3, keys=WORDS)
    with qstore.open(tmp_path / "x") as store:
        yield store


@pytest.mark.parametrize("name", TEXT_COLUMNS)
def test_columns_of_words(texts: qstore.Store, shards: qstore.Store, name: str) -> None:
    asked = TEXT_COLUMNS[name]()
    for store in (texts, shards):
        expected = store[[5, 1, 5]]
        assert store.rows_of(asked).tolist() == [5, 1, 5]
        if name == "tuple":  # an index of several axes
            continue
        found = store[asked]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)
        assert np.array_equal(store[asked, 1:3], expected[:, 1:3])


@pytest.mark.parametrize("name", NUMBER_COLUMNS)
def test_columns_of_numbers(numbers: qstore.Store, name: str) -> None:
    assert numbers.rows_of(NUMBER_COLUMNS[name]()).tolist() == [5, 1, 5]


@pytest.mark.parametrize(
    "name", ["pandas Series", "pandas Index", "polars", "pyarrow", "array", "masked", "torch"]
)
def test_columns_of_row_numbers_are_rows(texts: qstore.Store, name: str) -> None:
    rows = dict(columns([5, 1, 5]))[name]()
    assert np.array_equal(texts[rows], texts[[5, 1, 5]])


@pytest.mark.parametrize("name", TEXT_COLUMNS)
def test_a_build_takes_columns(tmp_path: Path, name: str) -> None:
    qstore.build(np.eye(3), tmp_path / "s.h5", keys=TEXT_COLUMNS[name](), duplicates="first")
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)) == ["w5", "w1", "w5"]


@pytest.mark.parametrize("name", NUMBER_COLUMNS)
def test_a_build_takes_columns_of_numbers(tmp_path: Path, name: str) -> None:
    qstore.build(np.eye(3), tmp_path / "s.h5", keys=NUMBER_COLUMNS[name](), duplicates="first")
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)).tolist() == [50, 10, 50]


def test_nulls_are_no_keys(tmp_path: Path, texts: qstore.Store, numbers: qstore.Store) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    polars = pytest.importorskip("polars", reason="polars is not installed")
    for column in (
        pyarrow.array(["a", None, "c"]),
        polars.Series(["a", None, "c"]),
        np.ma.array(["a", "b", "c"], mask=[False, True, False]),
    ):
        with pytest.raises(TypeError, match="found None"):
            texts.rows_of(column)
        with pytest.raises(qstore.SourceError, match="row 1 has no key"):
            qstore.build(np.eye(3), tmp_path / "refused.h5", keys=column)
        qstore.build(np.eye(3), tmp_path / "s.h5", keys=column, missing_keys="none", overwrite=True)
        with qstore.open(tmp_path / "s.h5") as store:
            assert store.key_of(slice(None)) == ["a", None, "c"]
    for column in (pyarrow.array([1, None]), np.ma.array([10, 20], mask=[False, True])):
        with pytest.raises(TypeError, match="the keys of this store are whole numbers"):
            numbers.rows_of(column)
        with pytest.raises(
            qstore.SourceError, match=r"row 1 is None, expected a whole number .*str\(number\)"
        ):
            qstore.build(np.eye(2), tmp_path / "u.h5", keys=column, missing_keys="none")


def test_what_is_no_key_is_a_type_error(texts: qstore.Store, numbers: qstore.Store) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": ["w1"]})
    strange: list[Any] = [[1], [None], [b"w1"], np.array([b"w1"]), "w1", b"w1", 5, None, [["w1"]], frame]
    for wrong in [*strange, np.array("w1"), np.array([1.5]), object()]:
        with pytest.raises(TypeError):
            texts.rows_of(wrong)
    strange = [["a"], [1.0], np.array([True]), [True], [None], "5", 5, None, [[1]], np.array(5), object()]
    for wrong in [*strange, np.array([1], "m8[s]"), pandas.DataFrame({"a": [1]}), [1, "a"], [2**70, 1.0]]:
        with pytest.raises(TypeError):
            numbers.rows_of(wrong)


def test_an_index_that_is_none_is_numpys_error(texts: qstore.Store) -> None:
    for wrong in (np.array([1.5]), np.array([None, "w1"], object), np.array([["w1"]], object), object()):
        with pytest.raises(IndexError):
            texts[wrong]
    with pytest.raises(TypeError, match="found None"):
        texts[np.array(["w1", None], object)]
    with pytest.raises(qstore.MissingKeyError, match="1 of 2 keys are not in the store: 'pawn'"):
        texts[np.array(["w1", "pawn"], object)]


def test_a_column_that_gives_no_array_says_why(texts: qstore.Store, tmp_path: Path) -> None:
    class Lazy:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("it lies elsewhere")

        def __iter__(self) -> Iterator[str]:
            return iter(["w1"])

    with pytest.raises(
        TypeError, match=r"of type Lazy and give no array .it lies elsewhere.: expected a list"
    ):
        texts.rows_of(Lazy())
    with pytest.raises(qstore.SourceError, match="of type Lazy and give no array"):
        qstore.build(np.eye(1), tmp_path / "s.h5", keys=Lazy())


# Whole numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", [f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in "1248"]
)
def test_integers_of_every_type(tmp_path: Path, dtype: str) -> None:
    about = np.iinfo(dtype)
    keys = np.array([7, min(int(about.max), 2**63 - 1), int(about.min), 1], dtype)
    qstore.build(np.eye(4), tmp_path / "s.h5", keys=keys)
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)).tolist() == keys.tolist()
        assert store.rows_of(keys).tolist() == [0, 1, 2, 3]
        assert store.rows_of(keys.tolist()).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "asked",
    [
        np.array([BEYOND], "u8"),
        np.array([BEYOND], ">u8"),
        np.array([BEYOND], object),
        [BEYOND],
        [np.uint64(BEYOND)],
        (2**64,),
        [-(2**63) - 1],
        [10**30],
    ],
    ids=repr,
)
def test_numbers_beyond_64_bits_with_sign_are_in_no_store(
    numbers: qstore.Store, tmp_path: Path, engine: str, asked: Any
) -> None:
    assert numbers.rows_of(asked, default=-1).tolist() == [-1]
    mixed = [10, *(int(number) for number in asked), 70]
    assert numbers.rows_of(mixed, default=-1).tolist() == [1, -1, 7]
    with pytest.raises(qstore.MissingKeyError, match=f"not in the store: .*{int(asked[0])}"):
        numbers.rows_of(asked)
    with pytest.raises(qstore.SourceError) as caught:
        qstore.build(np.eye(1), tmp_path / "s.h5", keys=asked)
    assert f"the key of row 0 is {int(asked[0])}, expected a whole number of 64 bits with sign" in str(
        caught.value
    )
    assert re.search(
        r"from -2\*\*63 to 2\*\*63 - 1; texts can be of any length: str\(number\)", str(caught.value)
    )
    qstore.build(np.eye(1), tmp_path / "s.h5", keys=[str(int(number)) for number in asked])
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.rows_of([str(int(asked[0]))]).tolist() == [0]


def test_wrapped_numbers_are_not_found(tmp_path: Path) -> None:
    """2**64 - 3 is not -3, in whatever order its bytes come."""
    qstore.build(np.eye(2), tmp_path / "s.h5", keys=[-3, 5])
    with qstore.open(tmp_path / "s.h5") as store:
        for dtype in ("<u8", ">u8"):
            asked = np.array([2**64 - 3, 5], dtype)
            assert store.rows_of(asked, default=-1).tolist() == [-1, 1]
            with pytest.raises(qstore.SourceError, match="18446744073709551613"):
                qstore.build(np.eye(2), tmp_path / "t.h5", keys=asked)


def test_truth_values_are_no_numbers(tmp_path: Path) -> None:
    for keys in ([True, False], np.array([True, False]), [1, True]):
        with pytest.raises(qstore.SourceError, match="is True, expected"):
            qstore.build(np.eye(2), tmp_path / "s.h5", keys=keys)


def test_bytes_are_no_text_and_what_to_do(tmp_path: Path) -> None:
    keys = [b"a", b"\xc3\xa9"]
    for form in (keys, np.array(keys), np.array(keys, object)):
        with pytest.raises(qstore.SourceError, match=r"is b'a', expected text; .*key\.decode\(\)"):
            qstore.build(np.eye(2), tmp_path / "s.h5", keys=form)
    qstore.build(np.eye(2), tmp_path / "s.h5", keys=[key.decode() for key in keys])
    with qstore.open(tmp_path / "s.h5") as store:
        assert store.key_of(slice(None)) == ["a", "é"]
