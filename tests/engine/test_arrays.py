"""One function makes arrays of what users hand in, wherever they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.engine.arguments import as_row_numbers, as_weights, whole_out
from qstore.engine.arrays import as_array
from qstore.engine.quantization import to_float64

MATRIX = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -6.0]], np.float32)
"""Every value is one of bfloat16 and of float8, too."""


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Three rows of three columns."""
    qstore.build(127 * np.eye(3, dtype=np.float32), tmp_path / "store.h5")
    with qstore.open(tmp_path / "store.h5") as opened:
        yield opened


def with_gradient(torch: Any) -> Any:
    return torch.from_numpy(MATRIX).requires_grad_()


TENSORS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda torch: torch.from_numpy(MATRIX),
    "gradient": with_gradient,
    "result of a gradient": lambda torch: with_gradient(torch) * 1,
    "parameter": lambda torch: torch.nn.Parameter(torch.from_numpy(MATRIX)),
    "bfloat16": lambda torch: torch.from_numpy(MATRIX).bfloat16(),
    "bfloat16 with gradient": lambda torch: torch.from_numpy(MATRIX).bfloat16().requires_grad_(),
    "float8_e4m3fn": lambda torch: torch.from_numpy(MATRIX).to(torch.float8_e4m3fn),
    "float8_e5m2": lambda torch: torch.from_numpy(MATRIX).to(torch.float8_e5m2),
    "columns": lambda torch: torch.from_numpy(MATRIX).t().contiguous().t(),
    "columns of bfloat16": lambda torch: torch.from_numpy(MATRIX).bfloat16().t().contiguous().t(),
    "negated": lambda torch: torch._neg_view(torch.from_numpy(-MATRIX)),
    "part of a conjugate": lambda torch: torch.complex(*[torch.from_numpy(-MATRIX)] * 2).conj().imag,
    "list": lambda torch: list(torch.from_numpy(MATRIX)),
    "list with gradient": lambda torch: list(with_gradient(torch)),
    "list of bfloat16": lambda torch: list(torch.from_numpy(MATRIX).bfloat16()),
    "tuple": lambda torch: tuple(torch.from_numpy(MATRIX)),
}

REFUSED: dict[str, tuple[Callable[[Any], Any], str, Callable[[Any], Any] | None]] = {
    "sparse": (
        lambda torch: torch.from_numpy(MATRIX).to_sparse(),
        "of layout torch.sparse_coo: expected plain values; give .to_dense()",
        lambda tensor: tensor.to_dense(),
    ),
    "csr": (
        lambda torch: torch.from_numpy(MATRIX).to_sparse_csr(),
        "of layout torch.sparse_csr: expected plain values; give .to_dense()",
        lambda tensor: tensor.to_dense(),
    ),
    "nested": (
        lambda torch: torch.nested.nested_tensor(list(torch.from_numpy(MATRIX))),
        "a nested tensor: expected plain values; give .to_padded_tensor(0.0)",
        lambda tensor: tensor.to_padded_tensor(0.0),
    ),
    "jagged": (
        lambda torch: torch.nested.nested_tensor(list(torch.from_numpy(MATRIX)), layout=torch.jagged),
        "a nested tensor: expected plain values; give .to_padded_tensor(0.0)",
        lambda tensor: tensor.to_padded_tensor(0.0),
    ),
    "quantized": (
        lambda torch: torch.quantize_per_tensor(torch.from_numpy(MATRIX), 0.5, 0, torch.qint8),
        "quantized",
        lambda tensor: tensor.dequantize(),
    ),
    "meta": (lambda torch: torch.empty(2, 3, device="meta"), "without values, on the meta device", None),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    array = as_array(TENSORS[name](torch), "x")
    assert array.shape == (2, 3)
    assert np.array_equal(to_float64(array), MATRIX)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_everywhere(name: str, store: qstore.Store, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    tensor, expected = TENSORS[name](torch), qstore.quantize(MATRIX)
    matrix = tensor if isinstance(tensor, torch.Tensor) else torch.stack(tensor)  # a list is chunks of rows
    for found in (
        qstore.quantize(tensor),
        quantized_by_writer(tensor, tmp_path / "a.h5"),
        built(matrix, tmp_path),
        built([matrix, matrix[:0]], tmp_path),
    ):
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
    for got, plain in zip(store.search(tensor, 2), store.search(MATRIX, 2), strict=True):
        assert np.array_equal(got, plain)
    assert np.array_equal(store @ matrix.T, store @ MATRIX.T)
    weights = tensor[0]
    assert np.array_equal(store.pool([0, 1, 2], [0], weights), store.pool([0, 1, 2], [0], MATRIX[0]))


def quantized_by_writer(tensor: Any, path: Path) -> tuple[Any, Any]:
    with qstore.Writer(path, 3, overwrite=True) as writer:
        writer.append(tensor)
    with qstore.open(path) as store:
        return store.codes.copy(), store.scales.copy()


def built(source: Any, directory: Path) -> tuple[Any, Any]:
    directory.mkdir(exist_ok=True)
    qstore.build(source, directory / "b.h5", overwrite=True)
    with qstore.open(directory / "b.h5") as store:
        assert qstore.verify_against(store, source).ok
        return store.codes.copy(), store.scales.copy()


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated|is in beta)", "ignore:Sparse")
@pytest.mark.parametrize("name", REFUSED)
def test_tensors_that_are_refused_everywhere(name: str, store: qstore.Store, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    make, words, remedy = REFUSED[name]
    tensor = make(torch)
    with qstore.Writer(tmp_path / "w.h5", 3) as writer:
        for call in (
            lambda: qstore.quantize(tensor),
            lambda: writer.append(tensor),
            lambda: qstore.build(tensor, tmp_path / "b.h5"),
            lambda: qstore.build(iter([tensor]), tmp_path / "b.h5"),
            lambda: qstore.build([tensor], tmp_path / "b.h5"),
            lambda: qstore.list_tensors(tensor),
            lambda: store.search(tensor),
            lambda: store @ tensor,
            lambda: store.pool([0], [0], tensor),
        ):
            with pytest.raises(ValueError, match="expected") as caught:
                call()
            assert words in str(caught.value)
        for call in (lambda: store.take(tensor), lambda: store.pool(tensor, [0])):
            with pytest.raises(IndexError, match="expected plain values") as refused:
                call()
            assert words in str(refused.value)
        writer.append(MATRIX)
    if remedy is not None:
        assert np.array_equal(as_array(remedy(tensor), "x"), remedy(tensor).numpy())


def test_quantized_by_row_is_built_and_not_searched_with(store: qstore.Store, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    tensor = qstore.torch.to_quantized(store)
    codes, scales = built(tensor, tmp_path)
    assert np.array_equal(codes, store.codes)
    assert np.array_equal(scales, store.scales)
    with pytest.raises(ValueError, match=r"quantized tensor: expected plain values; give \.dequantize\(\)"):
        store.search(tensor)
    assert store.search(tensor.dequantize(), 1)[1].tolist() == [[0], [1], [2]]
    assert isinstance(tensor, torch.Tensor)


def test_rows_that_are_tensors(store: qstore.Store) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    for rows in (
        torch.tensor([2, 0]),
        torch.tensor([2, 0], dtype=torch.int8),
        [torch.tensor(2), torch.tensor(0)],
    ):
        assert np.array_equal(store.take(rows), store[[2, 0]])
        assert np.array_equal(store.take_codes(rows)[0], store.codes[[2, 0]])
        assert np.array_equal(qstore.torch.take(store, rows).numpy(), store[[2, 0]])
        assert np.array_equal(store.pool(rows, torch.tensor([0, 1])), store[[2, 0]])
        assert store.search(MATRIX, 2, rows=rows)[1].shape == (2, 2)
    assert store.search(MATRIX, rows=torch.tensor([True, False, True]))[1].max() == 2


def test_out_may_be_a_tensor_that_can_be_filled(store: qstore.Store) -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    for dtype in (torch.float32, torch.float64, torch.float16):
        out = torch.empty(2, 3, dtype=dtype)
        assert store.take([2, 0], out=out) is out
        assert np.array_equal(out.numpy(), store[[2, 0]])
    for out, words in (
        (torch.empty(2, 3, requires_grad=True), "requires grad"),
        (torch.empty(2, 3, dtype=torch.bfloat16), "BFloat16"),
        (torch.empty(2, 3, device="meta"), "meta"),
        (torch.empty(2, 3).to_sparse(), "ayout"),
    ):
        with pytest.raises(
            ValueError, match=r"out cannot be filled in place, expected .*qstore\.torch\.take"
        ) as caught:
            store.take([2, 0], out=out)
        assert words in str(caught.value)
    assert qstore.torch.take(store, [2, 0], dtype=torch.bfloat16).dtype == torch.bfloat16


# ---------------------------------------------------------------- what is no tensor


@pytest.mark.parametrize("masked", [True, False])
def test_no_mask_is_lost(masked: bool, store: qstore.Store, tmp_path: Path) -> None:
    """Whether anything is masked or not: an error that comes with the data comes late."""
    array = np.ma.array(MATRIX, mask=[[False, masked, False]] * 2)
    rows = np.ma.array([0, 1], mask=[False, masked])
    words = r"masked array: expected plain values; say what masked ones are: \.filled\(0\)"
    with qstore.Writer(tmp_path / "w.h5", 3) as writer:
        for call in (
            lambda: qstore.quantize(array),
            lambda: qstore.quantize(list(array)),
            lambda: qstore.dequantize(np.ma.array(store.codes), store.scales),
            lambda: qstore.dequantize(store.codes, np.ma.array(store.scales)),
            lambda: writer.append(array),
            lambda: writer.append_codes(np.ma.array(store.codes), store.scales),
            lambda: writer.append_codes(store.codes, np.ma.array(store.scales)),
            lambda: qstore.build(array, tmp_path / "b.h5"),
            lambda: qstore.build([array], tmp_path / "b.h5"),
            lambda: qstore.build((np.ma.array(store.codes), store.scales), tmp_path / "b.h5"),
            lambda: qstore.build((store.codes, np.ma.array(store.scales)), tmp_path / "b.h5"),
            lambda: store.search(array),
            lambda: store.search(array[0]),
            lambda: store.search(list(array)),
            lambda: store @ array.T,
            lambda: store.pool([0, 1], [0], np.ma.array([1.0, 2.0], mask=[False, masked])),
        ):
            with pytest.raises(ValueError, match=words):
                call()
        for call in (
            lambda: store.take(rows),
            lambda: store.take_codes(rows),
            lambda: store.pool(rows, [0]),
            lambda: store.pool([0, 1], rows),
            lambda: store.search(MATRIX, rows=rows),
            lambda: store.search(MATRIX, rows=np.ma.array([True] * 3, mask=[False, masked, False])),
        ):
            with pytest.raises(IndexError, match=words):
                call()
        for out in (np.ma.empty((2, 3), np.float32), np.ma.array(np.empty((2, 3)), mask=masked)):
            with pytest.raises(ValueError, match=r"masked|MaskedArray"):
                store.take([0, 1], out=out)
            with pytest.raises(ValueError, match="MaskedArray"):
                qstore.dequantize(store.codes[:2], store.scales[:2], out=out)
        writer.append(array.filled(0))
    assert store.take([0, 1], out=np.ma.empty((2, 3), np.float32).data).shape == (2, 3)


def test_sparse_matrices_are_refused_with_a_way_out(store: qstore.Store, tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="is about sparse matrices")
    for kind in (sparse.csr_matrix, sparse.csr_array, sparse.coo_array, sparse.lil_matrix):
        matrix = kind(MATRIX)
        for call in (
            lambda matrix=matrix: qstore.quantize(matrix),
            lambda matrix=matrix: qstore.build(matrix, tmp_path / "b.h5"),
            lambda matrix=matrix: qstore.build([matrix], tmp_path / "b.h5"),
            lambda matrix=matrix: store.search(matrix),
        ):
            with pytest.raises(ValueError, match=r"is sparse: expected plain values; give \.toarray\(\)"):
                call()
        assert np.array_equal(
            built(matrix.toarray(), tmp_path / kind.__name__)[0], qstore.quantize(MATRIX)[0]
        )


def test_memory_views_are_arrays(tmp_path: Path, store: qstore.Store) -> None:
    view: Any = memoryview(MATRIX.data)
    assert np.array_equal(built(view, tmp_path)[0], qstore.quantize(MATRIX)[0])
    assert np.array_equal(built([view], tmp_path)[0], qstore.quantize(MATRIX)[0])
    assert np.array_equal(store.search(view)[1], store.search(MATRIX)[1])


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow", "xarray"])
def test_frames_and_the_like(kind: str, tmp_path: Path, store: qstore.Store) -> None:
    library = pytest.importorskip(kind, reason="is about its arrays")
    frame: Any = {
        "pandas": lambda: library.DataFrame(MATRIX),
        "polars": lambda: library.DataFrame({str(n): column for n, column in enumerate(MATRIX.T)}),
        "pyarrow": lambda: library.FixedShapeTensorArray.from_numpy_ndarray(MATRIX).to_numpy_ndarray(),
        "xarray": lambda: library.DataArray(MATRIX),
    }[kind]()
    assert np.array_equal(qstore.quantize(frame)[0], qstore.quantize(MATRIX)[0])
    assert np.array_equal(built(frame, tmp_path)[0], qstore.quantize(MATRIX)[0])
    assert np.array_equal(store.search(frame)[1], store.search(MATRIX)[1])


def test_numbers_that_int64_lacks_are_no_rows(store: qstore.Store) -> None:
    """As int64, the last number of 64 bits is -1, the last row."""
    for number in (2**64 - 1, 2**64 - 3, 2**63):
        for call in (
            lambda number=number: store.take(np.array([number], np.uint64)),
            lambda number=number: store.search(MATRIX, rows=np.array([number], np.uint64)),
            lambda number=number: as_row_numbers([number, 0]),
        ):
            with pytest.raises(IndexError, match=f"{number} is out of bounds|integers"):
                call()
    assert np.array_equal(store.take(np.array([2], np.uint64)), store[[2]])


def test_weights_of_any_type() -> None:
    assert as_weights(np.array([1, 2], ">f4"), 2).dtype == np.float64
    assert as_weights([1, 2], 2).tolist() == [1.0, 2.0]
    assert as_weights(np.array([1, 2], np.float32), 2).dtype == np.float32
    wrong: Any
    for wrong in ([True, False], ["a", "b"], [1 + 2j, 3], [None, 1], [[1, 2]], 3):
        with pytest.raises(ValueError, match=r"expected 2 numbers|no array of numbers"):
            as_weights(wrong, 2)


def test_out_that_cannot_be_filled() -> None:
    out = np.empty((2, 3), np.float32)
    assert whole_out(out, (2, 3), ("float32",)) is out
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"out is read-only.*numpy\.empty\(\(2, 3\)\)"):
        whole_out(out, (2, 3), ("float32",))


def test_lists_of_arrays_that_differ() -> None:
    torch = pytest.importorskip("torch", reason="is about tensors")
    with pytest.raises(ValueError, match=r"expected one shape and type, found \(2,\) of .*, \(3,\) of"):
        as_array([torch.zeros(2), torch.zeros(3)], "x")
    with pytest.raises(ValueError, match=r"x\[1\] is a masked array"):
        as_array([np.zeros(2), np.ma.zeros(2)], "x")
    with pytest.raises(ValueError, match=r"x is no array of numbers but list: .*numpy\.asarray takes"):
        as_array([[torch.zeros(2).bfloat16()], [1.0]], "x")
