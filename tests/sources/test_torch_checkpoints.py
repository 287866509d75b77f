"""Torch checkpoints: the contract, exact values against torch, and nothing hostile that is run."""

from __future__ import annotations

import copyreg
import json
import os
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from source_contract import (
    DIM,
    RAW_TYPES,
    ROWS,
    Make,
    Maker,
    SourceContract,
    files_open_in,
    make_directory,
    matrix_of,
    refused,
    same,
)
from torch_files import ORDERED_DICT, STORAGES, body, checkpoint, mapping, rebuild, state, storage, tensor

from qstore.errors import SourceError, TensorError
from qstore.sources import QuantizedSource, RowSource, TensorInfo, list_tensors, open_source
from qstore.sources.torch import restricted_pickle
from qstore.sources.torch.restricted_pickle import Pairs, PickleRefused, read_pickle

DATA = Path(__file__).parents[1] / "data" / "sources"
RESAVE = "torch.save(torch.load(path, weights_only=True), new_path)"


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


# ---------------------------------------------------------------- the contract


def make_view(view: Callable[[NDArray[Any]], tuple[NDArray[Any], int, tuple[int, int]]]) -> Make:
    """A checkpoint in which the matrix is a view: its storage, offset and strides are those `view` gives."""

    def make(directory: Path, values: NDArray[Any]) -> Path:
        held, offset, strides = view(values)
        ops = rebuild(storage("1", held.size), offset, values.shape, strides)
        bias = np.zeros(3, np.float32)
        data = state(a__bias=tensor("0", bias), z__weight=ops)
        return checkpoint(directory / "pytorch_model.bin", data, {"0": bias, "1": held})

    return make


def contiguous(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    return values, 0, (values.shape[1], 1)


def columns_of_wider(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    width = values.shape[1] + 10
    wider = np.full((len(values), width), np.nan, np.float32)
    wider[:, 3 : 3 + values.shape[1]] = values
    return wider, 3, (width, 1)


def transposed(values: NDArray[Any]) -> tuple[NDArray[Any], int, tuple[int, int]]:
    return values.T, 0, (1, len(values))


def make_sharded(directory: Path, values: NDArray[Any]) -> Path:
    first, second = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    bias = np.zeros(3, np.float32)
    checkpoint(directory / first, state(a__bias=tensor("0", bias)), {"0": bias})
    checkpoint(directory / second, state(z__weight=tensor("0", values)), {"0": values})
    path = directory / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"a.bias": first, "z.weight": second}}))
    return path


def make_with_torch(**options: Any) -> Make:
    def make(directory: Path, values: NDArray[Any]) -> Path:
        torch = pytest.importorskip("torch", reason="writes with torch")
        weight = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(values)))
        torch.save({"model": {"weight": weight}, "epoch": 3}, directory / "model.pt", **options)
        return directory / "model.pt"

    return make


class TestContract(SourceContract):
    makers: ClassVar[dict[str, Maker]] = {
        "checkpoint": Maker(make_view(contiguous)),
        "named": Maker(make_view(contiguous), "z.weight"),
        "directory": Maker(make_directory(make_view(contiguous))),
        "columns": Maker(make_view(columns_of_wider), working_memory=1 << 21),
        "transposed": Maker(make_view(transposed)),
        "sharded": Maker(make_sharded),
        "sharded-named": Maker(make_sharded, "z.weight"),
        "sharded-directory": Maker(make_directory(make_sharded)),
        "torch": Maker(make_with_torch(), "model.weight"),
        "torch-protocol-5": Maker(make_with_torch(pickle_protocol=5)),
    }


# ---------------------------------------------------------------- exact values


@pytest.mark.parametrize("dtype", STORAGES)
def test_every_type(tmp_path: Path, dtype: str) -> None:
    values = matrix_of(dtype)
    path = checkpoint(tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values})
    with open_source(path) as source:
        assert (source.name, source.dtype) == ("w", dtype)
        assert same(np.concatenate(list(source.chunks())), values)
    assert list_tensors(path) == [TensorInfo("w", (ROWS, DIM), dtype)]


FROZEN = np.arange(12, dtype=np.float32).reshape(4, 3) / 4 - 1
"""What tests/data/sources/checkpoint.pt (torch 2.13) was made of."""


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("model.embedding.weight", "float32", FROZEN),
        ("model.tied.weight", "float32", FROZEN),
        ("model.half.weight", "float16", FROZEN),
        ("views.0", "float32", FROZEN.T),
        ("views.1", "float32", FROZEN[:, 1:]),
        ("views.2", "float32", FROZEN[::2]),
        ("types.bfloat16", "bfloat16", FROZEN),
        ("types.float8_e4m3fn", "float8_e4m3fn", FROZEN),
        ("types.uint16", "uint16", np.arange(12).reshape(4, 3) * 5461),
        ("quint8", "quantized", FROZEN),
        ("qint8", "quantized", FROZEN),
    ],
)
def test_frozen_file_of_torch(name: str, dtype: str, expected: NDArray[Any]) -> None:
    with open_source(DATA / "checkpoint.pt", name) as source:
        assert source.dtype == dtype
        assert same(np.concatenate(list(source.chunks())), expected)


def test_frozen_file_of_torch_is_listed() -> None:
    found = {info.name: (info.shape, info.dtype) for info in list_tensors(DATA / "checkpoint.pt")}
    assert len(found) == 13
    assert found["model.embedding.weight"] == ((4, 3), "float32")
    assert found["types.bool"] == ((2,), "bool")
    assert found["quint8"] == ((4, 3), "quantized")
    assert found["per_tensor"] == ((4, 3), "quint8")
    error = refused(DATA / "checkpoint.pt", "holds 11 matrices", error=TensorError)
    assert "'model.tied.weight'" in str(error)
    refused(DATA / "checkpoint.pt", "holds quint8: expected one of float16", tensor="per_tensor")


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_equals_torch(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with torch")
    weight = torch.randn(40, 6)
    with_attribute = torch.nn.Parameter(weight.clone())
    with_attribute.note = 3
    saved = {
        "state": torch.nn.Embedding(30, 4).state_dict(),
        "optimizer": {"state": {0: {"exp_avg": weight * 2, "step": 3}}, "groups": [{"betas": (0.9, 0.99)}]},
        "list": [weight, weight.t(), weight[:, 1:4], weight[3:9], weight[::3]],
        "parameter": torch.nn.Parameter(weight),
        "attribute": with_attribute,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "bytes": b"xy" if protocol > 2 else None,
        "huge": 1 << 70,
        "type": torch.float16,
        "nothing": None,
        **{name: weight.to(getattr(torch, name)) for name in [*STORAGES, *RAW_TYPES]},
        **{name: weight.abs().to(getattr(torch, name)) for name in ("uint16", "uint32", "uint64")},
    }
    path = tmp_path / "m.pt"
    torch.save(saved, path, pickle_protocol=protocol)
    expected = dict(named(torch.load(path, weights_only=protocol == 2), torch))
    assert {info.name for info in list_tensors(path)} == set(expected)
    for info in list_tensors(path):
        with open_source(path, info.name) as source:
            found = np.concatenate(list(source.chunks()))
        assert same(found, expected[info.name].detach().double().numpy()), info


def named(value: Any, torch: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors of a nested container with their names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from named(member, torch, f"{name}.{key}" if name else str(key))


def test_a_tensor_alone_has_no_name(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02" + tensor("0", values) + b".", {"0": values})
    with open_source(path) as source:
        assert source.name == ""
        assert same(np.concatenate(list(source.chunks())), values)


def test_tied_tensors_share_their_data(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", state(a=tensor("0", values), b=tensor("0", values)), {"0": values})
    for name in "ab":
        with open_source(path, name) as source:
            assert same(np.concatenate(list(source.chunks())), values)


@pytest.mark.parametrize(
    ("shape", "strides"), [((ROWS, 1), (1, 7)), ((1, DIM), (999, 1)), ((1, 1), (5, 5)), ((0, 4), (0, 9))]
)
def test_strides_of_a_single_row_or_column_do_not_matter(
    tmp_path: Path, shape: tuple[int, int], strides: tuple[int, int]
) -> None:
    values = matrix_of("float32", *shape)
    path = checkpoint(
        tmp_path / "m.pt", state(w=rebuild(storage("0", values.size), 0, shape, strides)), {"0": values}
    )
    with open_source(path) as source:
        assert same(np.concatenate([values[:0], *source.chunks()]), values)


def test_rows_that_lie_far_apart(tmp_path: Path) -> None:
    """More than is read in one go from one row to the next."""
    values, width = matrix_of("float32", 6), 1 << 18
    wider = np.zeros((6, width), np.float32)
    wider[:, 7 : 7 + DIM] = values
    data = state(w=rebuild(storage("0", wider.size), 7, (6, DIM), (width, 1)))
    with open_source(checkpoint(tmp_path / "m.pt", data, {"0": wider})) as source:
        assert isinstance(source, RowSource)
        assert same(source.read(0, 6), values)
        tracemalloc.start()
        assert same(source.read(2, 5), values[2:5])
        assert tracemalloc.get_traced_memory()[1] < 10_000
        tracemalloc.stop()


@pytest.mark.parametrize("strides", [(0, 1), (1, 1), (1, 4), (2, 1), (6, 2), (0, 0)])
def test_strides_that_are_no_rows(tmp_path: Path, strides: tuple[int, int]) -> None:
    held = np.zeros(100, np.float32)
    path = checkpoint(tmp_path / "m.pt", state(w=rebuild(storage("0", 100), 0, (5, 3), strides)), {"0": held})
    refused(path, f"has strides {strides} for shape (5, 3): expected contiguous rows", ".contiguous()")


def test_large_archives_have_larger_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    values = matrix_of("float32")
    path = make_view(contiguous)(tmp_path, values)
    assert b"PK\x06\x06" in path.read_bytes()
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), values)


def test_torch_writes_more_than_4_gigabytes(tmp_path: Path) -> None:
    """The offsets of such a file, without its data: a member that begins behind 4 GiB."""
    values = matrix_of("float32")
    path = make_view(contiguous)(tmp_path, values)
    content, shift = path.read_bytes(), 5 << 30
    start = content.index(b"PK\x01\x02")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    directory = b""
    for info in infos:
        extra = struct.pack("<HHQ", 1, 8, info.header_offset + (shift if "data/1" in info.filename else 0))
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, info.CRC, info.file_size, info.file_size,
            len(info.filename), len(extra), 0, 0, 0, 0, 0xFFFFFFFF,
        ) + info.filename.encode() + extra  # fmt: skip
    moved = next(info.header_offset for info in infos if "data/1" in info.filename)
    with open(path, "r+b") as file:
        file.truncate(start)
        file.seek(moved + shift)
        file.write(content[moved:start])
        end = file.tell()
        file.write(directory)
        record = end + len(directory)
        file.write(
            struct.pack(
                "<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, len(infos), len(infos), len(directory), end
            )
        )
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, record, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), values)


# ---------------------------------------------------------------- quantized tensors


def quantized(
    scheme: str = "per_channel_affine",
    kind: str = "QUInt8Storage",
    axis: int = 0,
    scales: bytes | None = None,
    zeros: bytes | None = None,
    rows: int = 4,
) -> bytes:
    """Opcodes that push a quantized tensor with storages 0 (codes), 1 (scales) and 2 (zero points)."""
    parameters = (
        f"(ctorch\n{scheme}\n".encode()
        + (scales or rebuild(storage("1", rows, "DoubleStorage"), 0, (rows,), (1,)))
        + (zeros or rebuild(storage("2", rows, "LongStorage"), 0, (rows,), (1,)))
        + body(axis)
        + b"t"
    )
    view = storage("0", rows * 3, kind) + body(0) + body((rows, 3)) + body((3, 1))
    return b"ctorch._utils\n_rebuild_qtensor\n(" + view + parameters + b"\x89" + ORDERED_DICT + b"tR"


CODES = np.arange(12, dtype=np.uint8).reshape(4, 3) * 23
SCALES = np.array([0.5, 1e-3, 0.0, 1e300])


def quantized_file(
    path: Path, ops: bytes, scales: NDArray[Any] = SCALES, zeros: NDArray[Any] | None = None
) -> Path:
    zeros = np.full(4, 128, np.int64) if zeros is None else zeros
    return checkpoint(path, state(q=ops), {"0": CODES, "1": scales, "2": zeros})


def codes_of(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    with open_source(path) as source:
        assert isinstance(source, QuantizedSource)
        assert (source.rows, source.dim, source.dtype, source.name) == (4, 3, "quantized", "q")
        return source.read_codes(0, 4)


def test_codes_go_in_as_they_are(tmp_path: Path) -> None:
    codes, scales = codes_of(quantized_file(tmp_path / "m.pt", quantized()))
    assert np.array_equal(codes, CODES)
    assert np.array_equal(scales, SCALES)


def test_codes_around_0_are_shifted(tmp_path: Path) -> None:
    ops = quantized(kind="QInt8Storage")
    codes, _ = codes_of(quantized_file(tmp_path / "m.pt", ops, zeros=np.zeros(4, np.int64)))
    assert np.array_equal(codes, CODES.view(np.int8).astype(int) + 128)


def test_quantized_rows_are_read_by_range(tmp_path: Path) -> None:
    with open_source(quantized_file(tmp_path / "m.pt", quantized())) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(1, 3)
        assert np.array_equal(codes, CODES[1:3])
        assert np.array_equal(scales, SCALES[1:3])
        assert same(source.read(1, 3), (CODES[1:3] - 128.0) * SCALES[1:3, None])
        assert [len(codes) for codes, _ in source.coded_chunks(1, 3)] == [2]
        assert (source.fingerprint() or {})["dtype"] == "quantized"
        source.check_unchanged()
        with pytest.raises(SourceError, match="has 4 rows"):
            source.read_codes(1, 5)


@pytest.mark.parametrize(
    ("scales", "zeros", "words"),
    [
        (SCALES, np.array([128, 128, 127, 0]), "row 2 has zero point 127: expected 128"),
        (SCALES * -1, None, "row 0 has scale -0.5: expected scales that are finite and not negative"),
        (np.array([1, 1, 1, np.inf]), None, "row 3 has scale inf"),
        (np.array([1, np.nan, 1, 1]), None, "row 1 has scale nan"),
    ],
)
def test_bad_parameters_name_the_row(
    tmp_path: Path, scales: NDArray[Any], zeros: NDArray[Any] | None, words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        codes_of(quantized_file(tmp_path / "m.pt", quantized(), scales, zeros))


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        (quantized(axis=1), "holds quint8: expected one of float16"),
        (quantized(scheme="per_channel_affine_float_qparams"), "holds quint8"),
        (quantized(kind="QInt32Storage"), "expected 48 bytes of data, found 12"),
        (quantized(scales=body(0.5)), "its scales expected shape (4,) of float64 or float32, found float"),
        (quantized(zeros=body(128)), "its zero points expected shape (4,) of int64 or int32, found int"),
        (quantized(scales=rebuild(storage("1", 4, "DoubleStorage"), 0, (3,), (1,))), "found (3,) of float64"),
        (quantized(zeros=rebuild(storage("2", 4, "LongStorage"), 0, (4,), (0,))), "has strides (0, 1)"),
        (quantized(zeros=rebuild(storage("9", 4, "LongStorage"), 0, (4,), (1,))), "no such member"),
        (quantized(scales=rebuild(storage("0", 1, "DoubleStorage"), 0, (4,), (1,))), "leaves its storage"),
    ],
)
def test_quantized_otherwise(tmp_path: Path, ops: bytes, words: str) -> None:
    refused(quantized_file(tmp_path / "m.pt", ops), words, tensor="q")


# ---------------------------------------------------------------- pickles that ask for more


class Reduced:
    """Pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


def call(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call something by its name."""
    return f"c{name.replace(':', chr(10))}\n(".encode() + b"".join(arguments) + b"tR"


def hostile(command: str) -> dict[str, bytes]:
    """Pickles that would run `command` if they were run."""
    text, code = body(command), body(f"__import__('os').system({command!r})")
    system = b"cos\nsystem\n"
    held = storage("0", 4)
    ops = {
        "os.system": call("os:system", text),
        "posix.system": call("posix:system", text),
        "nt.system": call("nt:system", text),
        "eval": call("builtins:eval", code),
        "exec": call("builtins:exec", code),
        "__builtin__.eval": call("__builtin__:eval", code),
        "compile": call("builtins:exec", call("builtins:compile", code, body(""), body("exec"))),
        "getattr": call("builtins:getattr", call("builtins:__import__", body("os")), body("system")),
        "getattr of a tensor type": call("builtins:getattr", b"ctorch\nTensor\n", body("__class__")),
        "subprocess": call("subprocess:Popen", body(["sh", "-c", command])),
        "run_code": call("runpy:_run_code", code, b"}"),
        "import_module": call("importlib:import_module", body("antigravity")),
        "loads": call("pickle:loads", body(pickle.dumps(Reduced(os.system, (command,))).hex())),
        "torch.load": call("torch.serialization:load", text),
        "load_from_bytes": call("torch.storage:_load_from_bytes", text),
        "torch.hub": call("torch.hub:load", text, text),
        "partial": call("functools:partial", system, text),
        "attrgetter": call("operator:attrgetter", body("system")),
        "reconstructor": call("copyreg:_reconstructor", system, b"cbuiltins\nobject\n", b"N"),
        "newobj function": call("copyreg:__newobj__", system, text),
        "add_extension": call("copyreg:add_extension", body("os"), body("system"), body(240)),
        "dotted": b"\x8c\x02os\x8c\x0epath.os.system\x93(" + text + b"tR",
        "dotted from torch": b"\x8c\x05torch\x8c\x17_utils.warnings.sys.exit\x93)R",
        "dotted from a known function": b"\x8c\x0ctorch._utils\x8c\x1f_rebuild_tensor_v2.__globals__.x\x93)R",
        "dotted on one line": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R",
        "module in the name": b"\x8c\x05torch\x8c\x19_utils._rebuild_tensor_v2\x93)R",
        "names that are no text": b"]]\x93)R",
        "a function in the place of a name": system + system + b"\x93)R",
        "inst": b"(" + b"S'x'\nios\nsystem\n",
        "obj": b"(" + system + text + b"o",
        "newobj": b"cbuiltins\nobject\n)\x81",
        "newobj of a known type": b"ctorch\nTensor\n)\x81",
        "newobj_ex": b"cbuiltins\nobject\n)}\x92",
        "ext1": b"\x82\xf0(" + text + b"tR",
        "ext2": b"\x83\xf0\x00(" + text + b"tR",
        "ext4": b"\x84\xf0\x00\x00\x00(" + text + b"tR",
        "build on a type": b"ctorch\nTensor\n" + mapping(__setstate__=system) + b"b",
        "build on a function": b"ctorch._utils\n_rebuild_tensor_v2\n" + mapping(call=system) + b"b",
        "build on a tensor": rebuild(held, 0, (2, 2), (2, 1)) + b"}b",
        "build with slots": ORDERED_DICT + b"N" + mapping(a=system) + b"\x86b",
        "reduce with a list": b"ccollections\nOrderedDict\n]R",
        "reduce with text": b"ccollections\nOrderedDict\n" + text + b"R",
        "reduce a type": b"ctorch\nfloat32\n)R",
        "reduce a storage type": b"ctorch\nFloatStorage\n(K\x04tR",
        "reduce a text": text + b")R",
        "reduce a tensor": rebuild(held, 0, (2, 2), (2, 1)) + b")R",
        "a function that rebuilds": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + system
        + b"ctorch\nTensor\n(" + text + b"t}tR",
        "rebuilding by itself": b"ctorch._tensor\n_rebuild_from_type_v2\n("
        b"ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n(" + text + b"t}tR",
        "a function as a storage": rebuild(system, 0, (2, 2), (2, 1)),
        "a function as an offset": b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + system + b"))\x89NtR",
        "a function as a hook": rebuild(held, 0, (2, 2), (2, 1))[:-2] + call("os:system", text) + b"tR",
        "nested in a list": b"](" + body(1) + call("os:system", text) + b"e",
        "as a key": b"}(" + call("os:system", text) + b"Nu",
        "popped at once": call("os:system", text) + b"0N",
        "popped to a mark": b"(" + call("os:system", text) + b"1N",
        "never looked at": b"}" + body("_metadata") + call("os:system", text) + b"s",
        "another persistent id": text + b"Q",
        "persistent id of a function": b"(" + body("storage") + system + body(("0", "cpu", 4)) + b"tQ",
        "storage of a function": b"(" + body("storage") + system + body("0") + b"N" + body(4) + b"tQ",
        "persistent id of a module": b"(" + body("module") + system + text + b"tQ",
        "persistent id in text": b"Pstorage\n",
        "persistent id of six": b"(" + held[1:-2] + b"NtQ",
        "bytearray": b"\x96\x04\x00\x00\x00\x00\x00\x00\x00abcd",
        "out-of-band buffer": b"\x97",
        "set": b"\x8f",
        "frozenset": b"(\x91",
        "python 2 text": b"S'os'\n",
        "dup": b"]2",
        "opcode 0": b"\0",
        "opcode 255": b"\xff",
    }  # fmt: skip
    pickles = {name: b"\x80\x02" + one + b"." for name, one in ops.items()}
    for protocol in range(6):
        for name, reduced in {
            "a call": Reduced(os.system, (command,)),
            "a call with a state": Reduced(os.system, (command,), {"a": 1}),
            "a call with items": Reduced(os.system, (command,), None, iter([1]), iter([(1, 2)])),
            "a nested call": {"a": [{"b": (Reduced(exec, (f"import os; os.system({command!r})",)),)}]},
            "a method": Reduced(str.format, ("{}", command)),
        }.items():
            pickles[f"{name}, protocol {protocol}"] = pickle.dumps(reduced, protocol)
    return pickles


@pytest.mark.parametrize("name", hostile("true"))
def test_nothing_hostile_is_run(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    data = hostile(f"touch {sentinel}")[name]
    copyreg.add_extension("os", "system", 240)
    try:
        path = checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)})
        words = str(refused(path, "m.pt"))
        legacy = tmp_path / "legacy.pt"
        legacy.write_bytes(data)
        refused(legacy, "is no zip checkpoint", "nothing of it was run", RESAVE)
    finally:
        copyreg.remove_extension("os", "system", 240)
    assert len(words) < 1000
    assert not sentinel.exists()


def test_the_hostile_pickles_would_run(tmp_path: Path) -> None:
    """Else the test above tells nothing."""
    sentinel = tmp_path / "sentinel"
    ran = []
    for name in ("os.system", "posix.system", "eval", "exec", "nested in a list", "never looked at"):
        pickle.loads(hostile(f"touch {sentinel}")[name])
        ran.append(sentinel.exists())
        sentinel.unlink(missing_ok=True)
    assert ran == [True] * len(ran)


def test_modules_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit")
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02cevil_module\nname\n.")
    refused(path, "is opaque (evil_module.name): expected a tensor; nothing of it was made or run")
    assert "evil_module" not in sys.modules


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    torch.save(torch.nn.Linear(3, 2), tmp_path / "m.pt")
    refused(
        tmp_path / "m.pt",
        "is opaque (torch.nn.modules.linear.Linear)",
        "torch.save(model.state_dict(), new_path)",
    )


def test_legacy_files_can_be_saved_again(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    path, new_path = tmp_path / "old.pt", tmp_path / "new.pt"
    weight = torch.randn(7, 3)
    torch.save({"w": weight}, path, _use_new_zipfile_serialization=False)
    refused(path, "is no zip checkpoint", RESAVE)
    path.rename(tmp_path / "old")  # known by its content, too
    refused(tmp_path / "old", "is no zip checkpoint", RESAVE)
    path = tmp_path / "old"
    exec(RESAVE, {"torch": torch, "path": path, "new_path": new_path})
    with open_source(new_path) as source:
        assert same(np.concatenate(list(source.chunks())), weight.numpy())


# ---------------------------------------------------------------- pickles that are too much


def nested(opcodes: bytes, count: int, end: bytes = b"") -> bytes:
    return b"\x80\x02" + opcodes * count + end + b"."


BOMBS = {
    "deep lists": nested(b"]", 200_000, b"a" * 199_999),
    "deep tuples": nested(b")", 1, b"\x85" * 200_000),
    "deep tuple as a key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"]s.",
    "deep dicts": nested(b"}K\0", 100_000, b"}" + b"s" * 100_000),
    "deep marks": nested(b"(", 200_000),
    "ten times ten lists": b"\x80\x02" + b"]q\x00" + b"".join(
        b"]q%c(" % (level + 1) + b"h%c" % level * 10 + b"e" for level in range(30)
    ) + b".",
    "ten times ten tuples": b"\x80\x02)q\x00" + b"".join(
        b"(" + b"h%c" % level * 10 + b"tq%c" % (level + 1) for level in range(30)
    ) + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a dict that holds itself": b"\x80\x02}q\x00K\x00h\x00s.",
    "many ids of the same list": b"\x80\x02]q\x00](" + b"h\x00" * 400_000 + b"e.",
    "long names": b"\x80\x02]q\x00}(" + b"X\xe8\x03\x00\x00" + b"n" * 1000 + b"q\x01h\x00"
    + b"h\x01h\x00" * 100_000 + b"u.",
    "memo of 4 billion": b"\x80\x02]r\xff\xff\xff\xff.",
    "memo with a gap": b"\x80\x02]q\x05.",
    "memo not there": b"\x80\x02h\x05.",
    "text of 2 to the 63": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "bytes of 2 to the 63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "text of 4 gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "frame of 2 to the 63": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "integer of 2 gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f\0.",
    "integer that is cut short": b"\x80\x02\x8a\xff\0.",
    "written integer without end": b"\x80\x02I" + b"9" * 1_000_000,
    "name without end": b"\x80\x02c" + b"a" * 1_000_000,
    "written integer": b"\x80\x02Iabc\n.",
    "text that is no UTF-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "protocol 6": b"\x80\x06}.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "end alone": b"\x80\x02.",
    "pop from nothing": b"\x80\x020.",
    "mark from nothing": b"\x80\x02t.",
    "tuple across a mark": b"\x80\x02]](\x86.",
    "three of two": b"\x80\x02NN\x87.",
    "append to nothing": b"\x80\x02]a.",
    "append to a tuple": b"\x80\x02)Na.",
    "append to a dict": b"\x80\x02}(NNe.",
    "items into a list": b"\x80\x02](NNu.",
    "items that are odd": b"\x80\x02}(NNNu.",
    "item into a list": b"\x80\x02]NNs.",
    "a tensor under a list": b"\x80\x02}]" + rebuild(storage("0", 4), 0, (2, 2), (2, 1)) + b"s.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "m.pt", BOMBS[name], {"0": np.zeros(4, np.float32)})
    assert len(str(refused(path, "m.pt"))) < 1000


@pytest.mark.parametrize("name", [name for name in BOMBS if not name.startswith(("deep", "many", "ten"))])
def test_bombs_take_no_memory(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "m.pt", BOMBS[name], {"0": np.zeros(4, np.float32)})
    tracemalloc.start()
    with pytest.raises(SourceError):
        open_source(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * len(BOMBS[name]) + (1 << 20)


def test_equal_hashes_do_not_matter() -> None:
    """Whole numbers that differ by 2^61 - 1 have the same hash: 20,000 keys in a dict would take minutes."""
    keys = b"".join(
        b"\x8a\x0c" + (number * (2**61 - 1)).to_bytes(12, "little") + b"N" for number in range(20_000)
    )
    found = read_pickle(b"\x80\x02}(" + keys + b"u.", {}, lambda key: key)
    assert isinstance(found, Pairs)
    assert len(found.items) == 20_000


def test_steps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted_pickle, "MOST_STEPS", 100)
    assert read_pickle(b"N0" * 49 + b"N.", {}, lambda key: key) is None
    with pytest.raises(PickleRefused, match="too long: expected at most 100 steps"):
        read_pickle(b"N0" * 50 + b"N.", {}, lambda key: key)


def test_same_name_twice(tmp_path: Path) -> None:
    held = {"0": np.zeros(4, np.float32)}
    one = rebuild(storage("0", 4), 0, (2, 2), (2, 1))
    path = checkpoint(tmp_path / "m.pt", state(a__b=one, a=mapping(b=one)), held)
    refused(path, "the name 'a.b' stands for two tensors")


# ---------------------------------------------------------------- places and sizes


BAD_VIEWS: list[tuple[Any, Any, Any, str]] = [
    (0, (2, 3), (3, 1), "leaves its storage: expected at most 16 bytes, found 24"),
    (1, (2, 2), (2, 1), "leaves its storage: expected at most 16 bytes, found 20"),
    (2**62, (2, 2), (2, 1), "leaves its storage"),
    (0, (2**62, 4), (4, 1), "leaves its storage"),
    (0, (2**62, 2**62), (1, 1), "leaves its storage"),
    (0, (2, 2), (2**62, 1), "leaves its storage"),
    (0, (2, 2), (2, 2**62), "leaves its storage"),
    (-1, (2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (-2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (-2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (2, -1), "rebuilds a tensor from other values"),
    (2**63, (0, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (2**64, 0), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2), (2,), "rebuilds a tensor from other values"),
    (0, [2, 2], (2, 1), "rebuilds a tensor from other values"),
    (0, (2, 2.0), (2, 1), "rebuilds a tensor from other values"),
    (0, (2, True), (2, 1), "rebuilds a tensor from other values"),
    (None, (2, 2), (2, 1), "rebuilds a tensor from other values"),
    (0, (1,) * 65, (1,) * 65, "rebuilds a tensor from other values"),
]


@pytest.mark.parametrize(("offset", "shape", "strides", "words"), BAD_VIEWS)
def test_views_stay_in_their_storage(
    tmp_path: Path, offset: Any, shape: Any, strides: Any, words: str
) -> None:
    data = state(w=rebuild(storage("0", 4), offset, shape, strides))
    refused(checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)}), words)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (storage("1", 4), "expected its data in member '1', found no such member"),
        (storage("../data.pkl", 4), "found no such member"),
        (storage("0", 5), "expected 20 bytes of data, found 16"),
        (storage("0", 2**62), f"expected {2**64} bytes of data, found 16"),
        (storage("0", 4, "DoubleStorage"), "expected 32 bytes of data, found 16"),
        (storage("0", -4), "persistent id of another kind"),
        (storage("0", 2**63), "persistent id of another kind"),
        (storage("0", 16, "UntypedStorage", "torch.storage"), "rebuilds a tensor from other values"),
        (storage("0", 4, "float32"), "persistent id of another kind"),
        (body(4), "rebuilds a tensor from other values"),
    ],
)
def test_storages_are_what_the_pickle_says(tmp_path: Path, held: bytes, words: str) -> None:
    data = state(w=rebuild(held, 0, (2, 2), (2, 1)))
    refused(checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)}), words)


def test_wrong_numbers_of_arguments(tmp_path: Path) -> None:
    held, hooks = storage("0", 4), b"\x89" + ORDERED_DICT
    view = held + body(0) + body((2, 2)) + body((2, 1))
    for name, arguments in {
        "_rebuild_tensor_v2": view + b"NNNN",
        "_rebuild_tensor_v3": view + hooks + b"N",
        "_rebuild_qtensor": view + body((1, 2, 3, 4)) + hooks,
        "_rebuild_parameter": body(1) + hooks,
        "_rebuild_parameter_with_state": b"",
    }.items():
        data = b"\x80\x02" + f"ctorch._utils\n{name}\n(".encode() + arguments + b"tR."
        path = checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)})
        refused(path, "rebuilds something from other arguments than torch's")


def test_big_endian_refused(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values}, byteorder=b"big")
    refused(path, "expected little-endian data, found b'big'")


def test_compressed_members_refused(tmp_path: Path) -> None:
    values = matrix_of("float32")
    path = checkpoint(
        tmp_path / "m.pt", state(w=tensor("0", values)), {"0": values}, method=zipfile.ZIP_DEFLATED
    )
    refused(path, "without compression", "with method 8", RESAVE)


# ---------------------------------------------------------------- the zip archive


def test_archives_without_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for names in (["a/other"], ["data.pkl"], ["a/b/data.pkl"], ["a/data.pkl", "b/data.pkl"]):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        refused(path, "is no torch checkpoint: expected one member NAME/data.pkl")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_stand_twice(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data.pkl", b"\x80\x02].")
    refused(path, "the name 'a/data.pkl' stands twice")


def changed(content: bytes, find: bytes, skip: int, new: bytes) -> bytes:
    """`content` with some bytes replaced, `skip` bytes after the last place of `find`."""
    place = content.rindex(find) + skip
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("find", "skip", "new", "words"),
    [
        (b"PK\5\6", 0, b"XX", "no whole zip archive"),
        (b"PK\5\6", 4, b"\1", "one part of a zip archive"),
        (b"PK\5\6", 10, b"\xff\xff", "one part of a zip archive"),
        (b"PK\5\6", 8, b"\xff\xff\xff\xff", "is malformed"),
        (b"PK\5\6", 8, b"\2\0\2\0", "is malformed"),
        (b"PK\5\6", 12, b"\xff\xff\xff\x7f", "2147483647"),
        (b"PK\5\6", 16, b"\xff\xff\xff\xff", "expected its zip directory to end at"),
        (b"PK\5\6", 20, b"\1", "no whole zip archive"),
        (b"PK\1\2", 0, b"XX", "is malformed"),
        (b"PK\1\2", 8, b"\1", "is encrypted"),
        (b"PK\1\2", 10, b"\x08", "without compression"),
        (b"PK\1\2", 20, b"\xff\xff\xff\x0f", "is malformed"),
        (b"PK\1\2", 28, b"\xff\xff", "is malformed"),
        (b"PK\1\2", 34, b"\1", "is malformed"),
        (b"PK\1\2", 42, b"\xff\xff\xff\x7f", "expected a local header before byte"),
        (b"PK\1\2", 42, b"\1\0\0\0", "expected its local header at byte 1, found another"),
        (b"PK\3\4", 0, b"XX", "is no zip checkpoint"),
        (b"PK\3\4", 8, b"\x08", "found another: the archive is damaged"),
        (b"PK\3\4", 30, b"b", "found another: the archive is damaged"),
        (b"PK\3\4", 28, b"\xff\xff", "the archive is damaged"),
    ],
)
def test_damaged_directories(tmp_path: Path, find: bytes, skip: int, new: bytes, words: str) -> None:
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    path.write_bytes(changed(path.read_bytes(), find, skip, new))
    refused(path, words)


def test_directory_limits(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    content = checkpoint(path, b"\x80\x02}.").read_bytes()
    path.write_bytes(changed(content, b"PK\5\6", 12, struct.pack("<I", (64 << 20) + 1)))
    refused(path, "expected a zip directory of at most 262144 members and 67108864 bytes")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", bytes(100_000_001))
    refused(path, "expected at most 100000000 bytes")


def test_bytes_in_front(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02}.")
    path.write_bytes(b"PK\3\4" + path.read_bytes())
    refused(path, "has bytes in front")


def test_damage_never_escapes(tmp_path: Path) -> None:
    """Bits flipped all over: an answer or a SourceError, and nothing else."""
    path = make_view(columns_of_wider)(tmp_path, matrix_of("float32", 6))
    whole = path.read_bytes()
    draw = random.Random(4)
    outcomes = {True: 0, False: 0}
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            list_tensors(path)
            with open_source(path, "z.weight") as source:
                assert isinstance(source, RowSource)
                source.read(0, min(source.rows, 100))
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 50


# ---------------------------------------------------------------- several files


def test_index_disagrees_with_its_shards(tmp_path: Path) -> None:
    path = make_sharded(tmp_path, matrix_of("float32"))
    path.write_text(path.read_text().replace("z.weight", "y.weight"))
    refused(path, "expected tensor 'y.weight' in pytorch_model-00002-of-00002.bin, found none")
    (tmp_path / "pytorch_model-00001-of-00002.bin").unlink()
    refused(path, "1 of its files missing: pytorch_model-00001-of-00002.bin")


def test_index_knows_its_origin(tmp_path: Path) -> None:
    with open_source(make_sharded(tmp_path, matrix_of("float32"))) as source:
        found = source.fingerprint() or {}
    assert found["shard"] == "pytorch_model-00002-of-00002.bin"
    assert "index_crc32" in found


def test_index_of_quantized_tensors(tmp_path: Path) -> None:
    quantized_file(tmp_path / "m.bin", quantized())
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"q": "m.bin"}}))
    codes, _ = codes_of(path)
    assert np.array_equal(codes, CODES)
    with open_source(path) as source:
        assert (source.fingerprint() or {})["shard"] == "m.bin"


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = make_view(contiguous)(tmp_path, matrix_of("float32"))
    refused(path, "did you mean 'z.weight'?", tensor="weight", error=TensorError)
    refused(path, "has shape (3,): expected 2 dimensions", tensor="a.bias")
