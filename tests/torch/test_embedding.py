"""Stores in torch: tensors of rows, embeddings in place of torch's, datasets of DataLoaders."""

from __future__ import annotations

import copy
import io
import multiprocessing.resource_tracker
import pickle
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
import qstore.torch

MakeStore = Callable[..., qstore.Store]

torch = pytest.importorskip("torch", reason="tests the integration of torch")
taking = pytest.importorskip("qstore.torch.taking")

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.*deprecated:UserWarning")

DTYPES = ["float32", "float16", "bfloat16", "float64"]
ROWS = [[5, 3, 3, 0], [[1, 2], [3000, 1]], [], 7, list(range(2000))]
SIGNIFICANT_BITS = {"float16": (11, -24, 16), "bfloat16": (8, -133, 128), "float32": (24, -149, 128)}


def rounded(value: float, dtype: str) -> float:
    """`value` to the nearest of a type, ties to even, by exact fractions: what a single rounding gives."""
    if dtype == "float64" or value == 0 or np.isinf(value):
        return value
    bits, lowest, top = SIGNIFICANT_BITS[dtype]
    exponent = int(np.frexp(value)[1])
    unit = Fraction(2) ** max(exponent - bits, lowest)
    nearest = round(Fraction(value) / unit) * unit
    return float(nearest) if abs(nearest) < Fraction(2) ** top else float(np.copysign(np.inf, value))


def values_of(store: qstore.Store, dtype: str) -> Any:
    """The whole matrix as a tensor, each value rounded once."""
    exact = store.astype("float64")[...]
    once = np.array([rounded(value, dtype) for value in exact.ravel().tolist()]).reshape(exact.shape)
    return torch.from_numpy(once).to(getattr(torch, dtype))


def same(found: Any, expected: Any) -> bool:
    """Equal in type, shape and every bit but the sign of zeros, which torch.equal does not look at."""
    return bool(
        found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(found, expected)
    )


@pytest.fixture
def store(make_store: MakeStore, matrix: NDArray[np.float32]) -> qstore.Store:
    return make_store(matrix)


@pytest.fixture
def hard(make_store: MakeStore) -> qstore.Store:
    """Values at and next to the middle between two bfloat16 or float16, at every size a float64 has."""
    rng = np.random.default_rng(11)
    steps = rng.integers(0, 1 << 12, 400) / (1 << 11)
    nudges = rng.choice([0.0, 2.0**-30, -(2.0**-30), 2.0**-50, -(2.0**-50)], 400)
    powers = rng.integers(-160, 125, 400)
    powers[:100] = rng.integers(-40, 18, 100)
    scales = (1 + steps / 2 + nudges) * 2.0**powers
    scales[:6] = 0.0, 5e-324, 1e-310, 1.7e308, 2.0**120 * (2 - 2**-8), 2.0**120 * (2 - 2**-8 - 2**-40)
    codes = np.repeat(np.array([[127, 129, 130, 124, 0, 255, 128, 136]], np.uint8), 400, axis=0)
    codes[:, -1] = rng.integers(0, 256, 400)
    return make_store((codes, scales), "hard.h5")


# ---------------------------------------------------------------- rows as tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_rounded_once(hard: qstore.Store, dtype: str) -> None:
    rows = np.arange(len(hard))
    expected = values_of(hard, dtype)
    wanted = getattr(torch, dtype)
    assert same(qstore.torch.take(hard, rows, dtype=wanted), expected)
    sent = taking.take_on_device(hard, rows, wanted, torch.device("cpu"))
    assert same(sent, expected)


def test_rounding_twice_would_show(hard: qstore.Store) -> None:
    """The store above tells one rounding from two."""
    exact = torch.from_numpy(hard.astype("float64")[...])
    for dtype in ("float16", "bfloat16"):
        assert not same(exact.to(getattr(torch, dtype)), values_of(hard, dtype))


@hypothesis.given(st.floats(allow_nan=False), st.sampled_from(DTYPES))
def test_rounded_once(value: float, dtype: str) -> None:
    found = taking.rounded_once(torch.tensor([value], dtype=torch.float64), getattr(torch, dtype))
    assert found.double().item() == rounded(value, dtype)


@pytest.mark.parametrize("rows", ROWS)
def test_take(store: qstore.Store, rows: Any) -> None:
    expected = torch.from_numpy(store[...])[torch.tensor(rows, dtype=torch.int64)]
    assert same(qstore.torch.take(store, rows), expected)
    assert same(qstore.torch.take(store, torch.tensor(rows, dtype=torch.int32)), expected)
    halves = qstore.torch.take(store, range(3001), dtype=torch.bfloat16)
    expected_halves = halves[torch.tensor(rows, dtype=torch.int64)]
    assert same(qstore.torch.take(store, rows, dtype=torch.bfloat16), expected_halves)
    for dtype in (torch.float32, torch.float64):
        sent = taking.take_on_device(store, np.array(rows, np.int64), dtype, torch.device("cpu"))
        assert same(sent.float(), expected)
    assert qstore.torch.take(store, rows, device="meta").shape == expected.shape


def test_take_from_the_end(store: qstore.Store) -> None:
    rows = np.array([-1, 3, -3001, 0])
    expected = torch.from_numpy(store[rows])
    assert same(qstore.torch.take(store, rows), expected)
    assert same(taking.take_on_device(store, rows, torch.float32, torch.device("cpu")), expected)


def test_the_device_works_in_pieces(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "_DEVICE_VALUES", 100)
    found = taking.take_on_device(store, np.arange(31), torch.float32, torch.device("cpu"))
    assert same(found, torch.from_numpy(store[:31]))


def test_take_refuses(store: qstore.Store) -> None:
    with pytest.raises(ValueError, match=r"dtype is torch.int8, expected one of torch.float32"):
        qstore.torch.take(store, [1], dtype=torch.int8)
    for device in ("cpu", "meta"):
        with pytest.raises(IndexError, match="index 3001 is out of bounds"):
            qstore.torch.take(store, [1, 3001], device=device)
    with pytest.raises(IndexError, match="must be integers"):
        qstore.torch.take(store, torch.tensor([1.0]))


# ---------------------------------------------------------------- tensors that a store fills


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_tensor_is_filled(store: qstore.Store, dtype: str) -> None:
    out = torch.full((2, 3, 48), torch.nan, dtype=getattr(torch, dtype))
    address = out.data_ptr()
    rows = torch.tensor([[1, 2, 3], [9, 9, 3000]])
    assert store.take(rows, out=out) is out
    assert out.data_ptr() == address
    assert np.array_equal(out.numpy(), store.astype(dtype)[rows.numpy()])
    assert store.take([], out=torch.empty((0, 48))).shape == (0, 48)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (torch.empty((2, 48), dtype=torch.bfloat16), "BFloat16.*qstore.torch.take"),
        (torch.empty((2, 48), requires_grad=True), "requires grad"),
        (torch.empty((2, 48), device="meta"), "qstore.torch.take"),
        (torch.empty((48, 2)).t(), "expected C-contiguous"),
        (torch.empty((3, 48)), r"expected C-contiguous \(2, 48\)"),
        (torch.empty((2, 48), dtype=torch.int32), "one of float32"),
        ([[0.0] * 48] * 2, "out is a list"),
    ],
    ids=["bfloat16", "grad", "meta", "transposed", "shape", "int", "list"],
)
def test_tensors_that_cannot_be_filled(store: qstore.Store, out: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.take([1, 2], out=out)


# ---------------------------------------------------------------- Embedding


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS)
def test_embedding(store: qstore.Store, rows: Any, dtype: str) -> None:
    """Equal to torch's own over the dequantized matrix, and nothing to train."""
    ours = qstore.torch.Embedding(store, dtype=getattr(torch, dtype))
    theirs = torch.nn.Embedding.from_pretrained(qstore.torch.take(store, range(3001), dtype=ours._like.dtype))
    numbers = torch.tensor(rows, dtype=torch.int64)
    assert same(ours(numbers), theirs(numbers))
    assert same(ours(numbers.int()), theirs(numbers))
    assert not ours(numbers).requires_grad
    assert list(ours.parameters()) == []
    assert (ours.num_embeddings, ours.embedding_dim) == (theirs.num_embeddings, theirs.embedding_dim)


def test_rows_of_an_embedding_ahead_of_time(store: qstore.Store) -> None:
    """Asked for, then read: numbers that forward refuses are refused here."""
    ours = qstore.torch.Embedding(store)
    numbers = torch.tensor([[5, 3], [3000, 0]], dtype=torch.int32)
    assert ours.prefetch(numbers) == 4
    assert same(ours(numbers), torch.from_numpy(store[numbers.numpy()]))
    with pytest.raises(IndexError, match="row -1 is negative"):
        ours.prefetch(torch.tensor([-1]))
    with pytest.raises(IndexError, match="index 3001 is out of bounds"):
        ours.prefetch(torch.tensor([3001]))


def test_an_embedding_of_a_store_that_is_reloaded(tmp_path: Path) -> None:
    qstore.build(np.ones((2, 3)), tmp_path / "a.h5")
    with qstore.open(tmp_path / "a.h5") as store:
        embedding = qstore.torch.Embedding(store)
        qstore.build(np.full((4, 5), 2.0), tmp_path / "a.h5", overwrite=True)
        assert store.reload()
        assert (embedding.num_embeddings, embedding.embedding_dim) == (4, 5)
        assert embedding(torch.tensor([3])).tolist() == [[2.0] * 5]
        assert embedding.get_extra_state().tolist() == list(bytes.fromhex(store.content_id))


def test_padding_of_an_embedding(store: qstore.Store) -> None:
    ours = qstore.torch.Embedding(store, -1)
    theirs = torch.nn.Embedding.from_pretrained(torch.from_numpy(store[...]), padding_idx=-1)
    assert ours.padding_idx == theirs.padding_idx == 3000
    assert same(ours(torch.tensor([3000, 1])), theirs(torch.tensor([3000, 1])))
    assert repr(ours) == (f"Embedding(3001, 48, padding_idx=3000, dtype=torch.float32, store={store.path!r})")
    with pytest.raises(ValueError, match="padding_idx is 3001"):
        qstore.torch.Embedding(store, 3001)


@pytest.mark.parametrize("rows", [[3001], [-1], [0, 1, -3002], [2**62]])
def test_rows_that_are_not_there(store: qstore.Store, rows: list[int]) -> None:
    theirs = torch.nn.Embedding.from_pretrained(torch.from_numpy(store[...]))
    for module in (theirs, qstore.torch.Embedding(store)):
        with pytest.raises(IndexError, match="out of"):
            module(torch.tensor(rows))
    with pytest.raises(IndexError, match="out of"):
        qstore.torch.EmbeddingBag(store)(torch.tensor([rows]))
    with pytest.raises(IndexError, match="must be integers"):
        qstore.torch.Embedding(store)(torch.tensor([1.0]))


def test_modules_move_and_change_type(store: qstore.Store) -> None:
    model = torch.nn.Sequential(qstore.torch.Embedding(store), torch.nn.Linear(48, 3))
    rows = torch.tensor([[4, 5]])
    for dtype, change in {
        torch.float16: model.half,
        torch.bfloat16: model.bfloat16,
        torch.float64: model.double,
        torch.float32: lambda: model.to(dtype=torch.float32),
    }.items():
        change()
        assert model[0](rows).dtype == model(rows).dtype == dtype
    assert model.eval()[0].training is False
    assert model.to("meta")[0](rows).device.type == "meta"
    with pytest.raises(ValueError, match=r"dtype is torch.int8"):
        qstore.torch.Embedding(store, dtype=torch.int8)


def test_state_dicts(make_store: MakeStore, store: qstore.Store, tmp_path: Path) -> None:
    model = torch.nn.Sequential(qstore.torch.Embedding(store), torch.nn.Linear(48, 3))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert sorted(state) == ["0._extra_state", "1.bias", "1.weight"]
    again = torch.nn.Sequential(
        qstore.torch.Embedding(make_store(store[...], "again.h5").astype("float64")), torch.nn.Linear(48, 3)
    )
    again.load_state_dict(state)
    other = torch.nn.Sequential(
        qstore.torch.EmbeddingBag(make_store(store[...] * -1, "other.h5")), torch.nn.Linear(48, 3)
    )
    with pytest.raises(qstore.FormatError, match=f"content {store.content_id}, but .*other.h5 has content"):
        other.load_state_dict(state)
    with pytest.raises(RuntimeError, match="_extra_state"):
        again.load_state_dict({"0.weight": torch.zeros(3001, 48), **model[1].state_dict(prefix="1.")})


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_modules_are_copied(store: qstore.Store, way: str) -> None:
    module = torch.nn.Sequential(qstore.torch.EmbeddingBag(store, "sum", padding_idx=5).half())
    if way == "deepcopy":
        again = copy.deepcopy(module)
    elif way == "pickle":
        data = pickle.dumps(module)
        assert len(data) < 5000
        again = pickle.loads(data)
    else:
        buffer = io.BytesIO()
        torch.save(module, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
    assert repr(again) == repr(module)
    assert same(again(torch.tensor([[1, 2, 5]])), module(torch.tensor([[1, 2, 5]])))
    again[0].store.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
def test_compiled_models(store: qstore.Store) -> None:
    """torch.compile breaks the graph at the store and goes on behind it."""
    rows = torch.tensor([[1, 2], [3, 4]])
    for module in (qstore.torch.Embedding(store), qstore.torch.EmbeddingBag(store)):
        model = torch.nn.Sequential(module, torch.nn.ReLU())
        assert same(torch.compile(model, backend="eager")(rows), model(rows))


def test_modules_over_several_files(tmp_path: Path, store: qstore.Store) -> None:
    for number, first in enumerate(range(0, 3001, 700)):
        qstore.build(store[first : first + 700], tmp_path / f"part-{number}.h5")
    qstore.publish_shards(tmp_path, [f"part-{number}.h5" for number in range(5)])
    with qstore.open(tmp_path) as sharded:
        rows = torch.randint(0, 3001, (40, 5))
        for dtype in (torch.float32, torch.bfloat16):
            expected = qstore.torch.Embedding(store, dtype=dtype)(rows)
            assert same(qstore.torch.Embedding(sharded, dtype=dtype)(rows), expected)
            sent = taking.take_on_device(sharded, rows.numpy(), dtype, torch.device("cpu"))
            assert same(sent, expected)
        expected = qstore.torch.EmbeddingBag(store)(rows)
        assert same(qstore.torch.EmbeddingBag(sharded)(rows), expected)
        assert same(pickle.loads(pickle.dumps(qstore.torch.EmbeddingBag(sharded)))(rows), expected)
        quantized = qstore.torch.to_quantized(sharded, slice(690, 710))
        assert np.array_equal(quantized.int_repr().numpy(), store.codes[690:710])


def test_a_model_gives_the_same_as_with_dequantized_weights(store: qstore.Store) -> None:
    torch.manual_seed(3)
    layer = torch.nn.TransformerEncoderLayer(48, 4, 96, dropout=0.1, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    weights = torch.from_numpy(store[...]).nan_to_num_(posinf=0, neginf=0).clamp_(-9, 9)
    small = qstore.torch.Embedding(store)
    model = torch.nn.Sequential(torch.nn.Embedding.from_pretrained(weights), encoder).eval()
    rows = torch.randint(20, 3001, (5, 12))
    assert same(small(rows), weights[rows])
    expected = model(rows)
    model[0] = small
    assert same(model(rows), expected)


# ---------------------------------------------------------------- EmbeddingBag


def bags_of(store: qstore.Store, mode: Literal["sum", "mean"], **options: Any) -> tuple[Any, Any]:
    """Ours, and torch's over the same values in float64: that sums more exactly than float32 shows."""
    weights = torch.from_numpy(store.astype("float64")[...])
    theirs = torch.nn.EmbeddingBag.from_pretrained(weights, mode=mode, **options)
    return qstore.torch.EmbeddingBag(store, mode, **options), theirs


def alike(found: Any, expected: Any) -> bool:
    """Equal but for the order in which float64 sums are made: the last bit of float32."""
    assert (found.dtype, found.shape) == (torch.float32, expected.shape)
    return bool(torch.allclose(found.double(), expected, rtol=2e-7, atol=1e-12))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 30, -1])
def test_bags(store: qstore.Store, mode: Literal["sum", "mean"], padding: int | None) -> None:
    ours, theirs = bags_of(store, mode, padding_idx=padding)
    rows = torch.randint(20, 3001, (200,))
    rows[::3] = 30
    offsets = torch.tensor([0, 0, 7, 7, 100, 199])
    assert alike(ours(rows, offsets), theirs(rows, offsets))
    assert alike(ours(rows.int(), offsets.int()), theirs(rows, offsets))
    assert alike(ours(rows.reshape(20, 10)), theirs(rows.reshape(20, 10)))
    assert alike(ours(rows[:0], offsets[:1]), theirs(rows[:0], offsets[:1]))
    assert ours.padding_idx == theirs.padding_idx


def test_weighted_bags(store: qstore.Store) -> None:
    ours, theirs = bags_of(store, "sum", padding_idx=30)
    rows, weights = torch.randint(20, 40, (60,)), torch.randn(60)
    offsets = torch.tensor([0, 11, 40])
    assert alike(ours(rows, offsets, weights), theirs(rows, offsets, weights.double()))
    square = rows.reshape(6, 10), weights.reshape(6, 10)
    assert alike(
        ours(square[0], per_sample_weights=square[1]),
        theirs(square[0], per_sample_weights=square[1].double()),
    )
    with pytest.raises(NotImplementedError, match="sum"):
        qstore.torch.EmbeddingBag(store)(rows, offsets, weights)
    with pytest.raises(ValueError, match="per_sample_weights have shape"):
        ours(rows, offsets, weights[1:])


def test_bags_with_the_last_offset(store: qstore.Store) -> None:
    ours, theirs = bags_of(store, "mean", include_last_offset=True)
    rows, offsets = torch.randint(20, 3001, (50,)), torch.tensor([0, 3, 3, 50])
    assert alike(ours(rows, offsets), theirs(rows, offsets))
    with pytest.raises(ValueError, match=r"offsets end with \[3\], expected \[50\]"):
        ours(rows, offsets[:-1])
    assert "mode='mean', include_last_offset=True" in repr(ours)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bags_are_rounded_once(hard: qstore.Store, dtype: str) -> None:
    """Of one row each, so that the sums are values that are known."""
    bags = qstore.torch.EmbeddingBag(hard, "sum", dtype=getattr(torch, dtype))
    assert same(bags(torch.arange(400)[:, None]), values_of(hard, dtype))


def test_bags_refused(store: qstore.Store) -> None:
    with pytest.raises(ValueError, match="mode is 'max'"):
        qstore.torch.EmbeddingBag(store, "max")  # type: ignore[arg-type]
    bags = qstore.torch.EmbeddingBag(store, padding_idx=1)
    rows = torch.tensor([1, 2, 3])
    for offsets in (None, torch.tensor(0), torch.tensor([[0]])):
        with pytest.raises(ValueError, match=r"expected \(m,\) and \(bags,\)"):
            bags(rows, offsets)
    with pytest.raises(ValueError, match="offsets must be None"):
        bags(rows[None], torch.tensor([0]))
    for wrong in ([1], [0, 2, 1], [0, 4], [0, -1]):
        with pytest.raises(ValueError, match="offset"):
            bags(rows, torch.tensor(wrong))


# ---------------------------------------------------------------- DataLoader

FORKED = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def resource_tracker() -> None:
    """The process, and the pipe to it, that multiprocessing keeps from its first spawn on."""
    multiprocessing.resource_tracker.ensure_running()


@FORKED
@pytest.mark.usefixtures("resource_tracker", "no_leaks")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_with_workers(store: qstore.Store, method: str) -> None:
    loader = torch.utils.data.DataLoader(
        store, batch_size=512, num_workers=2, multiprocessing_context=method, shuffle=False
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [512] * 5 + [3001 - 5 * 512]
    assert same(torch.cat(batches), torch.from_numpy(store[...]))


@FORKED
@pytest.mark.usefixtures("no_leaks")
def test_data_loader_without_copies(store: qstore.Store) -> None:
    """`collate_fn=torch.from_numpy`: a batch is one gather, and the tensor is its memory."""
    order = torch.randperm(3001).tolist()
    loader = torch.utils.data.DataLoader(
        store, batch_size=1000, sampler=order, collate_fn=torch.from_numpy, num_workers=2
    )
    for _ in range(2):
        assert same(torch.cat(list(loader)), torch.from_numpy(store[order]))


def test_without_torch(store: qstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("library", "modules"):
        monkeypatch.delitem(sys.modules, f"qstore.torch.{name}", raising=False)
    monkeypatch.delitem(vars(qstore.torch), "Embedding", raising=False)
    with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[torch\]"'):
        qstore.torch.Embedding(store)


def test_names_of_the_package() -> None:
    assert set(qstore.torch.__all__) <= set(dir(qstore.torch))
    for name in qstore.torch.__all__:
        assert getattr(qstore.torch, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qstore.torch.nothing  # noqa: B018
