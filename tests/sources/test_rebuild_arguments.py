"""Every argument of the functions that rebuild tensors is honoured, or the tensor is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import refused, same
from torch_files import ORDERED_DICT, body, checkpoint, mapping, rebuild, state, storage

import qstore
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
MARKED = b"\x89" + ORDERED_DICT


def call(name: str, *arguments: bytes, module: str = "torch._utils") -> bytes:
    """Opcodes that call a function of torch's."""
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def view(kind: str = "FloatStorage", module: str = "torch", count: int = 12) -> bytes:
    """The first four arguments: storage 0 as (4, 3)."""
    return storage("0", count, kind, module) + body(0) + body((4, 3)) + body((3, 1))


def file_of(tmp_path: Path, ops: bytes, values: Any = VALUES) -> Path:
    return checkpoint(tmp_path / "m.pt", state(w=ops), {"0": values})


def content(path: Path) -> Any:
    with open_source(path) as source:
        return np.concatenate(list(source.chunks()))


# ---------------------------------------------------------------- the bits beside a tensor


def test_negated_parts_of_conjugates(tmp_path: Path) -> None:
    """What torch makes of ``.conj().imag``, and what its store says."""
    torch = pytest.importorskip("torch", reason="writes with torch")
    path, store_path = tmp_path / "neg.pt", tmp_path / "neg.h5"
    part = torch.tensor([[1 + 2j], [3 + 4j]]).conj().imag
    torch.save({"w": part}, path)
    assert same(content(path), np.array([[-2.0], [-4.0]], np.float32))
    qstore.build(path, store_path)
    with qstore.open(store_path) as store:
        assert store[:].tolist() == [[-2.0], [-4.0]]
        assert qstore.verify_against(store, part).ok
        assert not qstore.verify_against(store, -part).ok


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_negated_floats(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    negated = torch._neg_view(torch.from_numpy(VALUES.astype(dtype)))
    assert negated.is_neg()
    path = tmp_path / "m.pt"
    for tensor in (negated, negated[1:], negated.t(), negated[:, 1:], torch.nn.Parameter(negated)):
        torch.save({"w": tensor}, path)
        with open_source(path) as source:
            assert isinstance(source, RowSource)
            assert source.dtype == dtype
            expected = tensor.detach().resolve_neg().numpy()
            assert same(np.concatenate(list(source.chunks())), expected)
            assert same(source.read(1, 2), expected[1:2])
            assert (source.fingerprint() or {})["negated"] is True
            source.check_unchanged()


@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "uint8"])
def test_negated_otherwise_is_refused_with_a_way_out(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    path = tmp_path / "m.pt"
    negated = torch._neg_view(torch.from_numpy(VALUES).abs().to(getattr(torch, dtype)))
    torch.save({"w": negated, "v": torch.ones(2, 2)}, path)
    with open_source(path) as source:
        assert source.name == "v"
    advice = "tensor.resolve_conj().resolve_neg()"
    refused(path, "opaque (with the mark 'neg'", f"save {advice} in its place", tensor="w")
    resolved = eval(advice, {"tensor": negated})
    torch.save({"w": resolved}, path)
    assert same(content(path), resolved.double().numpy())


@pytest.mark.parametrize(
    ("marks", "refusal"),
    [
        (b"N", None),
        (b"}", None),
        (mapping(neg=b"\x89"), "the mark 'neg'"),
        (mapping(neg=body(1)), "the mark 'neg'"),
        (mapping(conj=b"\x88"), "the mark 'conj'"),
        (mapping(zero=b"\x88"), "the mark 'zero'"),
        (mapping(neg=b"\x88", zero=b"\x88"), "the mark 'zero'"),
        (b"}(K\x01\x88u", "the mark that is no text"),
        (b"}(X\xff\x00\x00\x00" + b"n" * 255 + b"\x88u", f"the mark '{'n' * 40}'"),
        (b"]", "other arguments than torch's"),
        (b"capp\nMarks\n)R", "other arguments than torch's"),
        (b"\x88", "other arguments than torch's"),
    ],
)
@pytest.mark.parametrize("function", ["_rebuild_tensor_v2", "_rebuild_tensor_v3"])
def test_marks(tmp_path: Path, function: str, marks: bytes, refusal: str | None) -> None:
    """Torch sets a bit whatever its value is, so that only True can be taken as it is meant."""
    if function == "_rebuild_tensor_v2":
        ops = call(function, view(), MARKED, marks)
    else:
        untyped = view("UntypedStorage", "torch.storage", 48)
        ops = call(function, untyped, MARKED, b"ctorch\nfloat32\n", marks)
    path = file_of(tmp_path, ops)
    if refusal is None:
        assert same(content(path), VALUES)
    else:
        refused(path, refusal, "save")


def test_marked_twice_is_marked(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, call("_rebuild_tensor_v2", view(), MARKED, b"}(" + (body("neg") + b"\x88") * 2 + b"u")
    )
    assert same(content(path), -VALUES)


def test_conjugates_of_complex_tensors_are_complex(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    values = torch.tensor([[1 + 2j, 3 + 4j], [5 + 6j, 7 + 8j]])
    path = tmp_path / "m.pt"
    torch.save({"z": values.conj(), "w": torch.ones(3, 2)}, path)
    assert list_tensors(path)[1] == TensorInfo("z", (2, 2), "complex64")
    with open_source(path) as source:
        assert source.name == "w"
    error = str(refused(path, "holds complex64", tensor="z"))
    for part, expected in (
        ("tensor.real.contiguous()", [[1, 3], [5, 7]]),
        ("tensor.imag.contiguous()", [[-2, -4], [-6, -8]]),
    ):
        assert part in error
        torch.save({"w": eval(part, {"tensor": values.conj()})}, path)
        assert content(path).tolist() == expected


# ---------------------------------------------------------------- what gradients need


@pytest.mark.parametrize(
    ("gradients", "fine"),
    [
        (b"\x88" + ORDERED_DICT, True),
        (b"\x89N", True),
        (b"\x89}(K\x01capp\nhook\nu", True),  # hooks are for gradients
        (b"N" + ORDERED_DICT, False),
        (b"K\x01N", False),
        (b"\x89]", False),
        (b"\x89capp\nhooks\n)R", False),
    ],
)
def test_gradients_do_not_matter(tmp_path: Path, gradients: bytes, fine: bool) -> None:
    plain = call("_rebuild_tensor_v2", view(), MARKED)
    for ops in (
        call("_rebuild_tensor_v2", view(), gradients),
        call("_rebuild_parameter", plain, gradients),
        call("_rebuild_parameter_with_state", plain, gradients, b"N"),
    ):
        path = file_of(tmp_path, ops)
        if fine:
            assert same(content(path), VALUES)
        else:
            refused(path, "other arguments than torch's")


# ---------------------------------------------------------------- attributes


@pytest.mark.parametrize(
    ("attributes", "refusal"),
    [
        (b"N", None),
        (mapping(note=body(3)), None),
        (mapping(note=b"capp\nThing\n)R"), None),
        (b"N" + mapping(slot=body(3)) + b"\x86", None),
        (mapping(a=b"N") + b"N\x86", None),
        (mapping(data=call("_rebuild_tensor_v2", view(), MARKED)), "in the place of its own"),
        (b"N" + mapping(real=b"N") + b"\x86", "in the place of its own"),
        (b"}(" + body("__class__") + b"capp\nThing\nu", "in the place of its own"),
        (b"}(K\x01Nu", "in the place of its own"),
        (b"]", "other arguments than torch's"),
        (b"NNN\x87", "other arguments than torch's"),
        (b"capp\nThing\n)R", "other arguments than torch's"),
    ],
)
def test_attributes_of_tensors(tmp_path: Path, attributes: bytes, refusal: str | None) -> None:
    """Torch sets each of them by its name: one that is called ``data`` would be the values."""
    plain = call("_rebuild_tensor_v2", view(), MARKED)
    inner = b"ctorch._utils\n_rebuild_tensor_v2\nctorch\nTensor\n(" + view() + MARKED + b"t"
    for ops in (
        call("_rebuild_parameter_with_state", plain, MARKED, attributes),
        call("_rebuild_from_type_v2", inner, attributes, module="torch._tensor"),
        call("_rebuild_from_type", inner, attributes, module="torch._tensor"),
    ):
        path = file_of(tmp_path, ops)
        if refusal is None:
            assert same(content(path), VALUES)
        else:
            refused(path, refusal)


def test_more_attributes_than_are_looked_at(tmp_path: Path) -> None:
    many = b"}(" + b"".join(body(f"a{number}") + b"N" for number in range(101)) + b"u"
    plain = call("_rebuild_tensor_v2", view(), MARKED)
    path = file_of(tmp_path, call("_rebuild_parameter_with_state", plain, MARKED, many))
    refused(path, "in the place of its own", "tensor.detach().clone()")


# ---------------------------------------------------------------- other ways to rebuild


def test_tensors_of_devices_without_storages(tmp_path: Path) -> None:
    """As XLA's: saved from the processor's memory, by torch 2.4 and later."""
    plain, device = call("_rebuild_tensor_v2", view(), MARKED), body("xla:0")
    name = "_rebuild_device_tensor_from_cpu_tensor"
    path = file_of(tmp_path, call(name, plain, b"ctorch\nfloat32\n", device, b"\x89"))
    assert same(content(path), VALUES)
    marked = call("_rebuild_tensor_v2", view(), MARKED, mapping(neg=b"\x88"))
    path = file_of(tmp_path, call(name, marked, b"ctorch\nfloat32\n", device, b"\x89"))
    assert same(content(path), -VALUES)
    for wrong in (
        plain + b"ctorch\nfloat16\n" + device + b"\x89",  # torch would convert it
        plain + b"ctorch\nfloat32\n" + device,
        plain + b"ctorch\nfloat32\n" + device + b"N",
    ):
        refused(file_of(tmp_path, call(name, wrong)), "other arguments than torch's")


@pytest.mark.parametrize("name", ["_rebuild_device_tensor_from_numpy", "_rebuild_xla_tensor"])
def test_tensors_of_such_devices_before(tmp_path: Path, name: str) -> None:
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btRNb"
    path = file_of(tmp_path, call(name, array, b"ctorch\nfloat32\n", body("xla:0"), b"\x89"))
    refused(path, "opaque (numpy.ndarray)")
    refused(file_of(tmp_path, call(name, body(1), b"NN\x89")), "other arguments than torch's")


def test_offsets_count_items_of_the_tensor(tmp_path: Path) -> None:
    """A storage of bytes holds items of any type: an offset of 2 is 8 bytes of it."""
    held = np.arange(14, dtype=np.float32)
    where = storage("0", 56, "UntypedStorage", "torch.storage") + body(2) + body((4, 3)) + body((3, 1))
    path = file_of(tmp_path, call("_rebuild_tensor_v3", where, MARKED, b"ctorch\nfloat32\n"), held)
    assert same(content(path), held[2:].reshape(4, 3))
    # Nor does the type of a storage matter where the tensor's is told.
    where = storage("0", 14) + body(4) + body((4, 3)) + body((3, 1))
    path = file_of(tmp_path, call("_rebuild_tensor_v3", where, MARKED, b"ctorch\nint16\n"), held)
    assert same(content(path), held.view(np.int16)[4:16].reshape(4, 3))


@pytest.mark.parametrize(
    ("scheme", "more"),
    [
        ("per_tensor_affine", body(0.5) + body(3)),
        ("per_channel_affine", body([0.5] * 4) + body([0] * 4) + body(0)),
        ("per_channel_affine", body([0.5] * 3) + body([0] * 3) + body(1)),
        ("per_block_affine", body([0.5] * 4)),
    ],
)
def test_other_quantizers_say_to_dequantize(tmp_path: Path, scheme: str, more: bytes) -> None:
    quantizer = f"(ctorch\n{scheme}\n".encode() + more + b"t"
    ops = call("_rebuild_qtensor", view("QUInt8Storage"), quantizer, MARKED)
    refused(file_of(tmp_path, ops, np.zeros((4, 3), np.uint8)), "save tensor.dequantize() in its place")


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_dequantized_tensors_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    values, path = torch.from_numpy(VALUES), tmp_path / "m.pt"
    by_column = (torch.full((3,), 0.5), torch.zeros(3), 1)
    for quantized in (
        torch.quantize_per_tensor(values, 0.5, 10, torch.quint8),
        torch.quantize_per_tensor(values, 0.5, 10, torch.qint32),
        torch.quantize_per_channel(values, *by_column, torch.qint8),
        torch.quantize_per_channel(values, torch.full((4,), 0.5), torch.full((4,), 3.0), 0, torch.quint8),
    ):
        torch.save({"w": quantized}, path)
        with pytest.raises(qstore.SourceError, match=r"tensor\.dequantize\(\)"), open_source(path) as source:
            list(source.chunks())
        torch.save({"w": quantized.dequantize()}, path)
        assert same(content(path), quantized.dequantize().numpy())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("_rebuild_sparse_tensor", b"N)"),
        ("_rebuild_sparse_tensor", body("torch.sparse_coo") + b"NNN\x87"),
        ("_rebuild_sparse_tensor", body("torch.sparse_coo") + body((1, 2, (4, 4), True))),
        ("_rebuild_meta_tensor_no_storage", b"ctorch\nfloat32\n" + body([4, 4]) + b"N\x89"),
        ("_rebuild_meta_tensor_no_storage", body("float32") + body((4, 4)) + b"N\x89"),
        ("_rebuild_nested_tensor", b"NNNN"),
        ("_rebuild_wrapper_subclass", b"capp\nThing\nctorch\nfloat32\n" + body((4, 4))),
        ("_rebuild_parameter", b"NN"),
    ],
)
def test_malformed_calls(tmp_path: Path, name: str, arguments: bytes) -> None:
    refused(file_of(tmp_path, call(name, arguments)), "other arguments than torch's")


def test_rebuilding_calls_nothing_by_itself(tmp_path: Path) -> None:
    """A class could be rebuilt by what rebuilds classes, a million deep."""
    inner = b"ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n)"
    path = file_of(tmp_path, call("_rebuild_from_type_v2", inner, b"N", module="torch._tensor"))
    refused(path, "other arguments than torch's")


def test_old_views_without_gradients(tmp_path: Path) -> None:
    path = file_of(tmp_path, call("_rebuild_tensor", view()))
    assert same(content(path), VALUES)
    path = file_of(tmp_path, rebuild(storage("0", 12), 0, (4, 3), (3, 1), more=b"N"))
    assert same(content(path), VALUES)
