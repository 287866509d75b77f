"""A build that failed on its data is in nobody's way: what its error advises works, and says what is dropped.

One that was interrupted insists on its source and its parameters: no work is lost by mistake.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted_builds import Interrupt, stop_at
from numpy.typing import NDArray
from streamed_files import STREAMED

import qstore
from qstore.format import layout

DIM, ROWS, BAD = 12, 1530, 1234


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 100 rows, files read in pieces of some more."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
    for name in ("words.text", "words.binary"):
        monkeypatch.setattr(f"qstore.sources.{name}._BLOCK_BYTES", 7_500)
    for name in ("numpy.npz._CHUNK_BYTES", "parquet._BATCH_BYTES"):
        monkeypatch.setattr(f"qstore.sources.{name}", 7_500)


@pytest.fixture
def values() -> NDArray[np.float32]:
    made = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    made[BAD, 7] = np.nan
    return made


def npy(folder: Path, values: NDArray[np.float32]) -> Path:
    np.save(folder / "m.npy", values)
    return folder / "m.npy"


SOURCES = {"array": lambda folder, values: values, "npy": npy, **STREAMED}


def failed(source: Any, path: Path, **options: Any) -> None:
    with pytest.raises(qstore.NonFiniteError, match=f"row {BAD}, column 7 is nan"):
        qstore.build(source, path, threads=1, **options)
    assert sorted(each.name for each in path.parent.iterdir() if each.name.startswith(path.name)) == [
        f"{path.name}.journal",
        f"{path.name}.partial",
    ]


@pytest.mark.parametrize("kind", SOURCES)
def test_zeros_for_nan_go_on(
    tmp_path: Path, values: NDArray[np.float32], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = SOURCES[kind](tmp_path, values)
    whole = qstore.build(source, tmp_path / "whole.h5", nonfinite="zero")
    failed(source, tmp_path / "x.h5")
    failed(source, tmp_path / "x.h5")  # again: it goes on up to the same place
    assert qstore.plan(source, tmp_path / "x.h5", nonfinite="zero").rows_resumed >= 1000
    report = qstore.build(source, tmp_path / "x.h5", nonfinite="zero")
    assert 1000 <= report.rows_resumed <= BAD
    assert (report.nonfinite, report.warnings) == (whole.nonfinite, whole.warnings)
    assert report.nonfinite.first == ((BAD, 7, "nan"),)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert not list(tmp_path.glob("x.h5.*"))
    assert caplog.messages == []


def test_it_insists_on_the_new_parameters_once_it_has_gone_on(
    tmp_path: Path, values: NDArray[np.float32]
) -> None:
    source = npy(tmp_path, values)
    failed(source, tmp_path / "x.h5")
    with pytest.raises(Interrupt):
        qstore.build(source, tmp_path / "x.h5", nonfinite="zero", progress=stop_at(1400))
    for _ in range(2):
        with pytest.raises(qstore.ResumeError, match="nonfinite was 'zero', is 'error'"):
            qstore.build(source, tmp_path / "x.h5")
    assert qstore.build(source, tmp_path / "x.h5", nonfinite="zero").rows_resumed >= 1400


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_build_insists(tmp_path: Path, values: NDArray[np.float32], overwrite: bool) -> None:
    """`overwrite` is about the finished store, `resume` about what is unfinished."""
    source = npy(tmp_path, values)
    if overwrite:
        qstore.build(values[:5], tmp_path / "x.h5")
    with pytest.raises(Interrupt):
        qstore.build(source, tmp_path / "x.h5", progress=stop_at(500), overwrite=overwrite)
    look: dict[str, Any] = {"nonfinite": "zero", "overwrite": overwrite}
    for act in (qstore.build, qstore.plan):
        with pytest.raises(qstore.ResumeError, match=r"nonfinite was 'error'.*resume=False"):
            act(source, tmp_path / "x.h5", **look)
    assert qstore.build(source, tmp_path / "x.h5", resume=False, **look).rows_resumed == 0


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["npy", "text", "npz"])
def test_another_source_begins_again_and_says_so(
    tmp_path: Path,
    values: NDArray[np.float32],
    kind: str,
    overwrite: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The row with NaN is dropped from the file."""
    if overwrite:
        qstore.build(values[:5], tmp_path / "x.h5")
    source = SOURCES[kind](tmp_path, values)
    with pytest.raises(qstore.NonFiniteError):
        qstore.build(source, tmp_path / "x.h5", overwrite=overwrite)
    SOURCES[kind](tmp_path, np.delete(values, BAD, axis=0))
    reason = qstore.plan(source, tmp_path / "x.h5", overwrite=overwrite).begins_again
    assert reason.startswith("the build that failed had other parameters: ")
    assert "source was" in reason
    report = qstore.build(source, tmp_path / "x.h5", overwrite=overwrite)
    assert (report.rows, report.rows_resumed) == (ROWS - 1, 0)
    assert caplog.messages == [f"{tmp_path / 'x.h5'}: begins again: {reason}"]
    with qstore.open(tmp_path / "x.h5") as store:
        assert qstore.verify_against(store, source).ok


@pytest.mark.parametrize("kind", ["array", "npy"])
@pytest.mark.parametrize(("row", "kept"), [(BAD, 1200), (250, 200), (3, 0)])
def test_a_mended_source_goes_on_as_far_as_it_agrees(
    tmp_path: Path,
    values: NDArray[np.float32],
    kind: str,
    row: int,
    kept: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failed(SOURCES[kind](tmp_path, values), tmp_path / "x.h5")
    mended = values.copy()
    mended[BAD, 7] = 0.5
    mended[row] = mended[row, ::-1]
    source = SOURCES[kind](tmp_path, mended)
    if kind == "npy":
        os.utime(source, (5, 5))
    assert qstore.build(source, tmp_path / "x.h5").rows_resumed == kept
    words = "goes on from row 200: " if kept == 200 else "begins again: "
    said = f"{tmp_path / 'x.h5'}: {words}the source has changed since the build that failed"
    assert caplog.messages == ([] if kept == 1200 else [said])
    qstore.build(mended, tmp_path / "whole.h5")
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_what_was_found_in_dropped_rows_is_dropped_with_them(tmp_path: Path) -> None:
    """Values that were replaced, and the errors and columns that a build warns of."""
    values = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    values[[50, 250], 5], values[1000:1200, 9] = np.nan, 3e4
    keys = [*range(ROWS - 1), 7]
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.build(values, tmp_path / "x.h5", nonfinite="zero", keys=keys)
    mended = values.copy()
    mended[250, 5], mended[1000:1200, 9], keys[-1] = 1, 1, ROWS
    whole = qstore.build(mended, tmp_path / "whole.h5", nonfinite="zero", keys=keys)
    report = qstore.build(mended, tmp_path / "x.h5", nonfinite="zero", keys=keys)
    assert report.rows_resumed == 200
    assert (report.nonfinite.count, report.nonfinite.first) == (1, ((50, 5, "nan"),))
    assert report.warnings == whole.warnings
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_numbers_that_do_not_fit_a_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that are stored as they are are none of a build that rounds them."""
    numbers = np.random.default_rng(3).integers(-128, 128, (ROWS, DIM)).astype(np.float32)
    numbers[BAD, 7] = 0.5
    with pytest.raises(qstore.SourceError, match="leave the step out"):
        qstore.build(numbers, tmp_path / "x.h5", step=0.25)
    reason = "the build that failed had other parameters: step was 0.25, is None, zero_point was 0, is None"
    assert qstore.plan(numbers, tmp_path / "x.h5", step=0.25).rows_resumed == 1200
    assert qstore.plan(numbers, tmp_path / "x.h5").begins_again == reason
    with pytest.raises(Interrupt):
        qstore.build(numbers, tmp_path / "x.h5", progress=stop_at(1300))
    assert caplog.messages == [f"{tmp_path / 'x.h5'}: begins again: {reason}"]
    with pytest.raises(qstore.ResumeError, match=r"step was None, is 0\.25"):
        qstore.plan(numbers, tmp_path / "x.h5", step=0.25)
    assert qstore.build(numbers, tmp_path / "x.h5").rows_resumed >= 1200


def test_what_is_dropped_is_not_gone_on_with_later(tmp_path: Path, values: NDArray[np.float32]) -> None:
    """A mended source, gone on with from its middle, interrupted, and the first one back with its time."""
    source = npy(tmp_path, values)
    os.utime(source, (1, 1))
    failed(source, tmp_path / "x.h5")
    mended = np.nan_to_num(values)
    mended[250:] *= 2
    np.save(source, mended)
    os.utime(source, (2, 2))
    with pytest.raises(Interrupt):
        qstore.build(source, tmp_path / "x.h5", progress=stop_at(700))
    np.save(source, values)
    os.utime(source, (1, 1))
    with pytest.raises(qstore.ResumeError, match="rows 200 to 299 differ"):
        qstore.build(source, tmp_path / "x.h5", nonfinite="error")


@pytest.mark.parametrize("kind", ["npy", "text"])
def test_fewer_rows_go_on(tmp_path: Path, values: NDArray[np.float32], kind: str) -> None:
    source = SOURCES[kind](tmp_path, values)
    failed(source, tmp_path / "x.h5")
    report = qstore.build(source, tmp_path / "x.h5", rows=(0, BAD))
    assert (report.rows, report.rows_resumed) == (BAD, 1200)
    failed(source, tmp_path / "y.h5")
    report = qstore.build(source, tmp_path / "y.h5", rows=(0, 1100))  # more are done than are wanted
    assert (report.rows, report.rows_resumed) == (1100, 0)
    failed(source, tmp_path / "z.h5")
    assert qstore.build(source, tmp_path / "z.h5", rows=(1, BAD)).rows_resumed == 0
    for name, rows in (("x.h5", (0, BAD)), ("y.h5", (0, 1100)), ("z.h5", (1, BAD))):
        with qstore.open(tmp_path / name) as store:
            assert qstore.verify_against(store, source, rows=rows).ok


# Keys ---------------------------------------------------------------------------------------------------


def doubled(rows: int) -> list[str]:
    """Keys of rows; that of row 700 comes again."""
    keys = [f"w{row}" for row in range(rows)]
    keys[1100] = keys[700]
    return keys


def clash(source: Any, path: Path, keys: Any) -> None:
    with pytest.raises(qstore.SourceError, match=r"rows 700 and 1100 have the same key.*mend the keys"):
        qstore.build(source, path, keys=keys)


@pytest.fixture
def clean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.nan_to_num(values)


def test_first_of_duplicates_only_finishes(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    keys = doubled(ROWS)
    clash(clean, tmp_path / "x.h5", keys)
    report = qstore.build(clean, tmp_path / "x.h5", keys=keys, duplicates="first")
    assert report.rows_resumed == ROWS


@pytest.mark.parametrize("lazily", [False, True])
def test_mended_keys_go_on_as_far_as_they_agree(
    tmp_path: Path, clean: NDArray[np.float32], lazily: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys before are not asked for twice: those of an iterator could not be."""
    clash(clean, tmp_path / "x.h5", doubled(ROWS))
    mended = [f"w{row}" for row in range(ROWS)]
    report = qstore.build(clean, tmp_path / "x.h5", keys=iter(mended) if lazily else mended)
    assert report.rows_resumed == 1100
    assert caplog.messages == [
        f"{tmp_path / 'x.h5'}: goes on from row 1100: the keys have changed since the build that failed"
    ]
    qstore.build(clean, tmp_path / "whole.h5", keys=mended)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_a_mended_last_key_goes_on_in_the_last_block(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    keys = [f"w{row}" for row in range(ROWS)]
    with pytest.raises(qstore.SourceError, match="rows 0 and 1529 have the same key"):
        qstore.build(clean, tmp_path / "x.h5", keys=[*keys[:-1], keys[0]])
    assert qstore.build(clean, tmp_path / "x.h5", keys=keys).rows_resumed == 1500
    with qstore.open(tmp_path / "x.h5") as store:
        assert list(store.key_of(slice(None))) == keys
        assert store.verify().ok


@pytest.mark.parametrize("other", ["integer", "none"])
def test_other_keys(tmp_path: Path, clean: NDArray[np.float32], other: str) -> None:
    clash(clean, tmp_path / "x.h5", doubled(ROWS))
    keys: Any = {"integer": np.arange(ROWS), "none": None}[other]
    report = qstore.build(clean, tmp_path / "x.h5", keys=keys)
    assert report.rows_resumed == (ROWS if keys is None else 0)
    qstore.build(clean, tmp_path / "whole.h5", keys=keys)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


def words_twice(folder: Path, clean: NDArray[np.float32]) -> Path:
    path = STREAMED["text"](folder, clean)
    path.write_bytes(path.read_bytes().replace(b"word-1100 ", b"word-700 "))
    return Path(path)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_row_without_a_key(tmp_path: Path, clean: NDArray[np.float32], sharded: bool) -> None:
    def build(name: str, **options: Any) -> qstore.BuildReport:
        if sharded:
            return qstore.build_shards(source, tmp_path / name, 400, keys=keys, **options)
        return qstore.build(source, tmp_path / name, keys=keys, **options)

    source, keys = npy(tmp_path, clean), [f"k{row}" for row in range(ROWS)]
    keys[BAD] = None  # type: ignore[call-overload]
    with pytest.raises(qstore.SourceError, match='with missing_keys="none"'):
        build("x")
    with pytest.raises(Interrupt):
        build("x", missing_keys="none", progress=stop_at(1300))
    with pytest.raises(qstore.ResumeError, match="missing_keys"):
        build("x")
    report = build("x", missing_keys="none")
    assert report.rows_resumed >= 1200
    assert report.unkeyed_rows == 1
    assert qstore.open(tmp_path / "x").key_of([BAD, 5]) == [None, "k5"]


@pytest.mark.parametrize("options", [{"duplicates": "first"}, {"keys": False}], ids=["first", "no keys"])
def test_words_that_come_twice(
    tmp_path: Path, clean: NDArray[np.float32], options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Found at the end of a file that took minutes to parse: nothing of it is parsed again."""
    path = words_twice(tmp_path, clean)
    clash(path, tmp_path / "x.h5", None)
    assert qstore.build(path, tmp_path / "x.h5", **options).rows_resumed == ROWS
    qstore.build(path, tmp_path / "whole.h5", **options)
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert caplog.messages == []


def test_words_that_were_left_out_come_back(
    tmp_path: Path, clean: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = words_twice(tmp_path, clean)
    clash(path, tmp_path / "x.h5", None)

    def fail(partial: Path, final: Path) -> None:
        raise OSError(5, "no luck")

    with monkeypatch.context() as patch:
        patch.setattr("qstore.system.durable_files.publish", fail)
        with pytest.raises(qstore.OutputError, match="no luck"):
            qstore.build(path, tmp_path / "x.h5", keys=False)
    with pytest.raises(qstore.ResumeError, match="keys was None, is 'own'"):
        qstore.build(path, tmp_path / "x.h5", duplicates="first")
    report = qstore.build(path, tmp_path / "x.h5", keys=False)
    assert (report.rows_resumed, report.key_kind) == (ROWS, None)


@pytest.mark.parametrize("kind", ["text", "text in several files"])
def test_a_word_that_is_no_utf8(tmp_path: Path, clean: NDArray[np.float32], kind: str) -> None:
    path = STREAMED[kind](tmp_path, clean)
    for one in map(Path, path if isinstance(path, list) else [path]):
        one.write_bytes(one.read_bytes().replace(b"word-1100 ", b"word-\xff "))
    with pytest.raises(qstore.SourceError, match='or "utf-8:replace" to keep them'):
        qstore.build(path, tmp_path / "x.h5")
    assert qstore.plan(path, tmp_path / "x.h5", key_encoding="utf-8:replace").rows_resumed >= 1000
    with pytest.raises(Interrupt):
        qstore.build(path, tmp_path / "x.h5", key_encoding="utf-8:replace", progress=stop_at(1250))
    with pytest.raises(qstore.ResumeError, match="key_errors was 'replace', is 'backslashreplace'"):
        qstore.build(path, tmp_path / "x.h5", key_encoding="utf-8:backslashreplace")
    assert qstore.build(path, tmp_path / "x.h5", key_encoding="utf-8:replace").rows_resumed >= 1200


def test_words_in_another_encoding_begin_again(
    tmp_path: Path, clean: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    path = STREAMED["text"](tmp_path, clean)
    path.write_bytes(path.read_bytes().replace(b"word-1100 ", b"word-\xff "))
    with pytest.raises(qstore.SourceError, match="is no UTF-8"):
        qstore.build(path, tmp_path / "x.h5")
    assert qstore.build(path, tmp_path / "x.h5", key_encoding="latin-1").rows_resumed == 0
    assert (
        "the build that failed had other parameters: the encoding of the keys of the source was "
        in caplog.messages[0]
    )
    assert qstore.open(tmp_path / "x.h5").key_of(1100) == "word-\xff"


# Writers, several tensors, shards, Dask -----------------------------------------------------------------


def test_a_writer(tmp_path: Path, values: NDArray[np.float32], caplog: pytest.LogCaptureFixture) -> None:
    def write(**options: Any) -> int:
        with qstore.Writer(tmp_path / "x.h5", DIM, resume=True, **options) as writer:
            before = writer.rows
            writer.append(values[before:])
        return before

    with pytest.raises(qstore.NonFiniteError):
        write(parameters={"a": 1})
    assert write(parameters={"a": 1}, nonfinite="zero") == 1200
    (tmp_path / "x.h5").unlink()
    with pytest.raises(qstore.NonFiniteError):
        write(parameters={"a": 1})
    assert caplog.messages == []
    assert write(parameters={"a": 2}, nonfinite="zero", tensor="b") == 0
    assert caplog.messages == [
        f"{tmp_path / 'x.h5'}: begins again: the build that failed had other parameters: a was 1, is 2, "
        f"tensor was '', is 'b'"
    ]


def test_a_writer_that_stopped_for_another_reason_insists(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    with pytest.raises(Interrupt), qstore.Writer(tmp_path / "x.h5", DIM, resume=True) as writer:  # noqa: PT012
        writer.append(clean)
        raise Interrupt
    with pytest.raises(qstore.ResumeError, match="nonfinite was 'error', is 'zero'"):
        qstore.Writer(tmp_path / "x.h5", DIM, resume=True, nonfinite="zero")
    with pytest.raises(qstore.ResumeError, match="1,500 rows are done, expected at most 1,200"):
        qstore.Writer(tmp_path / "x.h5", DIM, 1200, resume=True)


def test_nothing_done_insists_on_nothing(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    """A build that was killed before its first block."""
    writer = qstore.Writer(tmp_path / "x.h5", DIM, resume=True)
    left = {path: path.read_bytes() for path in tmp_path.iterdir()}
    left[tmp_path / "x.h5.partial"] = bytes(4096)
    writer.abort()
    for path, content in left.items():
        path.write_bytes(content)
    assert qstore.build(clean, tmp_path / "x.h5").rows == ROWS


def test_several_tensors(tmp_path: Path, values: NDArray[np.float32], clean: NDArray[np.float32]) -> None:
    np.savez(tmp_path / "m.npz", a=clean, b=values, c=clean)
    with pytest.raises(qstore.NonFiniteError) as caught:
        qstore.build_all(tmp_path / "m.npz", tmp_path / "x")
    assert caught.value.__notes__ == ["this was tensor 'b'"]
    plans = qstore.plan_all(tmp_path / "m.npz", tmp_path / "x", nonfinite="zero")
    assert [plan.rows_resumed for plan in plans] == [0, 1200, 0]
    reports = qstore.build_all(tmp_path / "m.npz", tmp_path / "x", nonfinite="zero")
    assert [report.rows_resumed for report in reports] == [ROWS, 1200, 0]


@pytest.mark.parametrize("kind", ["npy", "text", "npz"])
def test_shards(
    tmp_path: Path, values: NDArray[np.float32], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = SOURCES[kind](tmp_path, values)
    whole = qstore.build_shards(source, tmp_path / "whole", 400, nonfinite="zero")
    for _ in range(2):
        with pytest.raises(qstore.NonFiniteError):
            qstore.build_shards(source, tmp_path / "x", 400)
    plan = qstore.plan_shards(source, tmp_path / "x", 400, nonfinite="zero")
    report = qstore.build_shards(source, tmp_path / "x", 400, nonfinite="zero")
    assert (report.rows_resumed, plan.rows_resumed) == (1200, 1200)
    assert (report.nonfinite, report.warnings) == (whole.nonfinite, whole.warnings)
    for name in sorted(os.listdir(tmp_path / "whole")):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(os.listdir(tmp_path / "x")) == sorted(os.listdir(tmp_path / "whole"))
    assert caplog.messages == []


def test_finished_shards_still_tell_what_they_had_replaced(tmp_path: Path) -> None:
    """The record of a build that failed, and is gone on with, keeps what its shards told."""
    values = np.random.default_rng(3).standard_normal((ROWS, DIM)).astype(np.float32)
    values[[50, 650], 5], values[:400, 9] = np.nan, 3e4
    source, keys = npy(tmp_path, values), np.arange(ROWS)
    keys[-1] = keys[-2]
    for _ in range(2):
        with pytest.raises(qstore.SourceError, match="have the same key"):
            qstore.build_shards(source, tmp_path / "x", 400, nonfinite="zero", keys=keys)
    options: dict[str, Any] = {"nonfinite": "zero", "keys": keys, "duplicates": "first"}
    whole = qstore.build_shards(source, tmp_path / "whole", 400, **options)
    report = qstore.build_shards(source, tmp_path / "x", 400, **options)
    assert report.rows_resumed == ROWS
    assert report.nonfinite.first == ((50, 5, "nan"), (650, 5, "nan"))
    assert report.warnings == whole.warnings != ()


def test_shards_with_other_parameters_begin_again(
    tmp_path: Path, values: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    source = npy(tmp_path, values)
    with pytest.raises(qstore.NonFiniteError):
        qstore.build_shards(source, tmp_path / "x", 400)
    reason = "the build that failed had other parameters: shard_rows"
    assert qstore.plan_shards(source, tmp_path / "x", 500, nonfinite="zero").begins_again == reason
    with pytest.raises(Interrupt):
        qstore.build_shards(source, tmp_path / "x", 500, nonfinite="zero", progress=stop_at(1200))
    assert caplog.messages == [f"{tmp_path / 'x'}: begins again: {reason}"]
    for overwrite in (False, True):
        with pytest.raises(qstore.ResumeError, match="nonfinite differ"):
            qstore.build_shards(source, tmp_path / "x", 500, overwrite=overwrite)
    report = qstore.build_shards(source, tmp_path / "x", 500, nonfinite="zero")
    assert report.rows_resumed >= 1000


def test_finished_shards_insist_on_their_keys(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    source, keys = npy(tmp_path, clean), np.arange(ROWS)
    with pytest.raises(Interrupt):
        qstore.build_shards(source, tmp_path / "x", 400, keys=keys, progress=stop_at(1300))
    for other in (None, False):
        with pytest.raises(qstore.ResumeError, match="keys differ"):
            qstore.build_shards(source, tmp_path / "x", 400, keys=other)
    changed = keys.copy()
    changed[500] = -1
    with pytest.raises(qstore.ResumeError, match="keys have changed"):
        qstore.build_shards(source, tmp_path / "x", 400, keys=changed)
    assert qstore.build_shards(source, tmp_path / "x", 400, keys=keys).rows_resumed >= 1200


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize(("row", "kept"), [(500, 400), (3, 0), (1450, 1200)])
def test_mended_keys_of_shards_go_on_as_far_as_they_agree(
    tmp_path: Path,
    clean: NDArray[np.float32],
    row: int,
    kept: int,
    lazily: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, keys = npy(tmp_path, clean), np.arange(ROWS)
    keys[row] = 700
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.build_shards(source, tmp_path / "x", 400, keys=keys)
    mended = np.arange(ROWS)
    given = (int(key) for key in mended) if lazily else mended
    report = qstore.build_shards(source, tmp_path / "x", 400, keys=given)
    assert report.rows_resumed == kept
    words = "the keys have changed since the build that failed"
    assert caplog.messages == [f"{tmp_path / 'x'}: goes on from row {kept}: {words}"]
    with qstore.open(tmp_path / "x") as store:
        np.testing.assert_array_equal(store.key_of(slice(None)), mended)
        assert store.verify().ok
    qstore.build_shards(source, tmp_path / "whole", 400, keys=mended)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "x" / path.name).read_bytes()


def test_duplicates_in_a_shard(tmp_path: Path, clean: NDArray[np.float32]) -> None:
    source, keys = npy(tmp_path, clean), np.arange(ROWS)
    keys[1000] = keys[900]
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.build_shards(source, tmp_path / "x", 400, keys=keys)
    report = qstore.build_shards(source, tmp_path / "x", 400, keys=keys, duplicates="first")
    assert report.rows_resumed == ROWS
    with pytest.raises(qstore.SourceError, match="have the same key"):
        qstore.build_shards(source, tmp_path / "x", 400, keys=keys, overwrite=True)


def test_dask(tmp_path: Path, values: NDArray[np.float32]) -> None:
    dask_array = pytest.importorskip("dask.array", reason="Dask is not installed")
    array = dask_array.from_array(values, chunks=(400, DIM))
    for _ in range(2):
        with pytest.raises(qstore.NonFiniteError, match=f"row {BAD}"):
            qstore.dask.build(array, tmp_path / "x")
    assert qstore.dask.build(array, tmp_path / "x", nonfinite="zero").rows == ROWS
    with pytest.raises(qstore.NonFiniteError):
        qstore.dask.build(array, tmp_path / "x", overwrite=True)
    with qstore.open(tmp_path / "x") as store:
        assert store[BAD, 7] == 0
