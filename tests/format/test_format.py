"""Format v1 as docs/format.md states it, on real files: every byte has one value it may have."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from h5py import h5a, h5d, h5f, h5p, h5s, h5t
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels
from qstore.format import layout
from qstore.format.composition import compose
from qstore.format.fidelity import FidelityTotals

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
SHAPES = [
    (0, 1),
    (0, 768),
    (1, 1),
    (3, 4),
    (4096, 1),
    (511, 8),
    (512, 8),
    (513, 8),
    (3000, 768),
    (3, 2**20 + 1),
]
TENSOR = "embeddings.word_embeddings.weight"

Quantized = tuple[NDArray[np.uint8], NDArray[np.float64]]
ReadStore = Callable[[Path], Quantized]


def values_of(rows: int, dim: int) -> NDArray[np.float32]:
    return np.random.default_rng(rows + dim).standard_normal((rows, dim), dtype=np.float32)


def write(path: Path, values: NDArray[Any], known: bool = True, chunk: int = 1000, threads: int = 1) -> Path:
    rows, dim = values.shape
    options: dict[str, Any] = {"tensor": TENSOR, "source_dtype": str(values.dtype), "threads": threads}
    with qstore.Writer(path, dim, rows if known else None, **options) as writer:
        for start in range(0, rows, chunk):
            writer.append(values[start : start + chunk])
    return path


def plain_writer(path: Path, values: NDArray[Any]) -> Path:
    with qstore.Writer(path, values.shape[1]) as writer:
        writer.append(values)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def up(position: int) -> int:
    return -(-position // 4096) * 4096


def places(rows: int, dim: int) -> dict[str, tuple[int, int]]:
    """(first byte, size) of all data by the rule of the format page; N of at least 1."""
    blocks = -(-rows // max(1, 2**20 // dim))
    scales = up(12288 + rows * dim) + 4096
    checksums = up(scales + 8 * rows) + 4096
    fidelity = up(checksums + 8 * blocks) + 4096
    return {
        "codes": (12288, rows * dim),
        "scales": (scales, 8 * rows),
        "checksums": (checksums, 8 * blocks),
        "fidelity": (fidelity, 360),
    }


def checksums_of(codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> NDArray[np.uint32]:
    rows, dim = codes.shape
    step = max(1, 2**20 // dim)
    pairs = [
        (
            zlib.crc32(codes[start : start + step].tobytes()),
            zlib.crc32(scales[start : start + step].tobytes()),
        )
        for start in range(0, rows, step)
    ]
    return np.array(pairs, "<u4").reshape(-1, 2)


def content_id_of(rows: int, dim: int, checksums: NDArray[np.uint32]) -> str:
    text = b"qstore content 1\n" + struct.pack("<QQ", rows, dim) + checksums.tobytes()
    return hashlib.sha256(text).hexdigest()[:32]


def fidelity_of(values: NDArray[Any], codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> Any:
    """The numbers of /fidelity as the format page has them; sums are added up as the writer adds them."""
    step = max(1, 2**20 // values.shape[1])
    totals = FidelityTotals(values.shape[1])
    for start in range(0, len(values), step):
        held = slice(start, min(start + max(1, step // 64), len(values)))
        totals.add_block(start, kernels.row_errors(values[held], codes[held], scales[held]), scales[held])
    return totals.numbers()


def plain_h5py_build(
    path: Path, codes: NDArray[np.uint8], scales: NDArray[np.float64], source_dtype: str, fidelity: Any
) -> None:
    """The same store by h5py alone, which writes the data itself: nothing of qstore's writer is used."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    access.set_alignment(1, 4096)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    file_id = h5f.create(os.fsencode(path), h5f.ACC_TRUNC, creation, access)
    checksums = checksums_of(codes, scales)
    datasets: dict[str, NDArray[Any]] = {"codes": codes, "scales": scales, "checksums": checksums}
    if len(codes):
        datasets["fidelity"] = fidelity
    for name, data in datasets.items():
        plain = h5p.create(h5p.DATASET_CREATE)
        plain.set_layout(h5d.CONTIGUOUS)
        plain.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        plain.set_fill_time(h5d.FILL_TIME_NEVER)
        plain.set_obj_track_times(False)
        kind = h5t.py_create(data.dtype)
        dataset = h5d.create(file_id, name.encode(), kind, h5s.create_simple(data.shape), plain)
        if data.size:
            dataset.write(h5s.ALL, h5s.ALL, data)
    texts = {
        "format": "qstore",
        "formula": "(codes - 128) * scales",
        "content_id": content_id_of(codes.shape[0], codes.shape[1], checksums),
        "tensor": TENSOR,
        "source_dtype": source_dtype,
    }
    for name, text in texts.items():
        kind = h5t.C_S1.copy()
        kind.set_size(len(text))
        kind.set_strpad(h5t.STR_NULLPAD)
        value = np.array(text.encode(), f"S{len(text)}")
        h5a.create(file_id, name.encode(), kind, h5s.create(h5s.SCALAR)).write(value)
    version = np.array([1, 1 if len(codes) else 0], "<u4")
    h5a.create(file_id, b"version", h5t.STD_U32LE, h5s.create_simple((2,))).write(version)
    zero_point = np.array(128, np.uint8)
    h5a.create(file_id, b"zero_point", h5t.STD_U8LE, h5s.create(h5s.SCALAR)).write(zero_point)
    file_id.close()


# Same content, same bytes ----------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bytes_are_those_of_a_plain_h5py_build(tmp_path: Path, shape: tuple[int, int], known: bool) -> None:
    values = values_of(*shape)
    codes, scales = qstore.quantize(values)
    fidelity = fidelity_of(values, codes, scales)
    plain_h5py_build(tmp_path / "plain.h5", codes, scales, "float32", fidelity)
    ours = write(tmp_path / "ours.h5", values, known)
    assert ours.read_bytes() == (tmp_path / "plain.h5").read_bytes()


@pytest.fixture(scope="module")
def large() -> NDArray[np.float32]:
    """7,001 × 768: six blocks, the last one short."""
    return values_of(7001, 768)


@pytest.fixture(scope="module")
def large_sha256(large: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> str:
    return sha256(write(tmp_path_factory.mktemp("large") / "store.h5", large))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("chunk", [17, 1365, 3000, 7001])
def test_bytes_do_not_depend_on_chunks_threads_or_a_known_length(
    tmp_path: Path, large: NDArray[np.float32], large_sha256: str, known: bool, threads: int, chunk: int
) -> None:
    assert sha256(write(tmp_path / "store.h5", large, known, chunk, threads)) == large_sha256


@pytest.mark.parametrize("form", ["array", "npy", "fortran", "chunks", "big-endian"])
def test_bytes_do_not_depend_on_the_kind_of_source(
    tmp_path: Path, large: NDArray[np.float32], form: str
) -> None:
    def chunks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(large), 999):
            yield large[start : start + 999]

    np.save(tmp_path / "source.npy", large)
    source: Any = {
        "array": large,
        "npy": tmp_path / "source.npy",
        "fortran": np.asfortranarray(large),
        "chunks": chunks(),
        "big-endian": large.astype(">f4"),
    }[form]
    qstore.build(source, tmp_path / "store.h5", threads=2)
    qstore.build(large, tmp_path / "expected.h5", threads=1)
    assert sha256(tmp_path / "store.h5") == sha256(tmp_path / "expected.h5")


def test_bytes_do_not_depend_on_the_clock_or_the_path(tmp_path: Path) -> None:
    values = values_of(100, 16)
    first = write(tmp_path / "a.h5", values)
    second_of_first = int(time.time())
    while int(time.time()) <= second_of_first:  # HDF5 keeps whole seconds
        time.sleep(0.05)
    assert write(tmp_path / "another name.h5", values).read_bytes() == first.read_bytes()


def test_bytes_do_not_depend_on_an_error_that_was_survived(tmp_path: Path) -> None:
    """Other threads have written later blocks when the error comes: nothing of them may stay in a gap."""
    rows = layout.block_rows(
        8
    )  # as many bytes of scales as of codes: the scales fill the failed block's place
    values = values_of(6 * rows, 8)
    bad = values.copy()
    bad[rows + 5, 5] = np.nan
    with qstore.Writer(tmp_path / "store.h5", 8, threads=4) as writer:
        with pytest.raises(qstore.NonFiniteError):
            writer.append(bad)
        kept = writer.rows
    assert kept == rows
    assert sha256(tmp_path / "store.h5") == sha256(plain_writer(tmp_path / "expected.h5", values[:kept]))


def test_a_block_under_way_when_an_error_comes_is_not_written_later(tmp_path: Path) -> None:
    rows = layout.block_rows(8)
    values = values_of(2 * rows, 8)
    second_block_is_read = threading.Event()

    def read(first: int, last: int) -> NDArray[np.float32]:
        if last - first == 1:  # to see of what type rows are
            return values[first:last]
        if first < rows:
            assert second_block_is_read.wait(300)
            raise qstore.SourceError("the first block cannot be read")
        second_block_is_read.set()
        time.sleep(0.1)
        return -values[first:last]

    with qstore.Writer(tmp_path / "store.h5", 8, threads=2) as writer:
        with pytest.raises(qstore.SourceError, match="cannot be read"):
            writer.append_rows(read, 0, 2 * rows)
        writer.append(values)
    assert sha256(tmp_path / "store.h5") == sha256(plain_writer(tmp_path / "expected.h5", values))


def test_bytes_do_not_depend_on_a_shorter_store_finished_before(
    tmp_path: Path, large: NDArray[np.float32]
) -> None:
    """A finished file that could not be published goes on growing: its old scales may not stay in a gap."""
    target = tmp_path / "store.h5"
    writer = qstore.Writer(target, 768, resume=True)
    writer.append(large[:5000])
    target.write_bytes(b"in the way")
    with pytest.raises(qstore.ExistsError):
        writer.close()
    target.unlink()
    with qstore.Writer(target, 768, resume=True) as writer:
        writer.append(large[writer.rows : 5003])
    assert sha256(target) == sha256(plain_writer(tmp_path / "expected.h5", large[:5003]))


# Places ----------------------------------------------------------------------------------------------


@given(st.integers(1, 10**12), st.integers(1, 2**21), st.integers(0, 2048))
def test_places_follow_the_rule_at_any_size(rows: int, dim: int, name_length: int) -> None:
    attributes = {"content_id": "0" * 32, "tensor": "x" * name_length, "source_dtype": "float8_e4m3fn"}
    made = compose(rows, dim, attributes, layout.Parts(fidelity=True))
    expected = places(rows, dim)
    assert {name: tuple(extent) for name, extent in made.extents.items()} == expected
    headers = {first - 4096: 268 for first, _ in expected.values()}
    sizes = {offset: len(data) for offset, data in made.segments}
    root_header = sizes.pop(4096)
    assert root_header <= 4096
    assert sizes == {0: 48, **headers}
    assert made.size == sum(expected["fidelity"])
    plain = compose(rows, dim, attributes)
    assert plain.size == sum(expected["checksums"])
    assert {**plain.extents, "fidelity": made.extents["fidelity"]} == made.extents


@given(st.integers(0, 10**12), st.integers(1, 2**21), st.none() | st.integers(0, 2**45))
def test_keys_follow_the_rest_at_any_size(rows: int, dim: int, text_bytes: int | None) -> None:
    kind = layout.KeyPart("integer", 0) if text_bytes is None else layout.KeyPart("text", text_bytes)
    made = compose(rows, dim, {"content_id": "0" * 32}, layout.Parts(keys=kind))
    before = compose(rows, dim, {"content_id": "0" * 32})
    sizes = {"ids": 8 * rows, "sorted": 8 * rows, "rows": 8 * rows, "checksums": 12}
    if text_bytes is not None:
        sizes = {"hashes": 8 * rows, "rows": 8 * rows, "offsets": 8 * (rows + 1), "bytes": text_bytes}
        sizes["checksums"] = 16
    segments = {offset: len(data) for offset, data in made.segments}
    end = up(before.size)
    assert segments[end] <= 4096  # the group
    for name, size in sizes.items():
        header = end + 4096 if name in ("ids", "hashes") else up(end)
        assert segments[header] == 268
        end = header + 4096 + size
        assert made.extents[f"keys/{name}"] == (header + 4096 if size else 0, size)
    assert made.size == end
    assert len(segments) == len(before.segments) + 1 + len(sizes)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0]], ids=str)
def test_data_lies_at_its_place_and_all_else_is_zero(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write(tmp_path / "store.h5", values_of(*shape))
    raw = bytearray(path.read_bytes())
    assert struct.unpack_from("<QQ", raw, 8208) == shape
    assert struct.unpack_from("<QQ", raw, 28) == (len(raw), 4096)
    for name, (first, size) in places(*shape).items():
        assert raw[first - 4096 : first - 4092] == b"OHDR", name
        raw[first - 4096 : first - 4096 + 268] = bytes(268)
        raw[first : first + size] = bytes(size)
    with h5py.File(path) as file:
        assert {name: file[name].id.get_offset() for name in file} == {
            name: first for name, (first, _) in places(*shape).items()
        }
    raw[:48] = bytes(48)
    raw[4096:8192] = bytes(4096)
    assert not any(raw)


def test_an_empty_store_has_metadata_only(tmp_path: Path) -> None:
    raw = write(tmp_path / "store.h5", values_of(0, 5)).read_bytes()
    assert len(raw) == 16652
    assert struct.unpack_from("<QQ", raw, 8208) == (0, 5)
    assert [raw[at : at + 4] for at in (4096, 8192, 12288, 16384)] == [b"OHDR"] * 4
    assert qstore.open(tmp_path / "store.h5").shape == (0, 5)


def test_superblock_is_version_2_and_headers_keep_no_times(tmp_path: Path) -> None:
    raw = write(tmp_path / "store.h5", values_of(3, 4)).read_bytes()
    assert raw[:9] == b"\x89HDF\r\n\x1a\n\x02"
    times_stored = 0x20
    for at in (4096, 8192, *(first - 4096 for first, _ in places(3, 4).values())):
        assert raw[at : at + 5] == b"OHDR\x02"
        assert not raw[at + 5] & times_stored


def test_datasets_are_plain(tmp_path: Path) -> None:
    path = write(tmp_path / "store.h5", values_of(3000, 768))
    with h5py.File(path) as file:
        kinds = {
            "codes": h5t.STD_U8LE,
            "scales": h5t.IEEE_F64LE,
            "checksums": h5t.STD_U32LE,
            "fidelity": h5t.IEEE_F64LE,
        }
        assert set(file) == set(kinds)
        for name, kind in kinds.items():
            creation = file[name].id.get_create_plist()
            assert file[name].id.get_type().equal(kind)
            assert creation.get_layout() == h5d.CONTIGUOUS
            assert (creation.get_nfilters(), creation.get_external_count()) == (0, 0)
        assert {name: file[name].shape for name in file} == {
            "codes": (3000, 768),
            "scales": (3000,),
            "checksums": (3, 2),
            "fidelity": (45,),
        }


# Attributes, checksums, content id -------------------------------------------------------------------


@pytest.mark.parametrize("tensor", ["", "w", "Wörter/Gewichte", "x" * 2048])
def test_attributes_are_few_short_and_of_fixed_length(tmp_path: Path, tensor: str) -> None:
    with qstore.Writer(tmp_path / "store.h5", 2, tensor=tensor) as writer:
        writer.append([[1.0, 2.0]])
    expected = {"format": b"qstore", "formula": b"(codes - 128) * scales", "source_dtype": b"float64"}
    with h5py.File(tmp_path / "store.h5") as file:
        found = {name: h5a.open(file.id, name.encode()) for name in file.attrs}
        texts = {name: kept for name, kept in found.items() if isinstance(kept.get_type(), h5t.TypeStringID)}
        assert len(found) <= 8
        assert sum(kept.get_storage_size() for kept in found.values()) <= 3072
        for kept in texts.values():
            assert not kept.get_type().is_variable_str()
            assert kept.get_type().get_strpad() == h5t.STR_NULLPAD
            assert kept.get_space().get_simple_extent_type() == h5s.SCALAR
        assert expected.items() <= {name: bytes(file.attrs[name]) for name in texts}.items()
        assert set(found) - set(texts) == {"version", "zero_point"}
        assert found["version"].get_type().equal(h5t.STD_U32LE)
        assert file.attrs["version"].tolist() == [1, 1]
        assert found["zero_point"].get_type().equal(h5t.STD_U8LE)
        assert file.attrs["zero_point"] == 128
        assert ("tensor" in found) == bool(tensor)
        if tensor:
            kind = texts["tensor"].get_type()
            assert bytes(file.attrs["tensor"]).decode() == tensor
            assert kind.get_cset() == (h5t.CSET_ASCII if tensor.isascii() else h5t.CSET_UTF8)
    assert qstore.open(tmp_path / "store.h5").tensor == tensor


def test_a_source_dtype_too_long_for_the_root_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(qstore.SourceError, match="source_dtype"):
        qstore.Writer(tmp_path / "store.h5", 2, source_dtype="x" * 4096)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_checksums_and_content_id_are_those_of_the_definition(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write(tmp_path / "store.h5", values_of(*shape))
    with h5py.File(path) as file:
        expected = checksums_of(file["codes"][...], file["scales"][...])
        assert np.array_equal(file["checksums"][...], expected)
        assert bytes(file.attrs["content_id"]).decode() == content_id_of(*shape, expected)


def test_content_id_tells_shapes_apart_and_ignores_the_name(tmp_path: Path) -> None:
    def content_id(values: NDArray[Any], tensor: str) -> str:
        with qstore.Writer(tmp_path / "store.h5", values.shape[1], tensor=tensor, overwrite=True) as writer:
            writer.append(values)
        return qstore.open(tmp_path / "store.h5").content_id

    assert content_id(np.zeros((0, 2)), "") != content_id(np.zeros((0, 3)), "")
    assert content_id(np.eye(4), "a") == content_id(np.eye(4), "b")
    assert content_id(np.eye(4), "a") != content_id(2 * np.eye(4), "a")


# The format page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def read_store() -> ReadStore:
    """The NumPy-only reader of the format page."""
    blocks = re.findall(r"```python\n(.*?)```", FORMAT_PAGE.read_text(), re.DOTALL)
    (source,) = (block for block in blocks if "def read_store" in block)
    assert "h5py" not in source
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    reader: ReadStore = namespace["read_store"]
    return reader


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_numpy_reader_of_the_format_page(
    tmp_path: Path, read_store: ReadStore, shape: tuple[int, int]
) -> None:
    values = values_of(*shape)
    codes, scales = read_store(write(tmp_path / "store.h5", values))
    expected_codes, expected_scales = qstore.quantize(values)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(scales, expected_scales)


def test_the_numpy_reader_takes_codes_0_to_255(tmp_path: Path, read_store: ReadStore) -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    with qstore.Writer(tmp_path / "store.h5", 128) as writer:
        writer.append_codes(codes, np.array([0.5, 0.0]))
    found_codes, found_scales = read_store(tmp_path / "store.h5")
    assert np.array_equal(found_codes, codes)
    assert found_scales.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("name", ["codes", "scales", "checksums"])
def test_the_numpy_reader_names_a_damaged_block(tmp_path: Path, read_store: ReadStore, name: str) -> None:
    path = write(tmp_path / "store.h5", values_of(3000, 768))
    first, size = places(3000, 768)[name]
    raw = bytearray(path.read_bytes())
    raw[first + size - 1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="block 2 is damaged"):
        read_store(path)


def test_the_numpy_reader_refuses_other_files(tmp_path: Path, read_store: ReadStore) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["codes"] = np.zeros(10000)
    with pytest.raises(ValueError, match="not a qstore file"):
        read_store(tmp_path / "other.h5")
