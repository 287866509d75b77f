"""What every source must do, whatever its format: one contract, run by a subclass in each test file.

A subclass of :class:`SourceContract` gives the `makers` and inherits the tests::

    class TestContract(SourceContract):
        makers = {"npy": Maker(make_npy)}
"""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from work_bounds import little_work

from qstore.engine.quantization import marker_dtype, to_float64
from qstore.errors import SourceError
from qstore.sources import RowSource, Source, open_source

__all__ = [
    "DIM",
    "NUMPY_TYPES",
    "RAW_TYPES",
    "ROWS",
    "Make",
    "Maker",
    "SourceContract",
    "files_open_in",
    "make_directory",
    "matrix_of",
    "refused",
    "same",
]

ROWS, DIM = 257, 5
NUMPY_TYPES = ["float16", "float32", "float64"]
NUMPY_TYPES += ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
RAW_TYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]

Make = Callable[[Path, NDArray[Any]], Any]
"""Puts a matrix into a directory and returns what `open_source` is to be given."""


@dataclass(frozen=True)
class Maker:
    """One way to make a source of a matrix, and what can be asked of it.

    Attributes
    ----------
    make : callable
    tensor : str or None
        Which tensor is then opened.
    join : bool
        That is a pattern, and all tensors that match are opened as one.
    file : bool
        It is read from a file: its time is known, and there is something to close and to cut short.
    sliced : bool
        It is a :class:`RowSource`.
    rows_known : bool
        The number of rows is known before data is read.
    holds_no_rows : bool
        A matrix of 0 rows can be told.
    tells_length : bool
        A file that is cut short can be told from a whole one when it is opened.
    read_at_opening : bool
        All data is in memory once it is open.
    working_memory : int
        Bytes that reading may take beside the rows it gives.
    """

    make: Make
    tensor: str | None = None
    join: bool = False
    file: bool = True
    sliced: bool = True
    rows_known: bool = True
    holds_no_rows: bool = True
    tells_length: bool = True
    read_at_opening: bool = False
    working_memory: int = 0

    def open(self, directory: Path, values: NDArray[Any]) -> Source:
        """Source of `values`."""
        return open_source(self.make(directory, values), self.tensor, self.join)

    def fingerprint(self, directory: Path, values: NDArray[Any]) -> dict[str, Any] | None:
        """Fingerprint of such a source, in a new directory."""
        directory.mkdir()
        with self.open(directory, values) as source:
            assert source.fingerprint() == source.fingerprint()
            return source.fingerprint()


def make_directory(make: Make) -> Make:
    """The same, opened by the directory."""
    return lambda directory, values: make(directory, values).parent


def matrix_of(dtype: np.dtype[Any] | str, rows: int = ROWS, dim: int = DIM, seed: int = 1) -> NDArray[Any]:
    """A random matrix; finite values throughout."""
    rng = np.random.default_rng(seed)
    if dtype in RAW_TYPES:
        item = marker_dtype(str(dtype))
        bits = 8 * item.itemsize
        # The top exponent is left out: those are infinities and NaN.
        raw = rng.integers(0, 0x70 << (bits - 8), (rows, dim)) | (
            rng.integers(0, 2, (rows, dim)) << (bits - 1)
        )
        return raw.astype("<u2" if bits == 16 else "u1").view(item)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return (rng.standard_normal((rows, dim)) * 100).astype(dtype)
    limits = np.iinfo(dtype.newbyteorder("="))
    return rng.integers(limits.min, limits.max, (rows, dim), dtype.newbyteorder("="), True).astype(dtype)


def same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether all values are the same, whatever types hold them."""
    return np.array_equal(to_float64(found), to_float64(expected))


def refused(
    obj: Any,
    *words: str,
    tensor: str | None = None,
    join: bool = False,
    error: type[SourceError] = SourceError,
) -> SourceError:
    """The error that opening gives: of exactly this type, at once, with these words in it."""
    with little_work(), pytest.raises(error) as caught:
        open_source(obj, tensor, join)
    assert type(caught.value) is error
    for word in words:
        assert word in str(caught.value)
    return caught.value


@dataclass(frozen=True)
class Case:
    """A source that is open, and what it must give."""

    source: Source
    values: NDArray[Any]


def rows_of(case: Case) -> RowSource:
    """The source, which must give slices."""
    assert isinstance(case.source, RowSource)
    return case.source


Test = TypeVar("Test", bound=Callable[..., None])


def needs(*properties: str) -> Callable[[Test], Test]:
    """Run a test for those makers only that have all of these properties."""

    def mark(test: Test) -> Test:
        test.__dict__["needs"] = properties
        return test

    return mark


class SourceContract:
    """The tests that every source passes."""

    makers: ClassVar[dict[str, Maker]] = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test for the makers it is meant for."""
        if "maker" not in metafunc.fixturenames:
            return
        properties = getattr(metafunc.function, "needs", ())
        wanted = {
            key: one for key, one in self.makers.items() if all(getattr(one, word) for word in properties)
        }
        metafunc.parametrize("maker", list(wanted.values()), ids=list(wanted))

    @pytest.fixture
    def case(self, maker: Maker, tmp_path: Path) -> Iterator[Case]:
        """A source of the maker's, closed at the end."""
        values = matrix_of("float32")
        with maker.open(tmp_path, values) as source:
            yield Case(source, values)

    @pytest.fixture(autouse=True)
    def nothing_stays_open(self, tmp_path: Path) -> Iterator[None]:
        """After every test, nothing in its directory is open any more."""
        yield
        assert files_open_in(tmp_path) == []

    def test_shape_and_type_are_known_before_data(self, case: Case, maker: Maker) -> None:
        assert case.source.dim == DIM
        assert case.source.rows == (ROWS if maker.rows_known else None)
        assert isinstance(case.source, RowSource) == maker.sliced
        assert case.source.dtype in ("float32", "float64")  # the second where the format's library converts

    @needs("sliced")
    def test_read_gives_every_range(self, case: Case) -> None:
        source = rows_of(case)
        bounds = np.sort(np.random.default_rng(2).integers(0, ROWS + 1, (60, 2)), axis=1).tolist()
        for start, stop in [(0, ROWS), (0, 0), (ROWS, ROWS), (ROWS - 1, ROWS), (7, 7), *bounds]:
            block = source.read(start, stop)
            assert block.shape == (stop - start, DIM)
            assert same(block, case.values[start:stop])

    @needs("sliced")
    @pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, ROWS + 1), (ROWS + 1, ROWS + 1)])
    def test_read_outside_is_refused(self, case: Case, start: int, stop: int) -> None:
        with pytest.raises(SourceError, match=f"has {ROWS} rows.*{start}:{stop}"):
            rows_of(case).read(start, stop)

    @pytest.mark.parametrize("start", [0, 1, 99, 100, 101, 200, ROWS])
    def test_chunks_give_the_rest(self, case: Case, start: int) -> None:
        chunks = list(case.source.chunks(start))
        assert all(chunk.ndim == 2 and chunk.shape[1] == DIM for chunk in chunks)
        together = np.concatenate([case.values[:0].astype(case.source.dtype), *chunks])
        assert same(together, case.values[start:])

    @needs("sliced")
    def test_reads_from_threads(self, case: Case) -> None:
        source = rows_of(case)
        starts = [(17 * number) % (ROWS - 20) for number in range(80)]
        with ThreadPoolExecutor(4) as pool:
            blocks = list(pool.map(lambda start: source.read(start, start + 20), starts))
        assert all(
            same(block, case.values[start : start + 20]) for start, block in zip(starts, blocks, strict=True)
        )

    def test_close_twice(self, case: Case) -> None:
        case.source.close()
        case.source.close()

    @needs("file")
    def test_use_after_close_is_an_error(self, case: Case) -> None:
        case.source.close()
        with pytest.raises(SourceError):
            list(case.source.chunks())
        if isinstance(case.source, RowSource):
            with pytest.raises(SourceError):
                case.source.read(0, 1)

    @needs("holds_no_rows")
    def test_no_rows(self, maker: Maker, tmp_path: Path) -> None:
        with maker.open(tmp_path, matrix_of("float32")[:0]) as source:
            assert source.dim == DIM
            assert sum(len(chunk) for chunk in source.chunks()) == 0
            if isinstance(source, RowSource):
                assert source.rows == 0
                assert source.read(0, 0).shape == (0, DIM)

    @needs("rows_known")
    def test_fingerprint_tells_shapes_apart(self, maker: Maker, tmp_path: Path) -> None:
        values = matrix_of("float32")
        first, again, shorter = (
            maker.fingerprint(tmp_path / str(number), part)
            for number, part in enumerate([values, values, values[1:]])
        )
        assert first is not None
        assert again is not None
        assert shorter is not None
        assert json.loads(json.dumps(first)) == first
        assert (first.pop("mtime_ns", None) is not None) == maker.file
        again.pop("mtime_ns", None)
        assert first == again
        shorter.pop("mtime_ns", None)
        assert first != shorter

    @needs("file")
    def test_file_cut_short_after_opening(self, maker: Maker, tmp_path: Path) -> None:
        if maker.read_at_opening:
            pytest.skip("the data is in memory by then")
        with maker.open(tmp_path, matrix_of("float32", rows=20_000)) as source:
            for file in tmp_path.iterdir():
                os.truncate(file, min(3000, file.stat().st_size))
            with pytest.raises(SourceError, match=r"ends early: expected .* found"):
                _last_rows(source)

    @needs("file")
    def test_reading_holds_little(self, maker: Maker, tmp_path: Path) -> None:
        if maker.read_at_opening:
            pytest.skip("the data is in memory")
        with maker.open(tmp_path, matrix_of("float32", 20_000, 64)) as source:
            tracemalloc.start()
            block = source.read(1000, 3000) if isinstance(source, RowSource) else next(source.chunks(1000))
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert block.nbytes <= most < 1.1 * block.nbytes + maker.working_memory

    @needs("file", "tells_length")
    def test_truncated_at_every_length(self, maker: Maker, tmp_path: Path) -> None:
        obj = maker.make(tmp_path, matrix_of("float32"))
        whole = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size)
        content = whole.read_bytes()
        lengths = [*range(150), *range(150, 700, 7), *range(700, len(content), 97), len(content) - 1]
        for length in lengths:
            whole.write_bytes(content[:length])
            refused(obj, tensor=maker.tensor, join=maker.join)


def files_open_in(directory: Path) -> list[str]:
    """Files of a directory that this process holds open."""
    links = [Path("/proc/self/fd") / number for number in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(directory))]


def _last_rows(source: Source) -> None:
    if isinstance(source, RowSource):
        source.read(source.rows - 100, source.rows)
    else:
        list(source.chunks())
