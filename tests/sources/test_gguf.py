"""GGUF: float tensors and quantized ones, with the format's own library and without it; files that lie."""

from __future__ import annotations

import builtins
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gguf_files import ARRAY, STRING, UINT32, info, layout, padded, text
from kernel_checks import assert_same_bits
from numpy.typing import NDArray
from source_contract import DIM, ROWS, Maker, SourceContract, matrix_of, refused, same

import qstore
from qstore.engine.ggml_blocks import BLOCK_TYPES
from qstore.engine.quantization import marker_dtype
from qstore.errors import MissingExtraError, SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source
from qstore.sources.gguf.types import QUANTIZED_TYPES


def make_gguf(directory: Path, values: NDArray[Any]) -> Path:
    """Two tensors, float32, as the format's own library lays them out."""
    metadata = (
        text(b"general.name") + struct.pack("<I", STRING) + text("Zürich".encode()),
        text(b"tokens")
        + struct.pack("<IIQ", ARRAY, STRING, 3)
        + b"".join(map(text, (b"a", b"", "語".encode()))),
        text(b"scores") + struct.pack("<IIQ3f", ARRAY, 6, 3, 1, 2, 3),
        text(b"count") + struct.pack("<II", UINT32, 9),
    )
    bias = padded(np.ones(3, "<f4").tobytes())
    infos = [
        info(b"output.bias", (3,), 0, 0),
        info(b"token_embd.weight", values.shape[::-1], 0, len(bias)),
    ]
    path = directory / "model.gguf"
    path.write_bytes(layout(infos, bias + np.asarray(values, "<f4").tobytes(), metadata))
    return path


class TestContract(SourceContract):
    makers: ClassVar = {
        "gguf": Maker(make_gguf),
        "gguf-named": Maker(make_gguf, "token_embd.weight"),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("gguf", reason="it writes GGUF, and knows the quantized types")


def write(library: Any, path: Path, tensors: dict[str, tuple[NDArray[Any], Any]]) -> None:
    """A file by the format's own library: arrays, and a type where they are of quantized blocks."""
    writer = library.GGUFWriter(str(path), "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"token {number}" for number in range(5000)])
    writer.add_uint32("llama.context_length", 2048)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ------------------------------------------------- against the format's own library


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "int16", "int32", "int64"])
def test_plain_types(library: Any, path: Path, dtype: str) -> None:
    values = matrix_of(dtype)
    write(library, path, {"bias": (np.zeros(7, np.float32), None), "w": (values, None)})
    assert TensorInfo("w", (ROWS, DIM), dtype) in list_tensors(path)
    with open_source(path, "w") as source:
        assert isinstance(source, RowSource)
        assert source.dtype == dtype
        assert np.array_equal(source.read(0, ROWS), values)


def test_bfloat16(library: Any, path: Path) -> None:
    values = matrix_of("bfloat16", 40, 64)
    write(library, path, {"w": (values.view(np.uint8), library.GGMLQuantizationType.BF16)})
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert (source.dtype, source.rows, source.dim) == ("bfloat16", 40, 64)
        block = source.read(1, 39)
        assert block.dtype == marker_dtype("bfloat16")
        assert same(block, values[1:39])


def quantized_rows(library: Any, kind: int, rows: int, blocks: int) -> NDArray[np.uint8]:
    """Random blocks with finite scales: the dequantized values of arbitrary bytes are all that counts."""
    row_bytes = QUANTIZED_TYPES[kind][2] * blocks
    raw = np.random.default_rng(kind).integers(0, 256, (rows, row_bytes), np.uint8)
    return raw & np.uint8(0x3B)  # no exponent of all ones at any place


@pytest.mark.parametrize("kind", QUANTIZED_TYPES)
def test_quantized_types(library: Any, path: Path, kind: int) -> None:
    name, block, block_bytes = QUANTIZED_TYPES[kind]
    try:
        word = library.GGMLQuantizationType(kind)
    except ValueError:
        pytest.skip(f"this gguf has no {name}")
    assert (word.name, *library.GGML_QUANT_SIZES[word]) == (name, block, block_bytes)
    raw = quantized_rows(library, kind, 50, 3)
    write(library, path, {"a.bias": (np.zeros(5, np.float32), None), "w": (raw, word)})
    reader = library.GGUFReader(str(path))
    (tensor,) = (tensor for tensor in reader.tensors if tensor.name == "w")
    expected = library.dequantize(np.array(tensor.data), word)
    assert TensorInfo("w", (50, 3 * block), "float32", name) in list_tensors(path)
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert (source.rows, source.dim, source.dtype) == (50, 3 * block, "float32")
        assert source.read(9, 9).shape == (0, source.dim)
        for start, stop in ((0, 50), (17, 18), (31, 50)):
            found = source.read(start, stop)
            assert found.dtype == np.float32
            assert found.tobytes() == expected[start:stop].tobytes()


def test_quantized_types_are_all_that_the_library_knows(library: Any) -> None:
    known = {}
    for word in library.GGMLQuantizationType:
        block, size = library.GGML_QUANT_SIZES[word]
        try:
            library.dequantize(np.zeros((1, size), np.uint8), word)
        except NotImplementedError:
            continue
        if block > 1:
            known[int(word)] = (word.name, block, size)
    assert known.items() <= QUANTIZED_TYPES.items()


def test_quantized_store_is_that_of_the_values(library: Any, tmp_path: Path) -> None:
    values = matrix_of("float32", 300, 64)
    raw = library.quantize(values, library.GGMLQuantizationType.Q8_0)
    write(library, tmp_path / "m.gguf", {"w": (raw, library.GGMLQuantizationType.Q8_0)})
    report = qstore.build(tmp_path / "m.gguf", tmp_path / "m.h5", threads=2)
    assert (report.tensor, report.source_dtype) == ("w", "float32")
    expected = qstore.quantize(library.dequantize(raw, library.GGMLQuantizationType.Q8_0))
    with qstore.open(tmp_path / "m.h5") as store:
        assert np.array_equal(store.codes, expected[0])
        assert np.array_equal(store.scales, expected[1])


def test_quantized_after_close_and_cut(library: Any, path: Path) -> None:
    raw = quantized_rows(library, 8, 500, 2)
    write(library, path, {"w": (raw, library.GGMLQuantizationType.Q8_0)})
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        print_before = source.fingerprint()
        source.check_unchanged()
        os.truncate(path, path.stat().st_size - 5000)
        with pytest.raises(SourceError, match="ends early"):
            source.read(490, 500)
        with pytest.raises(SourceError, match="was changed"):
            source.check_unchanged()
        with pytest.raises(SourceError, match="has 500 rows"):
            source.read(490, 501)
    with pytest.raises(SourceError, match="is closed"):
        source.read(0, 1)
    assert print_before is not None
    assert (print_before["dtype"], print_before["shape"]) == ("Q8_0", [500, 64])


def test_quantized_reads_hold_little(library: Any, path: Path) -> None:
    write(library, path, {"w": (quantized_rows(library, 12, 20_000, 2), library.GGMLQuantizationType.Q4_K)})
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        tracemalloc.start()
        block = source.read(1000, 2000)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert block.nbytes <= most < 8 * block.nbytes


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "gguf":
            raise ModuleNotFoundError(f"No module named {name!r}")
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.mark.usefixtures("no_library")
def test_only_types_of_long_tables_need_the_library(path: Path) -> None:
    infos = [info(b"q", (256, 1), 16, 0), info(b"w", (2, 3), 0, 96)]
    path.write_bytes(layout(infos, bytes(96) + np.arange(6, dtype="<f4").tobytes()))
    assert [one.dtype for one in list_tensors(path)] == ["float32", "float32"]
    with open_source(path, "w") as source:
        assert np.concatenate(list(source.chunks())).tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(
        MissingExtraError, match=r"tensor 'q' is quantized \(IQ2_XXS\).*pip install \"qstore\[gguf\]\""
    ):
        open_source(path, "q")
    own = {name for name, _, _ in QUANTIZED_TYPES.values()} & BLOCK_TYPES.keys()
    assert own == BLOCK_TYPES.keys()
    assert {name[:3] for name, _, _ in QUANTIZED_TYPES.values() if name not in own} == {"IQ1", "IQ2", "IQ3"}


@pytest.mark.usefixtures("no_library", "engine")
@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_other_quantized_types_are_read_without_the_library(path: Path, name: str) -> None:
    fixtures = np.load(Path(__file__).parents[1] / "data" / "sources" / "ggml_blocks.npz")
    raw, expected = fixtures[f"{name}.blocks"], fixtures[f"{name}.values"]
    (kind,) = (number for number, row in QUANTIZED_TYPES.items() if row == (name, *BLOCK_TYPES[name][:2]))
    path.write_bytes(layout([info(b"q", expected.shape[::-1], kind, 0)], padded(raw.tobytes())))
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert (source.rows, source.dim, source.dtype) == (*expected.shape, "float32")
        assert source.read(2, 2).shape == (0, source.dim)
        assert_same_bits(source.read(0, source.rows), expected)
        assert_same_bits(source.read(3, 5), expected[3:5])


# --------------------------------------------------------------- which tensor


def test_several_matrices_are_listed(path: Path) -> None:
    infos = [info(b"b", (2, 3), 0, 0), info(b"a", (4, 2), 0, 32), info(b"one", (4,), 0, 64)]
    path.write_bytes(layout(infos, bytes(80)))
    assert list_tensors(path) == [
        TensorInfo("a", (2, 4), "float32"),
        TensorInfo("b", (3, 2), "float32"),
        TensorInfo("one", (4,), "float32"),
    ]
    refused(path, "holds 2 matrices", "'a'  (2, 4)  float32", error=TensorError)
    refused(path, "has no tensor 'aa'", "did you mean 'a'", tensor="aa", error=TensorError)
    refused(path, "tensor 'one' has shape (4,)", tensor="one")


def test_types_of_the_future_hide_nothing(path: Path) -> None:
    infos = [info(b"new", (2, 3), 99, 0), info(b"w", (2, 3), 0, 64)]
    path.write_bytes(layout(infos, bytes(64 + 24)))
    assert TensorInfo("new", (3, 2), "GGML type 99") in list_tensors(path)
    with open_source(path) as source:
        assert source.name == "w"
    refused(path, "tensor 'new' holds GGML type 99, which is not supported", tensor="new")


def test_alignment_is_the_one_of_the_file(path: Path) -> None:
    content = layout([info(b"w", (1, 2), 0, 0)], values=(alignment(64),))
    content += bytes(-len(content) % 64) + struct.pack("<2f", 5, 6)
    path.write_bytes(content)
    with open_source(path) as source:
        assert next(source.chunks()).tolist() == [[5], [6]]


# --------------------------------------------------------------- what is refused


def value(kind: int, content: bytes) -> bytes:
    return text(b"key") + struct.pack("<I", kind) + content


def alignment(number: int) -> bytes:
    return text(b"general.alignment") + struct.pack("<II", UINT32, number)


W = info(b"w", (2, 3), 0, 0)
DATA = bytes(24)
BIG = (1 << 64) - 1

BAD: dict[str, tuple[bytes, str]] = {
    "magic": (b"GGUX" + layout([W], DATA)[4:], "expected"),
    "version 1": (layout([W], DATA, version=1), "is GGUF version 1: expected 2 or 3"),
    "version 4": (layout([W], DATA, version=4), "is GGUF version 4"),
    "big endian": (layout([W], DATA, version=3 << 24), "big-endian files are not read"),
    "more tensors": (layout([W], tensor_count=2), "ends early"),
    "absurd tensors": (layout([W], DATA, tensor_count=BIG), f"says {BIG} tensors"),
    "absurd values": (layout([W], DATA, value_count=BIG), f"and {BIG} values"),
    "most values": (layout([W], bytes(5000), value_count=1 << 16), "ends early"),
    "long key": (layout([], values=(struct.pack("<Q", BIG),)), "ends early: its header expected"),
    "long string": (layout([], values=(value(STRING, struct.pack("<Q", 1 << 62)),)), "ends early"),
    "long array": (layout([], values=(value(ARRAY, struct.pack("<IQ", 12, BIG)),)), "ends early"),
    "long strings": (layout([], values=(value(ARRAY, struct.pack("<IQ", STRING, BIG)),)), "ends early"),
    "long last string": (
        layout([], values=(value(ARRAY, struct.pack("<IQQ", STRING, 1, 1 << 40)),)),
        "ends early",
    ),
    "arrays of arrays": (
        layout([], values=(value(ARRAY, struct.pack("<IQIQ", ARRAY, 1, UINT32, 0)),)),
        "in an array of unknown type 9",
    ),
    "value type": (layout([], values=(value(13, b""),)), "metadata of unknown type 13"),
    "alignment 0": (layout([], values=(alignment(0),)), "power of two, found 0"),
    "alignment 48": (layout([], values=(alignment(48),)), "power of two, found 48"),
    "long name": (layout([struct.pack("<Q", 1 << 40)]), "ends early"),
    "name no UTF-8": (layout([info(b"w\xff", (2, 3), 0, 0)], DATA), "no UTF-8"),
    "dimensions": (layout([info(b"w", (1,) * 5, 0, 0)], DATA), "at most 4 dimensions, found 5"),
    "two names": (layout([W, info(b"w", (2, 3), 0, 32)], bytes(64)), "two tensors have one name"),
    "overlap": (layout([W, info(b"v", (2, 3), 0, 0)], bytes(64)), "tensors overlap"),
    "unaligned": (layout([info(b"w", (2, 3), 0, 4)], bytes(64)), "at a multiple of 32"),
    "cut": (layout([W], DATA[:-1]), "expected 120 bytes, found 119"),
    "far": (layout([info(b"w", (2, 3), 0, 1 << 63)], DATA), "tensor 'w' ends early"),
    "absurd rows": (layout([info(b"w", (2, BIG), 0, 0)], DATA), "tensor 'w' ends early"),
    "absurd shape": (layout([info(b"w", (BIG, BIG, BIG, BIG), 0, 0)], DATA), "tensor 'w' ends early"),
    "part of a block": (layout([info(b"w", (33, 3), 8, 0)], bytes(200)), "multiple of 32 columns, found 33"),
    "no columns": (layout([info(b"w", (0, 3), 0, 0)]), "expected at least 1 column"),
    "no tensors": (layout([]), "found no tensors at all"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed(path: Path, name: str) -> None:
    content, words = BAD[name]
    path.write_bytes(content)
    tracemalloc.start()
    refused(path, words)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8 << 20


def test_header_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.sources.gguf.header._LONGEST_HEADER", 5000)
    path.write_bytes(layout([W], DATA, (text(b"k") + struct.pack("<I", STRING) + text(b"x" * 4700),)))
    list_tensors(path)
    path.write_bytes(layout([W], DATA, (text(b"k") + struct.pack("<I", STRING) + text(b"x" * 5000),)))
    refused(path, "found 5000")


def test_long_headers_are_read_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.sources.gguf.header._FIRST_READ", 7)
    make_gguf(path.parent, matrix_of("float32"))
    with open_source(path) as source:
        assert np.array_equal(np.concatenate(list(source.chunks())), matrix_of("float32"))


def test_random_damage_never_escapes(path: Path) -> None:
    rng = np.random.default_rng(6)
    make_gguf(path.parent, matrix_of("float32", 4))
    whole = path.read_bytes()
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.choice(400, rng.integers(1, 4), replace=False):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            with open_source(path) as source:
                list(source.chunks())
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 40
