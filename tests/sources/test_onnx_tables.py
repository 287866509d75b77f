"""Quantized tables of ONNX: what the nodes of a graph make of them, and what leaves open what they mean."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx_files import ONNX_DATA, TABLES, held, initializer, model, node, part, varint
from source_contract import files_open_in

import qstore
from qstore.engine import quantization
from qstore.errors import SourceError, TensorError
from qstore.sources import QuantizedSource, RowSource, list_tensors, open_source
from qstore.sources.onnx import tensors

pytestmark = pytest.mark.usefixtures("no_leaks")
ORT = "com.microsoft"
LOSSLESS = (
    "ort-8bit-rows",
    "rows-float16-scales",
    "rows-int2-odd",
    "rows-int4-odd",
    "rows-int8",
    "rows-uint8",
    "tensor-int8",
)
"""One scale a row or for all, and nothing to subtract but the middle."""
ROWS, COLUMNS = 6, 5
CODES = np.random.default_rng(1).integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)
BY_ROW = np.linspace(0.5, 2, ROWS).astype(np.float32)
BY_COLUMN = np.linspace(1, 3, COLUMNS).astype(np.float32)
ONE = np.array(0.25, np.float32)
DEQUANTIZE = "DequantizeLinear"


def save(path: Path, nodes: tuple[bytes, ...], **values: NDArray[Any] | bytes) -> Path:
    """A model of these nodes and initializers; bytes are an initializer as it stands in the file."""
    made = [one if isinstance(one, bytes) else held(one, name) for name, one in values.items()]
    path.write_bytes(model(*made, nodes=nodes))
    return path


def rows_of(path: Path, tensor: str | None = None) -> NDArray[Any]:
    with open_source(path, tensor) as source:
        assert isinstance(source, RowSource)
        return source.read(0, source.rows)


def refused(path: Path, *words: str, **options: Any) -> str:
    """Neither opened nor built, and no file stays open."""
    with pytest.raises(SourceError) as caught:
        qstore.build(path, path.parent / "out.h5", **options)
    for one in words:
        assert one in str(caught.value)
    assert not list(path.parent.glob("out.h5*"))
    assert files_open_in(path.parent) == []
    return str(caught.value)


# by the libraries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_as_the_library_runs_it(name: str) -> None:
    """Bit for bit what comes out of the model; codes and scales where these are taken as they are."""
    path, expected = ONNX_DATA / f"{name}.onnx", np.load(ONNX_DATA / f"{name}.npy")
    (info,) = list_tensors(path)
    with open_source(path) as source:
        assert isinstance(source, RowSource)
        assert isinstance(source, QuantizedSource) == (name in LOSSLESS)
        assert (info.name, info.shape, info.dtype) == (source.name, (source.rows, source.dim), source.dtype)
        assert info.convention == source.convention != ""
        whole = source.read(0, source.rows)
        np.testing.assert_array_equal(whole.astype(np.float32), expected)
        for start, stop in ((0, 0), (1, 2), (3, 7), (source.rows - 1, source.rows)):
            np.testing.assert_array_equal(source.read(start, stop), whole[start:stop])
    assert files_open_in(ONNX_DATA) == []


@pytest.mark.parametrize("name", TABLES)
def test_the_store_is_that_of_the_values(name: str, tmp_path: Path) -> None:
    path = ONNX_DATA / f"{name}.onnx"
    report = qstore.build(path, tmp_path / "out.h5")
    with qstore.open(tmp_path / "out.h5") as store, open_source(path) as source:
        if isinstance(source, QuantizedSource):
            codes, scales = source.read_codes(0, source.rows)
        else:
            values = np.load(ONNX_DATA / f"{name}.npy")
            codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values))
            assert quantization.quantize(values, codes, scales, False) == -1
        np.testing.assert_array_equal(store.codes, codes)
        np.testing.assert_array_equal(store.scales, scales)
        assert report.convention == source.convention
        assert qstore.verify_against(store, path).ok


@pytest.mark.parametrize("name", TABLES)
def test_what_is_cut_short(name: str, tmp_path: Path) -> None:
    content = (ONNX_DATA / f"{name}.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for length in (len(content) - 1, len(content) // 2, 9):
        path.write_bytes(content[:length])
        refused(path)


# data in other places ---------------------------------------------------------------------------------


def beside(values: NDArray[Any], name: str, begin: int) -> bytes:
    """An initializer whose bytes lie in a file."""
    places = {"location": "m.data", "offset": str(begin), "length": str(values.nbytes)}
    listed = [part(13, part(1, key.encode()) + part(2, value.encode())) for key, value in places.items()]
    kind = {"int8": 3, "float32": 1}[values.dtype.name]
    dims = part(1, b"".join(map(varint, values.shape)))
    return dims + part(2, kind) + part(8, name.encode()) + b"".join(listed) + part(14, 1)


def test_external_data(tmp_path: Path) -> None:
    nodes = (node(DEQUANTIZE, "t s", "v", axis=0),)
    (tmp_path / "m.data").write_bytes(b"x" * 7 + BY_ROW.tobytes() + b"yyy" + CODES.tobytes() + b"rest")
    path = save(
        tmp_path / "m.onnx", nodes, t=beside(CODES, "t", 7 + BY_ROW.nbytes + 3), s=beside(BY_ROW, "s", 7)
    )
    with open_source(path) as source:
        assert isinstance(source, QuantizedSource)
        codes, scales = source.read_codes(0, ROWS)
        np.testing.assert_array_equal(codes.astype(int) - 128, CODES)
        np.testing.assert_array_equal(scales, BY_ROW)
        (tmp_path / "m.data").write_bytes(b"")
        with pytest.raises(SourceError, match=r"m\.data was changed while it was read"):
            source.check_unchanged()
    refused(path, "'t' ends early")
    (tmp_path / "m.data").unlink()
    refused(path, "does not exist")


@pytest.mark.parametrize("packed", [True, False])
def test_zero_points_that_are_written_as_numbers(tmp_path: Path, packed: bool) -> None:
    """`onnx.helper.make_tensor` leaves them so, a number of up to ten bytes each."""
    zeros = np.array([-128, -1, 0, 1, 100, 127], np.int8)
    listed = b"".join(varint(int(one) & (1 << 64) - 1) for one in zeros)
    numbers = part(1, varint(ROWS)) + part(2, 3) + part(8, b"z")
    numbers += part(5, listed) if packed else b"".join(part(5, int(one) & (1 << 64) - 1) for one in zeros)
    path = save(tmp_path / "m.onnx", (node(DEQUANTIZE, "t s z", "v", axis=0),), t=CODES, s=BY_ROW, z=numbers)
    if not packed:  # which no version of onnx writes
        refused(path, "in a form that is not read")
        return
    expected = (CODES.astype(np.float32) - zeros[:, None]) * BY_ROW[:, None]
    np.testing.assert_array_equal(rows_of(path), expected)


def test_numbers_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = part(1, varint(ROWS)) + part(2, 3) + part(8, b"z")
    for listed, words in (
        (bytes(ROWS - 1), f"expected {ROWS} bytes of numbers, found {ROWS - 1}"),
        (b"\xff" * ROWS, "found none that can be read"),
        (b"\xff" * 10 + b"\1" + bytes(ROWS - 1), "found none that can be read"),
    ):
        nodes = (node(DEQUANTIZE, "t s z", "v", axis=0),)
        path = save(tmp_path / "m.onnx", nodes, t=CODES, s=BY_ROW, z=head + part(5, listed))
        refused(path, words)
    monkeypatch.setattr(tensors, "_MOST_NUMBERS", 3)
    refused(path, "as numbers of 16 bytes: expected at most 3")


# graphs -----------------------------------------------------------------------------------------------


def test_a_table_that_is_taken_twice_in_the_same_way(tmp_path: Path) -> None:
    """As embeddings that are tied to the last layer are."""
    nodes = [node(DEQUANTIZE, "t s", "v", axis=0), node("Gather", "t ids", "g"), node("Gather", "s ids", "h")]
    nodes += [node(DEQUANTIZE, "g h", "w", axis=0), node("Transpose", "v", "x"), node("MatMul", "a x", "out")]
    path = save(tmp_path / "m.onnx", tuple(nodes), t=CODES, s=BY_ROW)
    np.testing.assert_array_equal(rows_of(path), CODES * BY_ROW[:, None].astype(np.float64))
    again = save(tmp_path / "m.onnx", (*nodes, node(DEQUANTIZE, "t o", "y")), t=CODES, s=BY_ROW, o=ONE)
    refused(again, "the model scales it in several ways", "int8 * s of its row", "int8 * o (", tensor="t")


@pytest.mark.parametrize("deep", [False, True])
def test_nodes_of_a_graph_in_the_graph(tmp_path: Path, deep: bool) -> None:
    """Both branches of a merged decoder call their values alike, and mean their own."""

    def branch(scale: str) -> bytes:
        inner = (node("Gather", "t ids", "g"), node(DEQUANTIZE, f"g {scale}", "v"))
        if deep:
            inner = (node("Gather", "t ids", "g"), node("If", "c", "w", then_branch=graph(inner[1])))
        return graph(*inner)

    def graph(*nodes: bytes) -> bytes:
        return b"".join(part(1, one) for one in nodes) + part(2, b"inner")

    for scales, alike in (("ss", True), ("so", False)):
        chosen = node("If", "c", "out", then_branch=branch(scales[0]), else_branch=branch(scales[1]))
        path = save(tmp_path / "m.onnx", (chosen,), t=CODES, s=ONE, o=2 * ONE)
        if alike:
            np.testing.assert_array_equal(rows_of(path, "t"), CODES * 0.25)
        else:
            refused(path, "the model scales it in several ways", tensor="t")


def test_numbers_that_no_node_scales(tmp_path: Path) -> None:
    nodes = (node("Gather", "t ids", "g"), node("Cast", "g", "out"), node("Identity", "loop", "loop"))
    path = save(tmp_path / "m.onnx", nodes, t=CODES)
    report = qstore.build(path, tmp_path / "out.h5")
    assert "the source holds int8 and no scales beside it" in report.warnings[0]
    assert np.array_equal(rows_of(path), CODES)


def test_indices_are_no_table(tmp_path: Path) -> None:
    ids = np.zeros((ROWS, COLUMNS), np.int32)
    nodes = (node("Gather", "t ids", "g"), node(DEQUANTIZE, "g s", "v"))
    path = save(tmp_path / "m.onnx", nodes, t=CODES, s=ONE, ids=ids)
    assert np.array_equal(rows_of(path, "ids"), ids)


def test_scales_are_no_matrix_beside_a_table_that_is_refused(tmp_path: Path) -> None:
    """Types of 4 bits are no matrices that can be built, but what scales them is one."""
    packed = held(np.zeros(10, np.uint8), "t", 22, (4, 5))
    nodes = (node(DEQUANTIZE, "t s", "v", axis=1, block_size=2),)
    path = save(tmp_path / "m.onnx", nodes, t=packed, s=np.ones((4, 2), np.float32))
    refused(path, "'t' looks quantized (int4)", "'s' has shape (4, 2): expected (4, 3)")
    np.testing.assert_array_equal(rows_of(path, "s"), np.ones((4, 2)))


def test_by_hand_and_as_stored(tmp_path: Path) -> None:
    nodes = (node(DEQUANTIZE, "t made", "v", axis=0),)
    path = save(tmp_path / "m.onnx", nodes, t=CODES, s=BY_ROW)
    refused(path, "'made', are no tensor of the model's graph", "--scale TENSOR", "--as-stored", tensor="t")
    with open_source(path, "t", scale="s") as source:
        assert isinstance(source, QuantizedSource)
        np.testing.assert_array_equal(source.read_codes(0, ROWS)[1], BY_ROW)
    with open_source(path, "t", as_stored=True) as source:
        assert isinstance(source, RowSource)
        np.testing.assert_array_equal(source.read(0, ROWS), CODES)
    with pytest.raises(TensorError, match="has no tensor 'x'"):
        open_source(path, "t", scale="x")


# what is refused --------------------------------------------------------------------------------------

GATHER = node("Gather", "t ids", "g")
BLOCKS = np.ones((ROWS, 1), np.float32)
TWICE = held(CODES.astype(np.int16), "t")
FLOAT8 = held(CODES.view(np.uint8), "t", 17)
REFUSED: dict[str, tuple[tuple[bytes, ...], dict[str, Any], str]] = {
    "a scale that is computed": ((node(DEQUANTIZE, "t x", "v"),), {}, "'x', are no tensor"),
    "no scale": ((node(DEQUANTIZE, "t", "v"),), {}, "'', are no tensor"),
    "too few scales": ((node(DEQUANTIZE, "t s", "v", axis=0),), {"s": BY_ROW[1:]}, "or (6,) for axis 0"),
    "scales of the other axis": ((node(DEQUANTIZE, "t s", "v"),), {"s": BY_ROW}, "or (5,) for axis 1"),
    "scales as a matrix": ((node(DEQUANTIZE, "t s", "v", axis=0),), {"s": BLOCKS}, "has shape (6, 1)"),
    "integers as scales": ((node(DEQUANTIZE, "t s", "v"),), {"s": np.ones(1, np.int32)}, "holds int32"),
    "another axis": ((node(DEQUANTIZE, "t s", "v", axis=2),), {"s": BY_ROW}, "has axis 2: expected -2 to 1"),
    "negative blocks": (
        (node(DEQUANTIZE, "t s", "v", block_size=-16),),
        {"s": BLOCKS},
        "blocks are -16 long",
    ),
    "too few blocks": (
        (node(DEQUANTIZE, "t s", "v", block_size=2),),
        {"s": BLOCKS},
        "expected (6, 3), for blocks of 2 along axis 1",
    ),
    "zero points of another type": (
        (node(DEQUANTIZE, "t s z", "v"),),
        {"s": ONE, "z": np.array(1, np.uint8)},
        "'z' holds uint8: expected int8",
    ),
    "zero points of another shape": (
        (node(DEQUANTIZE, "t s z", "v", axis=0),),
        {"s": BY_ROW, "z": np.zeros(1, np.int8)},
        "'z' has shape (1,): expected (6,)",
    ),
    "floats with zero points": (
        (node(DEQUANTIZE, "t s z", "v"),),
        {"t": FLOAT8, "s": ONE, "z": held(np.zeros((), np.uint8), "z", 17)},
        "floats, which have no zero point",
    ),
    "codes that are their own zero points": (
        (node(DEQUANTIZE, "t s t", "v", block_size=1),),
        {"s": np.ones((ROWS, COLUMNS), np.float32)},
        "takes one tensor for two things",
    ),
    "blocks with a scale that is computed": (
        (node("GatherBlockQuantized", "t ids x", "v", domain=ORT, bits=8),),
        {"t": CODES.view(np.uint8)},
        "'x', are no tensor",
    ),
    "16 bits": ((node(DEQUANTIZE, "t s", "v"),), {"t": TWICE, "s": ONE}, "takes int16: expected 8 bits"),
    "columns that are gathered": (
        (node("Gather", "t ids", "g", axis=1), node(DEQUANTIZE, "g s", "v")),
        {"s": ONE},
        "leaves open which scales are whose",
    ),
    "rows that are changed": (
        (GATHER, node("Reshape", "g shape", "h"), node(DEQUANTIZE, "h s", "v")),
        {"s": ONE},
        "gives it to DequantizeLinear in a way that leaves open",
    ),
    "an axis behind Gather": (
        (GATHER, node(DEQUANTIZE, "g s", "v", axis=1)),
        {"s": BY_COLUMN},
        "axis 1 behind Gather, which leaves open",
    ),
    "scales of rows that are not gathered": (
        (GATHER, node(DEQUANTIZE, "g s", "v", axis=0)),
        {"s": BY_ROW},
        "axis 0 behind Gather, which leaves open",
    ),
    "scales by other indices": (
        (GATHER, node("Gather", "s other", "h"), node(DEQUANTIZE, "g h", "v", axis=0)),
        {"s": BY_ROW},
        "'h', are no tensor",
    ),
    "zero points that are not gathered": (
        (GATHER, node("Gather", "s ids", "h"), node(DEQUANTIZE, "g h z", "v", axis=0)),
        {"s": BY_ROW, "z": np.zeros(ROWS, np.int8)},
        "not taken by the same indices",
    ),
    "one scale by the indices of rows": (
        (GATHER, node("Gather", "s ids", "h"), node(DEQUANTIZE, "g h", "v", axis=0)),
        {"s": np.ones(1, np.float32)},
        "expected a scale for each of 6 rows",
    ),
    "products of integers": ((node("MatMulInteger", "a t", "v"),), {}, "gives it to MatMulInteger"),
    "another's operator": (
        (node("QEmbedLayerNormalization", "ids _ t", "v", domain=ORT),),
        {},
        "gives it to com.microsoft.QEmbedLayerNormalization",
    ),
    "an operator that nobody knows": ((GATHER, node("F", "g", "v", domain="x")), {}, "gives it to x.F"),
    "int8 in blocks": (
        (node("GatherBlockQuantized", "t ids s", "v", domain=ORT),),
        {"s": BLOCKS},
        "takes int8 of 8 bits",
    ),
    "3 bits": (
        (node("GatherBlockQuantized", "t ids s", "v", domain=ORT, bits=3),),
        {"t": CODES.view(np.uint8), "s": BLOCKS},
        "takes uint8 of 3 bits",
    ),
    "no blocks": (
        (node("GatherBlockQuantized", "t ids s", "v", domain=ORT, bits=8, block_size=0),),
        {"t": CODES.view(np.uint8), "s": BLOCKS},
        "has blocks of 0 uint8",
    ),
    "columns that blocks are gathered of": (
        (node("GatherBlockQuantized", "t ids s", "v", domain=ORT, bits=8, gather_axis=1),),
        {"t": CODES.view(np.uint8), "s": BLOCKS},
        "expected rows to be gathered",
    ),
    "bytes along the rows": (
        (node("GatherBlockQuantized", "t ids s", "v", domain=ORT, quantize_axis=0),),
        {"t": CODES.view(np.uint8), "s": BLOCKS},
        "packed bytes along the rows",
    ),
    "packed zero points of another shape": (
        (node("GatherBlockQuantized", "t ids s z", "v", domain=ORT, block_size=16),),
        {"t": CODES.view(np.uint8), "s": BLOCKS, "z": np.zeros((ROWS, 2), np.uint8)},
        "'z' has shape (6, 2): expected (6, 1)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    nodes, values, words = REFUSED[name]
    path = save(tmp_path / "m.onnx", nodes, **{"t": CODES, **values})
    found = refused(path, words, tensor="t")
    if "looks quantized" in found:
        assert "--as-stored" in found
    assert [one.name for one in list_tensors(path)] == [
        one.name for one in list_tensors(path, as_stored=True)
    ]


@pytest.mark.parametrize("name", ["t", "s", "z"])
def test_parts_that_are_too_short(tmp_path: Path, name: str) -> None:
    values: dict[str, Any] = {"t": CODES, "s": BY_ROW, "z": np.zeros(ROWS, np.int8)}
    nodes = (node(DEQUANTIZE, "t s z", "v", axis=0),)
    short = held(values[name].reshape(-1)[1:], name, shape=values[name].shape)
    path = save(tmp_path / "m.onnx", nodes, **{**values, name: short})
    refused(path, f"tensor '{name}' of shape", "bytes, found", tensor="t")


def test_packed_rows_that_are_too_short(tmp_path: Path) -> None:
    short = held(np.zeros(9, np.uint8), "t", 22, (4, 5))
    path = save(tmp_path / "m.onnx", (node(DEQUANTIZE, "t s", "v"),), t=short, s=ONE)
    refused(path, "expected 10 bytes, found 9", tensor="t")


def test_graphs_that_are_too_deep(tmp_path: Path) -> None:
    inner = part(2, b"g")
    for _ in range(20):
        inner = part(1, node("If", "c", "v", then_branch=inner)) + part(2, b"g")
    path = tmp_path / "m.onnx"
    path.write_bytes(part(7, inner))
    refused(path, "more than 16 deep")


def test_a_model_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    shutil.copy(ONNX_DATA / "ort-dynamic.onnx", path)
    with open_source(path) as source:
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(SourceError, match="was changed while it was read"):
            source.check_unchanged()


def test_a_plain_table_beside_it(tmp_path: Path) -> None:
    plain = initializer(np.ones((3, 2), np.float32), b"plain")
    path = save(tmp_path / "m.onnx", (node(DEQUANTIZE, "t s", "v"),), t=CODES, s=ONE, plain=plain)
    assert [(one.name, one.dtype) for one in list_tensors(path)] == [("plain", "float32"), ("t", "quantized")]
    np.testing.assert_array_equal(rows_of(path, "plain"), np.ones((3, 2)))
