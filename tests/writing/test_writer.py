"""The one writing path: same bytes whichever way rows come, nothing published unless complete."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.system import durable_files
from qstore.writing.output_paths import journal_path, partial_path

DIM = 48


def write(path: Path, chunks: list[Any], **options: Any) -> bytes:
    with qstore.Writer(path, DIM, **options) as writer:
        for chunk in chunks:
            writer.append(chunk)
    return path.read_bytes()


def split(values: NDArray[Any], sizes: list[int]) -> list[NDArray[Any]]:
    return np.split(values, np.minimum(np.cumsum(sizes), len(values)))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of 100 rows, so that small matrices have many."""
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
    return 100


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 400), max_size=12),
    known=st.booleans(),
    threads=st.integers(1, 3),
    sync=st.sampled_from([1, 10_000, 1 << 28]),
)
def test_same_bytes_whichever_way_rows_come(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], known: bool, threads: int, sync: int
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    values = np.random.default_rng(3).standard_normal((1037, DIM)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
        expected = write(folder / "one.h5", [values], threads=1)
        rows = len(values) if known else None
        found = write(folder / "x.h5", split(values, sizes), rows=rows, threads=threads, sync_bytes=sync)
    assert found == expected
    assert sorted(os.listdir(folder)) == ["one.h5", "x.h5"]


def test_build_and_append_codes_give_the_same_data(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int
) -> None:
    built = tmp_path / "built.h5"
    qstore.build(matrix, built)
    assert write(tmp_path / "written.h5", [matrix]) == built.read_bytes()
    codes, scales = qstore.quantize(matrix)
    with qstore.Writer(tmp_path / "codes.h5", DIM) as writer:
        for start in range(0, len(matrix), 77):
            writer.append_codes(codes[start : start + 77], scales[start : start + 77])
    with qstore.open(tmp_path / "codes.h5") as copied, qstore.open(built) as store:
        assert copied.content_id == store.content_id
        assert copied.source_dtype == "quantized"
        np.testing.assert_array_equal(copied.codes, codes)
        np.testing.assert_array_equal(copied.scales, scales)


def test_codes_of_zero_are_kept_and_read(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(1, 256)
    with qstore.Writer(tmp_path / "x.h5", 256) as writer:
        writer.append_codes(codes, [0.5])
    with qstore.open(tmp_path / "x.h5") as store:
        np.testing.assert_array_equal(store[0], (np.arange(256) - 128) * 0.5)


@pytest.mark.parametrize(
    ("codes", "scales", "message"),
    [
        (np.full((2, DIM), 256), np.ones(2), "uint8"),
        (np.zeros((2, DIM - 1), np.uint8), np.ones(2), r"shape"),
        (np.zeros((2, DIM), np.uint8), np.ones(3), r"shape"),
        (np.zeros((2, DIM), np.uint8), np.array([1, -1.0]), "not negative"),
        (np.zeros((2, DIM), np.uint8), np.array([np.nan, 1]), "finite"),
        (np.zeros((2, DIM), np.uint8), np.array([np.inf, 1]), "finite"),
    ],
)
def test_bad_codes(tmp_path: Path, codes: Any, scales: Any, message: str) -> None:
    with qstore.Writer(tmp_path / "x.h5", DIM) as writer:
        with pytest.raises(qstore.SourceError, match=message):
            writer.append_codes(codes, scales)
        assert writer.rows == 0


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros(DIM), "shape"),
        (np.zeros((1, 2, DIM)), "shape"),
        (np.zeros((3, DIM + 1)), "shape"),
        (np.zeros((3, DIM), complex), "complex"),
        (np.zeros((3, DIM), object), "object"),
        (np.zeros((3, DIM), bool), "bool"),
        (np.zeros((3, DIM), np.float32), "dtype float32, expected float64"),
        ([[1.0, 2.0], [3.0]], "rows|shape|ragged"),
    ],
)
def test_bad_chunks_lose_nothing(tmp_path: Path, chunk: Any, message: str) -> None:
    with qstore.Writer(tmp_path / "x.h5", DIM) as writer:
        writer.append(np.ones((2, DIM)))
        with pytest.raises(qstore.SourceError, match=message):
            writer.append(chunk)
        writer.append(np.ones((1, DIM)))
    assert len(qstore.open(tmp_path / "x.h5")) == 3


def test_nonfinite_names_row_and_column(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    matrix[1234, 5] = np.nan
    with qstore.Writer(tmp_path / "x.h5", DIM) as writer:
        writer.append(matrix[:1000])
        with pytest.raises(qstore.NonFiniteError, match="row 1234, column 5 is nan") as caught:
            writer.append(matrix[1000:])
        assert (caught.value.row, caught.value.column) == (1234, 5)
        writer.abort()
    assert os.listdir(tmp_path) == []
    qstore.build(matrix, tmp_path / "x.h5", nonfinite="zero")
    with qstore.open(tmp_path / "x.h5") as store:
        assert store[1234, 5] == 0


def test_an_exception_publishes_nothing(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    (tmp_path / "x.h5").write_bytes(b"old")

    def fail(resume: bool) -> None:
        with qstore.Writer(tmp_path / "x.h5", DIM, overwrite=True, resume=resume) as writer:
            writer.append(matrix[:150])
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail(resume=False)
    assert os.listdir(tmp_path) == ["x.h5"]
    with pytest.raises(KeyError, match="mine"):
        fail(resume=True)
    assert sorted(os.listdir(tmp_path)) == ["x.h5", "x.h5.journal", "x.h5.partial"]
    assert (tmp_path / "x.h5").read_bytes() == b"old"


def test_resumes_iterators(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    expected = write(tmp_path / "whole.h5", [matrix])
    path = tmp_path / "x.h5"
    rounds = 0
    while not path.exists():
        with qstore.Writer(path, DIM, resume=True, sync_bytes=5000) as writer:
            rounds += 1
            assert writer.rows == 700 * (rounds - 1)
            before = writer.rows
            writer.append(matrix[before : before + 750])
            if writer.rows < len(matrix):
                writer.abort()
    assert rounds == 5
    assert path.read_bytes() == expected


def test_resume_restores_a_short_last_block(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    """A build that failed while finishing has all rows in, and may even take more."""
    path = tmp_path / "x.h5"
    (tmp_path / "x.h5").mkdir()
    path.rmdir()
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix[:250])
    path.write_bytes(b"in the way")
    with pytest.raises(qstore.ExistsError):
        writer.close()
    path.unlink()
    with qstore.Writer(path, DIM, resume=True) as writer:
        assert writer.rows == 250
        writer.append(matrix[250:])
    assert path.read_bytes() == write(tmp_path / "whole.h5", [matrix])


def test_damaged_blocks_are_done_again(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix)
    writer.abort()
    with partial_path(path).open("r+b") as file:
        file.seek(layout.CODES_OFFSET + 1234 * DIM)
        file.write(b"damage")
    with qstore.Writer(path, DIM, resume=True) as writer:
        assert writer.rows == 1200
        writer.append(matrix[1200:])
    assert path.read_bytes() == write(tmp_path / "whole.h5", [matrix])


def test_resume_refuses_another_build(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True, tensor="a")
    writer.append(matrix)
    writer.abort()
    for options, word in [
        ({"tensor": "b"}, "tensor"),
        ({"tensor": "a", "source_dtype": "int8"}, "source_dtype"),
    ]:
        with pytest.raises(qstore.ResumeError, match=f"{word} was .*--restart"):
            qstore.Writer(path, DIM, resume=True, **options)  # type: ignore[arg-type]
    with pytest.raises(qstore.ResumeError, match="dim was 48, is 47"):
        qstore.Writer(path, 47, resume=True, tensor="a")
    with qstore.Writer(path, DIM, resume=True, tensor="a") as writer:
        assert writer.rows == 3000
        with pytest.raises(qstore.SourceError, match="expected float32"):
            writer.append(matrix[3000:].astype(np.float64))
        writer.append(matrix[3000:])
    assert os.listdir(tmp_path) == ["x.h5"]


def test_starting_again_drops_what_was_left(tmp_path: Path, matrix: NDArray[Any], small_blocks: int) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix * 2)
    writer.abort()
    assert write(path, [matrix]) == write(tmp_path / "whole.h5", [matrix])


def test_a_stale_journal_is_ignored_and_removed(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int
) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix * 2)
    writer.abort()
    partial_path(path).unlink()
    with qstore.Writer(path, DIM, resume=True) as writer:
        assert writer.rows == 0
        writer.append(matrix)
    assert path.read_bytes() == write(tmp_path / "whole.h5", [matrix])
    assert sorted(os.listdir(tmp_path)) == ["whole.h5", "x.h5"]


def test_existing_output_is_kept_unless_asked(tmp_path: Path, matrix: NDArray[Any]) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"old")
    with pytest.raises(qstore.ExistsError, match="overwrite=True"):
        qstore.Writer(path, DIM)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.h5"]
    write(path, [matrix], overwrite=True)
    assert len(qstore.open(path)) == len(matrix)


def test_output_that_appears_meanwhile_is_kept(tmp_path: Path, matrix: NDArray[Any]) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM)
    writer.append(matrix)
    path.write_bytes(b"somebody else's")
    with pytest.raises(qstore.ExistsError):
        writer.close()
    assert path.read_bytes() == b"somebody else's"
    assert os.listdir(tmp_path) == ["x.h5"]


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(qstore.OutputError, match="create it first"):
        qstore.Writer(tmp_path / "no" / "x.h5", DIM)
    with pytest.raises(qstore.ExistsError, match="is a directory"):
        qstore.Writer(tmp_path, DIM, overwrite=True)
    os.symlink(tmp_path / "elsewhere", partial_path(tmp_path / "x.h5"))
    with pytest.raises(qstore.OutputError):
        qstore.Writer(tmp_path / "x.h5", DIM)
    assert not (tmp_path / "elsewhere").exists()


def test_two_writers(tmp_path: Path, matrix: NDArray[Any]) -> None:
    with qstore.Writer(tmp_path / "x.h5", DIM) as first:
        with pytest.raises(qstore.BusyError, match="another process"):
            qstore.Writer(tmp_path / "x.h5", DIM)
        first.append(matrix)
    assert len(qstore.open(tmp_path / "x.h5")) == len(matrix)


@pytest.mark.parametrize("dim", [0, -1, 1.5, "3", None, 2**41])
def test_bad_dim(tmp_path: Path, dim: Any) -> None:
    with pytest.raises(qstore.SourceError, match="dim is"):
        qstore.Writer(tmp_path / "x.h5", dim)
    assert os.listdir(tmp_path) == []


def test_number_of_rows_is_checked(tmp_path: Path, matrix: NDArray[Any]) -> None:
    with pytest.raises(qstore.SourceError, match="3,001 rows were given, expected 3,002"):
        write(tmp_path / "x.h5", [matrix], rows=3002)
    with pytest.raises(qstore.SourceError, match="3,001 rows were given, expected 3,000"):
        write(tmp_path / "x.h5", [matrix], rows=3000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tensor", ["a\0b", "ü" * 1025])
def test_bad_tensor_name(tmp_path: Path, tensor: str) -> None:
    with pytest.raises(qstore.SourceError, match="tensor must have"):
        qstore.Writer(tmp_path / "x.h5", DIM, tensor=tensor)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tensor", ["", "embeddings.word", "ü" * 1024])
def test_tensor_name_is_recorded(tmp_path: Path, tensor: str) -> None:
    write(tmp_path / "x.h5", [np.ones((3, DIM))], tensor=tensor)
    with qstore.open(tmp_path / "x.h5") as store:
        assert store.tensor == tensor
        assert store.verify().ok


def test_no_rows(tmp_path: Path) -> None:
    assert write(tmp_path / "a.h5", []) != b""
    write(tmp_path / "b.h5", [np.empty((0, DIM))], rows=0)
    for name in ("a.h5", "b.h5"):
        with qstore.open(tmp_path / name) as store:
            assert store.shape == (0, DIM)
            assert store[:].shape == (0, DIM)
            assert store.verify().ok


def test_closed_writer(tmp_path: Path) -> None:
    writer = qstore.Writer(tmp_path / "x.h5", DIM)
    assert "0 rows of 48" in repr(writer)
    writer.close()
    writer.close()
    writer.abort()
    assert "closed" in repr(writer)
    with pytest.raises(qstore.ClosedError):
        writer.append(np.ones((1, DIM)))
    with pytest.raises(qstore.ClosedError):
        writer.append_codes(np.ones((1, DIM), np.uint8), [1.0])


def test_forgotten_writer_warns_and_leaves_nothing(tmp_path: Path) -> None:
    writer = qstore.Writer(tmp_path / "x.h5", DIM)
    with pytest.warns(ResourceWarning, match="neither closed nor aborted"):
        writer.__del__()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(qstore.OutputError, match=r"cannot write .*(space|too large)"):
        qstore.Writer(tmp_path / "x.h5", 1024, rows=10**12)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["sync_data", "publish", "write_all", "sync_directory"])
def test_failing_calls_are_errors_and_resumable(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix[:1500])
    real = getattr(durable_files, call)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable_files, call, fail)
    with pytest.raises(OSError, match="Input/output"), writer:
        writer.append(matrix[1500:])
    monkeypatch.setattr(durable_files, call, real)
    if call == "sync_directory":  # renamed already, only its durability is in doubt: the error says so
        assert path.read_bytes() == write(tmp_path / "whole.h5", [matrix])
        return
    assert not path.exists()
    with qstore.Writer(path, DIM, resume=True) as writer:
        assert writer.rows >= 1500
        writer.append(matrix[writer.rows :])
    assert path.read_bytes() == write(tmp_path / "whole.h5", [matrix])


def test_failing_sync_in_the_background_is_raised(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    writer = qstore.Writer(tmp_path / "x.h5", DIM, sync_bytes=1)
    monkeypatch.setattr(durable_files, "sync_data", fail)
    with pytest.raises(OSError, match="Input/output"):  # noqa: PT012
        for start in range(0, 3000, 100):
            writer.append(matrix[start : start + 100])
        writer.close()
    writer.abort()
    assert os.listdir(tmp_path) == []


def test_no_descriptors_or_threads_are_left(tmp_path: Path, matrix: NDArray[Any], no_leaks: None) -> None:
    threads = threading.active_count()
    write(tmp_path / "a.h5", [matrix], threads=2)
    with pytest.raises(qstore.SourceError):
        write(tmp_path / "b.h5", [matrix, [[1.0]]])
    with pytest.raises(qstore.ExistsError):
        write(tmp_path / "a.h5", [matrix])
    assert threading.active_count() == threads


def test_lock_is_held_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM)
    with partial_path(path).open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert journal_path(path).exists()
    writer.close()


def test_rows_given_by_a_function_record_their_type(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int
) -> None:
    with qstore.Writer(tmp_path / "x.h5", DIM) as writer:
        writer.append_rows(lambda first, last: matrix[first:last], 0, 250)
        writer.append(matrix[250:])
    assert (tmp_path / "x.h5").read_bytes() == write(tmp_path / "whole.h5", [matrix])


def test_a_journal_that_cannot_be_opened_loses_nothing(
    tmp_path: Path, matrix: NDArray[Any], small_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.h5"
    writer = qstore.Writer(path, DIM, resume=True)
    writer.append(matrix[:1000])
    writer.abort()
    lock_file = durable_files.lock_file

    def fail(which: Path) -> int:
        if which.suffix == ".journal":
            raise OSError(24, "Too many open files")
        return lock_file(which)

    monkeypatch.setattr("qstore.writing.journal.lock_file", fail)
    with pytest.raises(qstore.OutputError, match="Too many open files"):
        qstore.Writer(path, DIM, resume=True)
    monkeypatch.undo()
    monkeypatch.setattr(layout, "_BLOCK_CODES", 100 * DIM)
    with qstore.Writer(path, DIM, resume=True) as writer:
        assert writer.rows == 1000
