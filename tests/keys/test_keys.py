"""Rows by key against a Python dict, on both engines; how the index is made, and what damage to it does."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels, key_search
from qstore.format import layout
from qstore.format.checksums import crc32
from qstore.keys import index, packed
from qstore.keys.files import read_key_file
from qstore.opening import describe_file
from qstore.writing import journal

native: Any = kernels._native
FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
# Two texts with one hash, 0: whatever follows them, they still have one.
TWINS = ("77kepQFQ8Kl", "!0IC=VloaY")

function_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["NumPy", "C"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "_native", None)
    elif native is None:
        if os.environ.get("QSTORE_REQUIRE_EXTENSION") == "1":
            pytest.fail("QSTORE_REQUIRE_EXTENSION=1, but the extension is missing")
        pytest.skip("no extension")
    return str(request.param)


def keyed(path: Path, keys: Any, dim: int = 2, **options: Any) -> qstore.Store:
    """A store of as many rows as there are keys; row r holds r + 1."""
    rows = np.repeat(np.arange(1.0, len(keys) + 1)[:, None], dim, axis=1)
    qstore.build(rows.astype(np.float32), path, keys=keys, overwrite=True, **options)
    return qstore.open(path)


def contents(path: Path) -> dict[str, bytes]:
    """Files of a folder."""
    return {entry.name: entry.read_bytes() for entry in path.iterdir()}


def hash_of(text: str) -> int:
    """The hash as the format page has it."""
    source = FORMAT_PAGE.read_text().partition("def text_hash")
    namespace: dict[str, Any] = {}
    exec("def text_hash" + source[2].partition("```")[0], namespace)
    result: int = namespace["text_hash"](text)
    return result


# The hash ---------------------------------------------------------------------------------------------


@function_fixture
@given(st.lists(st.text(), max_size=40))
def test_the_hash_is_that_of_the_format_page(engine: str, texts: list[str]) -> None:
    raw, offsets = key_search.encoded(texts)
    found = np.empty(len(texts), np.uint64)
    assert kernels.key_engine().hash_texts(raw, offsets, found) == -1
    assert found.tolist() == [hash_of(text) for text in texts]


def test_long_texts_have_the_same_hash_in_both_engines() -> None:
    texts = ["x" * size for size in (0, 1, 7, 1000, 70_000)] + [random.Random(1).randbytes(999).hex()] * 12
    raw, offsets = key_search.encoded(texts)
    found = [np.empty(len(texts), np.uint64) for _ in range(2)]
    for hashes, one in zip(found, (key_search, native or key_search), strict=True):
        assert one.hash_texts(raw, offsets, hashes) == -1
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("offsets", [[0, 4], [-1, 2], [2, 1], [0, 1, 0], [0, 2, 1 << 62]])
def test_offsets_that_lie_are_not_followed(engine: str, offsets: list[int]) -> None:
    out = np.empty(len(offsets) - 1, np.uint64)
    bad = kernels.key_engine().hash_texts(np.zeros(3, np.uint8), np.array(offsets), out)
    assert bad == len(offsets) - 2


def test_the_twins_have_one_hash() -> None:
    assert [hash_of(text + "!") for text in TWINS] == [hash_of(TWINS[0] + "!")] * 2


# Against a dict ---------------------------------------------------------------------------------------


@function_fixture
@given(st.lists(st.text(max_size=8), unique=True, max_size=60), st.lists(st.text(max_size=8), max_size=20))
def test_texts_are_found_as_in_a_dict(
    engine: str, tmp_path_factory: pytest.TempPathFactory, keys: list[str], others: list[str]
) -> None:
    expected = {key: row for row, key in enumerate(keys)}
    asked = keys[::-1] + others
    with (
        keyed(tmp_path_factory.mktemp("t") / "store.h5", keys) if keys else no_rows(tmp_path_factory) as store
    ):
        assert store.rows_of(asked, default=-7).tolist() == [expected.get(key, -7) for key in asked]
        assert store.key_of(slice(None)) == keys
        assert store.key_of(np.arange(len(keys))[::-1]) == keys[::-1]
        assert [key in store for key in asked] == [key in expected for key in asked]
        assert store.verify().ok


def no_rows(factory: pytest.TempPathFactory) -> qstore.Store:
    path = factory.mktemp("t") / "store.h5"
    qstore.build(np.empty((0, 2), np.float32), path, keys=[])
    return qstore.open(path)


@function_fixture
@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), unique=True, min_size=1, max_size=60), st.data())
def test_numbers_are_found_as_in_a_dict(
    engine: str, tmp_path_factory: pytest.TempPathFactory, keys: list[int], data: st.DataObject
) -> None:
    expected = {key: row for row, key in enumerate(keys)}
    near = st.sampled_from(keys).map(lambda key: min(key + 1, (1 << 63) - 1))
    asked = keys[::-1] + data.draw(st.lists(near | st.integers(-(1 << 63), (1 << 63) - 1), max_size=20))
    with keyed(tmp_path_factory.mktemp("t") / "store.h5", keys) as store:
        assert store.rows_of(asked, default=-7).tolist() == [expected.get(key, -7) for key in asked]
        assert store.key_of(slice(None)).tolist() == keys
        assert store.key_of(0) == keys[0]
        assert store.verify().ok


@pytest.mark.parametrize("kind", ["text", "dense", "skewed"])
def test_a_hundred_thousand_keys(engine: str, tmp_path: Path, kind: str) -> None:
    generator = random.Random(5)
    keys: list[Any] = [f"{generator.getrandbits(40):x}{row}" for row in range(100_000)]
    if kind != "text":
        keys = (
            list(range(100_000))
            if kind == "dense"
            else [int(1.0003**row) * 100_000 + row for row in range(100_000)]
        )
        generator.shuffle(keys)
    with keyed(tmp_path / "store.h5", keys, dim=1) as store:
        asked = generator.sample(range(100_000), 20_000)
        assert store.rows_of([keys[row] for row in asked]).tolist() == asked
        absent = [key + "?" for key in keys[:5000]] if kind == "text" else [-row for row in range(1, 5001)]
        assert (store.rows_of(absent, default=-1) == -1).all()
        assert store.verify().ok


@pytest.mark.parametrize("bits", [0, 3])
def test_forged_collisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bits: int) -> None:
    """With a hash of few bits, nearly all keys share theirs with many: bytes alone tell them apart."""
    whole = key_search.hash_texts

    def weak(text: NDArray[np.uint8], offsets: NDArray[np.int64], out: NDArray[np.uint64]) -> int:
        bad = whole(text, offsets, out)
        out &= np.uint64((1 << bits) - 1)
        return bad

    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(key_search, "hash_texts", weak)
    keys = [f"key {row * 7919 % 1000}" for row in range(1000)]
    with keyed(tmp_path / "store.h5", keys) as store:
        assert store.rows_of(keys).tolist() == list(range(1000))
        assert store.rows_of(["key 1000", ""], default=-1).tolist() == [-1, -1]
        assert store.verify().ok
    with pytest.raises(qstore.SourceError, match="rows 3 and 1000 have the same key"):
        keyed(tmp_path / "other.h5", [*keys, keys[3]])


def test_real_collisions(engine: str, tmp_path: Path) -> None:
    keys = [end + tail for tail in ("", "a", "\0", "é") for end in TWINS]
    with keyed(tmp_path / "store.h5", keys) as store:
        assert store.rows_of(keys).tolist() == list(range(len(keys)))
        assert (TWINS[0] + "b") not in store


# What users ask ---------------------------------------------------------------------------------------


@pytest.fixture
def words(tmp_path: Path) -> Iterator[qstore.Store]:
    with keyed(tmp_path / "words.h5", ["king", "queen", "", "a\0b", "ß", "𝄞"], dim=4) as store:
        yield store


def test_texts_index_rows(words: qstore.Store) -> None:
    assert np.array_equal(words["queen"], words[1])
    assert np.array_equal(words[["queen", "king", "queen"]], words[[1, 0, 1]])
    assert np.array_equal(words[np.array(["ß", "𝄞"])], words[[4, 5]])
    assert np.array_equal(words["a\0b", 1:3], words[3, 1:3])
    assert np.array_equal(words[["", "king"], :2], words[[2, 0], :2])
    assert np.array_equal(words.astype("float64")["queen"], words.astype("float64")[1])
    assert words[[]].shape == (0, 4)


def test_keys_come_back(words: qstore.Store) -> None:
    assert words.key_kind == "text"
    assert words.key_of(-1) == "𝄞"
    assert words.key_of(np.int8(3)) == "a\0b"
    assert words.key_of(slice(3, 0, -2)) == ["a\0b", "queen"]
    assert words.key_of(slice(4, 2)) == []
    assert words.key_of([5, -6]) == ["𝄞", "king"]
    assert words.key_of(np.empty(0, np.int64)) == []
    for wrong in (6, -7, [0, 6], 1.5, [[0]]):
        with pytest.raises(IndexError):
            words.key_of(wrong)


def test_what_is_missing_is_named(words: qstore.Store) -> None:
    asked = ["king", *(f"no {number}" for number in range(9)), "queen"]
    with pytest.raises(KeyError) as caught:
        words.rows_of(asked)
    assert isinstance(caught.value, qstore.MissingKeyError)
    assert str(caught.value) == (
        "9 of 11 keys are not in the store: 'no 0', 'no 1', 'no 2', 'no 3', 'no 4', …"
    )
    assert (caught.value.count, caught.value.keys[0]) == (9, "no 0")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(qstore.MissingKeyError, match=r"^this key is not in the store: 'pawn'$"):
        words["pawn"]
    with pytest.raises(KeyError, match="1 of 2 keys"):
        words[["king", "pawn"]]


def test_keys_of_another_kind_are_refused(engine: str, words: qstore.Store, tmp_path: Path) -> None:
    strange: list[Any] = [[1], ["king", 1], [b"king"], "king", 7, np.arange(3), [None]]
    for wrong in strange:
        with pytest.raises(TypeError):
            words.rows_of(wrong)
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        words.rows_of(["king", "\ud800"])
    with pytest.raises(TypeError, match="`in` looks for a text key"):
        3 in words  # noqa: B015
    with keyed(tmp_path / "ids.h5", [5, 6]) as store:
        strange = [["5"], [5.0], 5, "5", [[5]]]
        for wrong in strange:
            with pytest.raises(TypeError):
                store.rows_of(wrong)
        assert store.rows_of(np.array([6, 5], np.uint8)).tolist() == [1, 0]
        assert store.rows_of([]).tolist() == []
        with pytest.raises(TypeError):
            store["5"]
        with pytest.raises(IndexError):
            store[5]


def test_without_keys(tmp_path: Path) -> None:
    qstore.build(np.eye(3), tmp_path / "store.h5")
    with qstore.open(tmp_path / "store.h5") as store:
        assert (store.key_kind, store.format_version) == (None, (1, 1))
        for ask in (
            lambda: store.rows_of(["a"]),
            lambda: store.key_of(0),
            lambda: store["a"],
            lambda: store[["a", "b"]],
            lambda: "a" in store,
        ):
            with pytest.raises(IndexError, match="have no keys"):
                ask()
        assert store.verify().keys_ok is None


def test_a_closed_store_says_so(no_leaks: None, words: qstore.Store) -> None:
    words.close()
    for ask in (lambda: words.rows_of(["king"]), lambda: words.key_of(0), lambda: "king" in words):
        with pytest.raises(qstore.ClosedError):
            ask()


def test_threads_forks_and_pickles(words: qstore.Store) -> None:
    asked, found = ["queen", "𝄞", "king"] * 50, [1, 5, 0] * 50
    wrong: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: wrong.extend(words.rows_of(asked).tolist() != found for _ in range(200))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 800
    assert not any(wrong)
    child = os.fork()
    if not child:
        os._exit(words.rows_of(asked).tolist() != found)
    assert os.waitpid(child, 0)[1] == 0
    with pickle.loads(pickle.dumps(words)) as other:
        assert other.rows_of(asked).tolist() == found


# Building ---------------------------------------------------------------------------------------------


def test_keys_in_every_form_make_the_same_bytes(tmp_path: Path) -> None:
    keys = [f"w{row}" for row in range(5000)]
    values = np.arange(10_000.0).reshape(-1, 2)
    (tmp_path / "keys.txt").write_text("\n".join(keys) + "\n")
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    forms: list[Any] = [keys, tuple(keys), iter(keys), np.array(keys), np.array(keys, object)]
    forms += [tmp_path / "keys.txt", str(tmp_path / "keys.json"), (key for key in keys)]
    made = set()
    for number, form in enumerate(forms):
        qstore.build(values, tmp_path / f"{number}.h5", keys=form, threads=1 + number % 2)
        made.add((tmp_path / f"{number}.h5").read_bytes())
    for step in (1, 777, 5000):
        with qstore.Writer(tmp_path / f"w{step}.h5", 2, source_dtype="float64") as writer:
            for first in range(0, 5000, step):
                writer.append(values[first : first + step], keys=keys[first : first + step])
        made.add((tmp_path / f"w{step}.h5").read_bytes())
    assert len(made) == 1


def test_numbers_in_every_form_make_the_same_bytes(tmp_path: Path) -> None:
    ids = np.random.default_rng(3).permutation(3000) * 1000
    np.save(tmp_path / "ids.npy", ids)
    (tmp_path / "ids.json").write_text(json.dumps(ids.tolist()))
    forms: list[Any] = [ids, ids.tolist(), iter(ids.tolist()), ids.astype(np.uint32), ids.astype(">i8")]
    forms += [iter(ids), tmp_path / "ids.npy", tmp_path / "ids.json"]
    made = set()
    for form in forms:
        qstore.build(np.ones((3000, 2)), tmp_path / "store.h5", keys=form, overwrite=True)
        made.add((tmp_path / "store.h5").read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["text", "integer", "skewed"])
@pytest.mark.parametrize("most", [64, 1000])
def test_ranges_of_any_size_make_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, most: int
) -> None:
    numbers = np.random.default_rng(4).permutation(6000)
    keys: Any = {
        "text": [f"w{number}" for number in numbers],
        "integer": numbers * 10**15 - 10**18,
        # All but a few of the numbers lie close together: a range of them is divided again.
        "skewed": np.where(numbers < 5990, numbers, numbers - (1 << 62)),
    }[kind]
    keyed(tmp_path / "expected.h5", keys).close()
    monkeypatch.setattr(index, "MOST_SORTED", most)
    monkeypatch.setattr(index, "_BINS", 16)
    monkeypatch.setattr(index, "_STEP_ROWS", 700)
    monkeypatch.setattr(index, "_STEP_BYTES", 100)
    keyed(tmp_path / "store.h5", keys).close()
    assert (tmp_path / "store.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_duplicates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, kind: str) -> None:
    keys: list[Any] = [f"w{row % 40}" if kind == "text" else row % 40 for row in range(100)]
    with pytest.raises(
        qstore.SourceError, match=r"rows (\d+) and \d+ have the same key, .*--duplicates first"
    ):
        keyed(tmp_path / "store.h5", keys)
    assert contents(tmp_path).keys() == {"store.h5.partial", "store.h5.journal"}
    with keyed(tmp_path / "store.h5", keys, duplicates="first") as store:  # goes on with what is there
        assert store.rows_of(keys).tolist() == [row % 40 for row in range(100)]
        assert list(store.key_of(slice(None))) == keys
        assert store.verify().ok
    assert contents(tmp_path).keys() == {"store.h5"}
    monkeypatch.setattr(index, "MOST_SORTED", 2)  # fewer than there are of one value
    with keyed(tmp_path / "other.h5", keys, duplicates="first"):
        pass
    assert (tmp_path / "other.h5").read_bytes() == (tmp_path / "store.h5").read_bytes()
    with pytest.raises(qstore.SourceError, match="have the same key"):
        keyed(tmp_path / "third.h5", keys)


@pytest.mark.parametrize(
    "source",
    [lambda: np.eye(5), lambda: iter([np.eye(5)[:3], np.eye(5)[3:]]), lambda: qstore.quantize(np.eye(5))],
    ids=["rows", "stream", "codes"],
)
@pytest.mark.parametrize("count", [0, 4, 6])
@pytest.mark.parametrize("form", [list, iter])
def test_fewer_or_more_keys_than_rows(
    tmp_path: Path, source: Callable[[], Any], count: int, form: Callable[[list[str]], Any]
) -> None:
    with pytest.raises(qstore.SourceError, match=f"there are {count} keys, expected .*[35]"):
        qstore.build(source(), tmp_path / "store.h5", keys=form([f"w{row}" for row in range(count)]))
    assert not (tmp_path / "store.h5").exists()


def test_rows_take_their_keys_along(tmp_path: Path) -> None:
    values, keys = np.arange(20.0).reshape(10, 2), [f"w{row}" for row in range(10)]
    for form in (keys, iter(keys)):
        qstore.build(values, tmp_path / "store.h5", keys=form, rows=slice(3, 7), overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            assert store.key_of(slice(None)) == keys[3:7]
            assert np.array_equal(store["w4"], qstore.dequantize(*qstore.quantize(values[4:5]))[0])
    for wrong in (keys[3:7], iter([*keys, "w10"])):
        with pytest.raises(qstore.SourceError, match="expected one for each"):
            qstore.build(values, tmp_path / "other.h5", keys=wrong, rows=slice(3, 7))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["a", 1], "the key of row 1 is 1, expected text"),
        (["a", b"b"], "the key of row 1 is b'b', expected text"),
        (["a", "\ud800"], "half a surrogate pair"),
        ([1, "a"], "the key of row 1 is 'a', expected a whole number"),
        ([1, 1 << 63], "row 1 is 9223372036854775808, expected a whole number of 64 bits"),
        (np.array([1, 1 << 63], np.uint64), "row 1 is 9223372036854775808"),
        (np.array([1.0, 2.0]), "the key of row 0 is 1.0, expected text"),
        (np.array([[1], [2]]), "shape"),
        ({"a": 0, "b": 1}, "keys are of type dict"),
        (b"ab", "keys are of type bytes"),
        (7, "keys are of type int"),
        ([True, False], "the key of row 0 is True"),
    ],
)
def test_what_can_be_no_key(tmp_path: Path, keys: Any, words: str) -> None:
    with pytest.raises(qstore.SourceError, match=words):
        qstore.build(np.eye(2), tmp_path / "store.h5", keys=keys)
    assert not (tmp_path / "store.h5").exists()


def test_the_writer_wants_keys_always_or_never(tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "store.h5", 2) as writer:
        writer.append(np.empty((0, 2)), keys=[])
        writer.append([[1.0, 2.0]], keys=["a"])
        with pytest.raises(qstore.SourceError, match="keys of kind None were given, expected text"):
            writer.append([[1.0, 2.0]])
        with pytest.raises(qstore.SourceError, match="keys of kind integer were given, expected text"):
            writer.append([[1.0, 2.0]], keys=[1])
        with pytest.raises(qstore.SourceError, match="2 keys were given for 1 rows"):
            writer.append([[1.0, 2.0]], keys=["b", "c"])
        with pytest.raises(qstore.NonFiniteError):
            writer.append([[np.nan, 2.0]], keys=["d"])
        writer.append([[3.0, 4.0]], keys=["b"])
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_of(slice(None)) == ["a", "b"]
    with pytest.raises(ValueError, match='expected "error" or "first"'):
        qstore.Writer(tmp_path / "other.h5", 2, duplicates="last")  # type: ignore[arg-type]


def test_codes_take_keys(tmp_path: Path) -> None:
    codes, scales = qstore.quantize(np.eye(3))
    with qstore.Writer(tmp_path / "store.h5", 3) as writer:
        writer.append_codes(codes[:2], scales[:2], keys=[7, 8])
        writer.append_codes(codes[2:], scales[2:], keys=np.array([-1]))
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.rows_of([-1, 7]).tolist() == [2, 0]


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_no_rows(tmp_path: Path, kind: str) -> None:
    keys: Any = [] if kind == "text" else np.empty(0, np.int64)
    qstore.build(np.empty((0, 3), np.float32), tmp_path / "store.h5", keys=keys)
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_kind == kind
        assert store.rows_of(["a"] if kind == "text" else [1], default=-1).tolist() == [-1]
        assert len(store.key_of(slice(None))) == 0
        assert store.verify().ok


def test_the_content_id_tells_keys_apart(tmp_path: Path) -> None:
    ids = set()
    for keys in (None, ["a", "b"], ["b", "a"], ["ab", ""], [1, 2], [2, 1]):
        qstore.build(np.eye(2), tmp_path / "store.h5", keys=keys, overwrite=True)
        with qstore.open(tmp_path / "store.h5") as store:
            ids.add(store.content_id)
    assert len(ids) == 6


# Going on ---------------------------------------------------------------------------------------------


class Stop(Exception):
    """Interrupts a build."""


def interrupted(values: NDArray[Any], path: Path, keys: Any) -> None:
    def stop(done: int, total: int | None) -> None:
        if done >= len(values) // 2:
            raise Stop

    with pytest.raises(Stop):
        qstore.build(values, path, keys=keys, progress=stop, threads=1)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_a_build_goes_on_with_its_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 64 * 4)
    values = np.random.default_rng(2).standard_normal((1000, 4)).astype(np.float32)
    keys: list[Any] = [f"w{row}" if kind == "text" else row * 3 for row in range(1000)]
    qstore.build(values, tmp_path / "expected.h5", keys=keys)
    interrupted(values, tmp_path / "store.h5", keys)
    report = qstore.build(values, tmp_path / "store.h5", keys=keys)
    assert 400 < report.rows_resumed < 1000
    assert report.key_kind == kind
    assert (tmp_path / "store.h5").read_bytes() == (tmp_path / "expected.h5").read_bytes()


def test_a_build_does_not_go_on_with_other_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layout, "_BLOCK_CODES", 64 * 4)
    values = np.random.default_rng(2).standard_normal((1000, 4)).astype(np.float32)
    keys = [f"w{row}" for row in range(1000)]
    interrupted(values, tmp_path / "store.h5", keys)
    for other in (["x", *keys[1:]], list(range(1000)), None):
        with pytest.raises(qstore.ResumeError):
            qstore.build(values, tmp_path / "store.h5", keys=other)
    interrupted(values, tmp_path / "bare.h5", None)
    with pytest.raises(qstore.ResumeError):
        qstore.build(values, tmp_path / "bare.h5", keys=keys)
    qstore.build(values, tmp_path / "store.h5", keys=list(range(1000)), resume=False)
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_kind == "integer"


def test_a_writer_goes_on_in_a_block_that_was_not_whole(tmp_path: Path) -> None:
    keys = [f"w{row}" for row in range(30)]
    values = np.arange(60.0).reshape(30, 2)
    writer = qstore.Writer(tmp_path / "store.h5", 2, resume=True)
    writer.append(values[:20], keys=keys[:20])
    (tmp_path / "store.h5").write_bytes(b"in the way")
    with pytest.raises(qstore.ExistsError):
        writer.close()
    (tmp_path / "store.h5").unlink()
    with qstore.Writer(tmp_path / "store.h5", 2, resume=True) as writer:
        assert (writer.rows, writer.key_kind) == (20, "text")
        writer.append(values[20:], keys=keys[20:])
    with qstore.open(tmp_path / "store.h5") as store:
        assert store.key_of(slice(None)) == keys
        assert store.verify().ok


def test_a_journal_keeps_keys_with_their_block(tmp_path: Path) -> None:
    made = journal.Journal(tmp_path / "journal")
    made.start({"a": 1})
    blocks = [packed.packed(["é", ""]), packed.packed([1, -2]), None]
    for number, block in enumerate(blocks):
        made.append(journal.BlockRecord(2, number, 3, np.array([1.0, 2.0]), block))
    found = list(made.records(2))
    assert [record.rows for record in found] == []  # the checksums of the scales are made up
    made.start({"a": 1})
    scales = np.array([1.0, 2.0])
    for block in blocks:
        made.append(journal.BlockRecord(2, 5, crc32(scales), scales, block))
    whole = os.fstat(made.fd).st_size
    assert [record.keys and record.keys.payload() for record in made.records(2)] == [
        block and block.payload() for block in blocks
    ]
    for size in range(whole):  # cut anywhere: a block with all of its keys, or no such block
        os.truncate(tmp_path / "journal", size)
        for record, block in zip(made.records(2), blocks, strict=False):
            assert (record.keys and record.keys.payload()) == (block and block.payload())
    made.close()


# Files of keys ----------------------------------------------------------------------------------------


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


# Sources that carry keys ------------------------------------------------------------------------------


def glove(path: Path, words: list[str]) -> Path:
    path.write_text("".join(f"{word} {row} 1\n" for row, word in enumerate(words)))
    return path


def test_word_vectors_bring_their_keys(tmp_path: Path) -> None:
    one, two = glove(tmp_path / "a.txt", ["the", "of", "é"]), glove(tmp_path / "b.txt", ["and", "to"])
    qstore.build([one, two], tmp_path / "both.h5")
    qstore.build([one, two], tmp_path / "some.h5", rows=slice(1, 4))
    qstore.build(one, tmp_path / "bare.h5", keys=False)
    qstore.build(one, tmp_path / "other.h5", keys=[7, 8, 9])
    found = {}
    for name in ("both", "some", "bare", "other"):
        with qstore.open(tmp_path / f"{name}.h5") as store:
            found[name] = None if store.key_kind is None else list(store.key_of(slice(None)))
    assert found == {
        "both": ["the", "of", "é", "and", "to"],
        "some": ["of", "é", "and"],
        "bare": None,
        "other": [7, 8, 9],
    }
    with pytest.raises(qstore.SourceError, match=r"rows (\d) and \d have the same key, '"):
        qstore.build([one, one], tmp_path / "twice.h5")
    qstore.build([one, one], tmp_path / "twice.h5", duplicates="first")


def test_the_source_tells_whether_keys_are_right(tmp_path: Path) -> None:
    source = glove(tmp_path / "a.txt", ["the", "of", "and"])
    with keyed_from(source, tmp_path / "store.h5") as store:
        assert qstore.verify_against(store, source).ok
        other = glove(tmp_path / "b.txt", ["the", "OF", "and"])
        report = qstore.verify_against(store, other)
        assert (report.ok, report.differing_rows, report.first_differing_row) == (False, 1, 1)
        assert qstore.verify_against(store, other, keys=False).ok
        assert qstore.verify_against(store, other, keys=["the", "of", "and"]).ok
        assert qstore.verify_against(store, other, keys=[1, 2, 3]).differing_rows == 3
        with pytest.raises(qstore.SourceError, match="there are 2 keys"):
            qstore.verify_against(store, other, keys=["the", "of"])
    with keyed_from(source, tmp_path / "bare.h5", keys=False) as store:
        assert qstore.verify_against(store, source).problems == ("the rows of the store have no keys",)
        assert qstore.verify_against(store, source, keys=False).ok


def keyed_from(source: Path, path: Path, **options: Any) -> qstore.Store:
    qstore.build(source, path, **options)
    return qstore.open(path)


@pytest.mark.parametrize("name", ["w.vec", "w.bin", "w.parquet"])
@pytest.mark.parametrize("kind", ["text", "integer"])
def test_exports_take_the_keys_along(tmp_path: Path, name: str, kind: str) -> None:
    if name == "w.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    keys: list[Any] = [f"wörd{row}" if kind == "text" else row * 7 - 3 for row in range(20)]
    with keyed(tmp_path / "store.h5", keys) as store:
        qstore.export(store, tmp_path / name, rows=slice(5, 15))
        qstore.export(store, tmp_path / f"bare-{name}", keys=False)
        qstore.export(store, tmp_path / "values.npy")
    with keyed_from(tmp_path / name, tmp_path / "again.h5") as store:
        expected = keys[5:15] if name == "w.parquet" or kind == "text" else list(map(str, keys[5:15]))
        assert list(store.key_of(slice(None))) == expected
        assert store[:, 0].tolist() == list(range(6, 16))
    with keyed_from(tmp_path / f"bare-{name}", tmp_path / "bare.h5") as store:
        found = None if store.key_kind is None else store.key_of(slice(None))
        assert found == (None if name == "w.parquet" else [str(row) for row in range(20)])


def test_all_tensors_of_a_source(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["a"], file["b"] = np.eye(3), np.ones((3, 2))
    keys = ["x", "y", "z"]
    qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=keys)
    reports = qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=keys)
    assert [(report.rows_resumed, report.key_kind) for report in reports] == [(3, "text")] * 2
    with qstore.open(tmp_path / "out" / "b.h5") as store:
        assert store.rows_of(["z"]).tolist() == [2]
    for other in (["x", "y", "Z"], None, False):
        with pytest.raises(qstore.ExistsError):
            qstore.build_all(tmp_path / "source.hdf5", tmp_path / "out", keys=other)


def test_a_plan_counts_keys(tmp_path: Path) -> None:
    assert qstore.plan(np.eye(3), tmp_path / "s.h5", keys=["a", "b", "c"]).file_bytes is None
    with pytest.raises(
        qstore.SourceError, match="there are 2 keys, expected one for each of the source's 3 rows"
    ):
        qstore.plan(np.eye(3), tmp_path / "s.h5", keys=["a", "b"])


# Damage -----------------------------------------------------------------------------------------------


def places(path: Path) -> dict[str, int]:
    return {name: at.offset for name, at in describe_file(str(path)).extents.items()}


def patched(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("row", [-1, 3, 1 << 62, -(1 << 63)])
@pytest.mark.parametrize("kind", ["text", "integer"])
def test_rows_out_of_range(engine: str, tmp_path: Path, kind: str, row: int) -> None:
    keys: list[Any] = ["a", "b", "c"] if kind == "text" else [1, 2, 3]
    path = tmp_path / "store.h5"
    keyed(path, keys).close()
    patched(path, places(path)["keys/rows"], struct.pack("<q", row) * 3)
    with qstore.open(path) as store:
        with pytest.raises(qstore.FormatError, match=r"the keys are damaged: .* is no row"):
            store.rows_of(keys)
        assert store.rows_of(["?"] if kind == "text" else [7], default=-1).tolist() == [-1]
        report = store.verify()
    assert not report.keys_ok
    assert "/keys/rows differs from its checksum" in report.problems


@pytest.mark.parametrize(
    "offsets",
    [
        [0, 1, 2, 1 << 40],
        [0, -1, 2, 3],
        [0, 3, 2, 3],
        [-(1 << 63), 1, 2, 3],
        [0, 1, 2, -(1 << 63)],
        [4, 4, 4, 4],
    ],
)
def test_offsets_that_lie(engine: str, tmp_path: Path, offsets: list[int]) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["a", "b", "c"]).close()
    patched(path, places(path)["keys/offsets"], struct.pack("<4q", *offsets))
    with qstore.open(path) as store:
        for ask in (
            lambda: store.key_of(slice(None)),
            lambda: store.key_of([2, 1, 0]),
            lambda: store.rows_of(["a", "b", "c"]),
        ):
            with pytest.raises(qstore.FormatError, match="the keys are damaged"):
                ask()
        assert any("/keys/offsets" in problem for problem in store.verify().problems)


def test_texts_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["é", "b", "cd"]).close()
    patched(path, places(path)["keys/bytes"], b"\xc3(")
    with qstore.open(path) as store:
        for row in (0, slice(None), [1, 0]):
            with pytest.raises(qstore.FormatError, match="the text of row 0 is not UTF-8"):
                store.key_of(row)
        assert store.key_of([1, 2]) == ["b", "cd"]
        assert "/keys/bytes is not UTF-8 somewhere in rows 0 to 2" in store.verify().problems


def test_an_offset_inside_a_character(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    keyed(path, ["é", "b"]).close()
    patched(path, places(path)["keys/offsets"], struct.pack("<3q", 0, 1, 3))
    with qstore.open(path) as store:
        with pytest.raises(qstore.FormatError, match="not UTF-8"):
            store.key_of(0)
        assert any("is not UTF-8" in problem for problem in store.verify().problems)


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_an_index_in_any_order_is_searched_in_bounds(engine: str, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.h5"
    keys: Any = [f"w{row}" for row in range(5000)] if kind == "text" else np.arange(5000)
    keyed(path, keys, dim=1).close()
    name = "keys/hashes" if kind == "text" else "keys/sorted"
    generator = np.random.default_rng(9)
    for fill in (
        generator.integers(0, 1 << 64, 5000, np.uint64),
        np.zeros(5000, np.uint64),
        np.full(5000, (1 << 64) - 1, np.uint64),
        np.arange(5000, dtype=np.uint64)[::-1] << np.uint64(51),
    ):
        patched(path, places(path)[name], fill.tobytes())
        with qstore.open(path) as store:
            found = store.rows_of(keys, default=-1)
            assert ((found >= -1) & (found < 5000)).all()
            assert not store.verify().ok


def test_verify_finds_an_index_that_is_of_other_keys(tmp_path: Path) -> None:
    """In order, with its checksums and content id, and yet wrong: rows of two keys exchanged."""
    path = tmp_path / "store.h5"
    keyed(path, [10, 20]).close()
    content, at = bytearray(path.read_bytes()), places(path)
    rows = struct.pack("<2q", 1, 0)
    content[at["keys/rows"] : at["keys/rows"] + 16] = rows
    crc = crc32(np.frombuffer(rows, np.uint8))
    content[at["keys/checksums"] + 8 : at["keys/checksums"] + 12] = struct.pack("<I", crc)
    path.write_bytes(content)
    with qstore.open(path) as store:
        assert store.verify().problems == (
            "/keys: the index does not hold each row once, with the hash or number of its key",
            "the content id does not belong to the checksums",
        )


@pytest.mark.parametrize("kind", ["text", "integer"])
def test_a_flipped_bit_is_found_by_verify(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "store.h5"
    keys: list[Any] = [f"w{row}" for row in range(300)] if kind == "text" else list(range(300))
    keyed(path, keys).close()
    good = path.read_bytes()
    extents = describe_file(str(path)).extents
    for name, extent in extents.items():
        if name.startswith("keys/"):
            content = bytearray(good)
            content[extent.offset + extent.size // 2] ^= 4
            path.write_bytes(content)
            with qstore.open(path) as store:
                report = store.verify()
            assert not report.ok, name
            assert report.keys_ok is False, name


# What the extension checks itself ---------------------------------------------------------------------


@pytest.mark.skipif(native is None, reason="qstore._native is not installed: NumPy engine only")
def test_the_extension_checks_its_arguments() -> None:
    hashes, rows, offsets = np.zeros(2, np.uint64), np.zeros(2, np.int64), np.zeros(3, np.int64)
    text, out = np.zeros(4, np.uint8), np.zeros(1, np.int64)
    good: tuple[Any, ...] = (hashes, rows, offsets, text, ["a"], out)
    assert native.find_texts(*good) == -1
    wrong: dict[int, list[Any]] = {
        0: [hashes.view(np.int64), hashes[:1], hashes.reshape(1, 2)],
        1: [rows[:1], rows.astype(np.int32), None],
        2: [offsets[:2], offsets.view(np.uint64), np.zeros(4, np.int64)],
        3: [text[::2], text.view(np.int8), text.reshape(2, 2)],
        4: [["a", "b"], [1], 3, [b"a"], []],
        5: [np.zeros(2, np.int64), np.zeros(1, np.uint64), np.frombuffer(bytes(8), np.int64)],
    }
    for at, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError)):
                native.find_texts(*good[:at], value, *good[at + 1 :])
    with pytest.raises(TypeError):
        native.find_texts(*good, 1)
    with pytest.raises(ValueError, match="items"):
        native.find_ids(rows, rows[:1], rows, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="items"):
        native.hash_texts(text, offsets, np.zeros(1, np.uint64))


def test_strided_arrays_are_read_as_they_lie(engine: str) -> None:
    ordered = np.arange(0, 40, 2, dtype=np.int64)
    rows, out = np.arange(20, dtype=np.int64)[::-1] // 2, np.zeros(8, np.int64)
    assert kernels.key_engine().find_ids(ordered[::2], rows[::2], np.array([0, 4, 5, 36]), out[::2]) == -1
    assert out.tolist() == [9, 0, 8, 0, -1, 0, 0, 0]


@function_fixture
@given(st.data())
def test_any_index_at_all_is_searched_in_bounds(engine: str, data: st.DataObject) -> None:
    """Arrays of any content: the answer is a row, missing or corrupt; the sanitizers watch the rest."""
    size = data.draw(st.integers(0, 30))
    near = st.integers(-3, 40) | st.integers(-(1 << 63), (1 << 63) - 1)
    texts = data.draw(st.lists(st.text(max_size=3), min_size=1, max_size=5))
    raw, bounds = key_search.encoded(texts)
    true = np.empty(len(texts), np.uint64)
    key_search.hash_texts(raw, bounds, true)
    any_hash = st.sampled_from(true.tolist()) | st.integers(0, (1 << 64) - 1)
    hashes = np.array(data.draw(st.lists(any_hash, min_size=size, max_size=size)), np.uint64)
    rows = np.array(data.draw(st.lists(near, min_size=size, max_size=size)), np.int64)
    offsets = np.array(data.draw(st.lists(near, min_size=size + 1, max_size=size + 1)), np.int64)
    out = np.full(len(texts), -5, np.int64)
    bad = kernels.key_engine().find_texts(hashes, rows, offsets, raw, texts, out)
    assert -1 <= bad < len(texts)
    done = out if bad < 0 else out[:bad]
    assert ((done >= -1) & (done < size)).all()
    out = np.full(size + 1, -5, np.int64)
    bad = kernels.key_engine().find_ids(offsets[:size], rows, offsets, out)
    assert bad < 0 or not 0 <= out[bad] < size or engine == "C"
