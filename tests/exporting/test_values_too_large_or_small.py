"""What a narrower type does not hold is never written without a word: export refuses, others say so."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.cli import main
from qstore.engine.narrowing import may_lose, narrowed, tell_infinite
from qstore.exporting import narrowing
from qstore.exporting.formats import FORMATS

MakeStore = Callable[..., qstore.Store]
SUFFIXES = {known.name: known.suffixes[0] for known in FORMATS if known.name != "parquet"}
DTYPES = {known.name: known.dtypes for known in FORMATS}
OTHERS = [(name, dtype) for name in SUFFIXES for dtype in DTYPES[name] if dtype != "float64"]


def values_with(value: float) -> NDArray[np.float64]:
    values = np.random.default_rng(0).standard_normal((500, 8))
    values[321, 5] = value
    return values


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "_BLOCK_VALUES", 100 * 8)


@pytest.mark.parametrize(("name", "dtype"), OTHERS)
def test_too_large_is_refused_and_the_advice_works(
    make_store: MakeStore, tmp_path: Path, name: str, dtype: str
) -> None:
    value = {"float16": 70000.0, "float32": 1e300}[dtype]
    store = make_store(values_with(value))
    out = tmp_path / f"out{SUFFIXES[name]}"
    with pytest.raises(qstore.ExportError) as caught:
        qstore.export(store, out, dtype=dtype)
    text = str(caught.value)
    assert text.startswith(
        f"1 value is too large for {dtype} and infinite in it, the first in row 321, column 5"
    )
    assert not out.exists()
    if name == "word2vec-binary":
        assert text.endswith("has no wider type: export float64 to another format, such as .npy")
        out = out.with_suffix(".npy")
    else:
        float32 = 'dtype="float32" (--dtype float32) or ' if dtype == "float16" else ""
        assert text.endswith(f'expected {float32}dtype="float64" (--dtype float64)')
    report = qstore.export(store, out, dtype="float64")
    assert (report.zeroed, report.warnings) == (0, ())
    assert qstore.verify_against(store, values_with(value)).ok


def test_float32_is_advised_where_it_holds_all_only(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(values_with(1e300))
    with pytest.raises(qstore.ExportError, match=r'expected dtype="float64" \(--dtype float64\)$'):
        qstore.export(store, tmp_path / "out.npy", dtype="float16")


def test_all_are_counted(make_store: MakeStore, tmp_path: Path) -> None:
    values = values_with(0)
    values[::10, :2] = -1e6
    with pytest.raises(qstore.ExportError, match=r"^100 values are too large .* in row 0, column 0 "):
        qstore.export(make_store(values), tmp_path / "out.npy", dtype="float16")


def test_only_the_rows_that_are_exported_count(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(values_with(70000.0))
    qstore.export(store, tmp_path / "out.npy", dtype="float16", rows=slice(0, 321))
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()
    with pytest.raises(qstore.ExportError, match="row 321"):
        qstore.export(store, tmp_path / "no.npy", dtype="float16", rows=slice(300, 400))


@pytest.mark.parametrize("value", [65504.0, 65519.0, 65521.0, 65536.0])
def test_the_limit_is_that_of_rounding(make_store: MakeStore, tmp_path: Path, value: float) -> None:
    store = make_store(np.array([[value, 1.0]]))
    fits = bool(store.astype("float64")[0, 0] < 65520)
    assert fits == (value < 65520)
    if fits:
        qstore.export(store, tmp_path / "out.npy", dtype="float16")
        assert np.load(tmp_path / "out.npy")[0, 0] == np.float16(65504)
    else:
        with pytest.raises(qstore.ExportError, match="too large for float16"):
            qstore.export(store, tmp_path / "out.npy", dtype="float16")


@pytest.mark.parametrize(("dtype", "tiny"), [("float16", 1e-9), ("float32", 1e-60)])
def test_too_small_is_counted(make_store: MakeStore, tmp_path: Path, dtype: str, tiny: float) -> None:
    values = np.zeros((500, 8))
    values[321, :3] = tiny, -tiny, 0
    report = qstore.export(make_store(values), tmp_path / "out.npy", dtype=dtype)
    assert report.zeroed == 2
    assert report.warnings == (
        f"2 values are too small for {dtype} and 0 in it, the first in row 321, column 0 ({tiny:g})",
    )
    assert qstore.export(make_store(values), tmp_path / "64.npy", dtype="float64").warnings == ()


def test_the_largest_float64_is_said_to_be_infinite(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(values_with(np.finfo(np.float64).max))
    report = qstore.export(store, tmp_path / "out.npy", dtype="float64")
    assert report.warnings[0].startswith(
        "1 value is too large for float64 and infinite in it, the first in row 321"
    )
    qstore.export(store, tmp_path / "out.safetensors", codes=True)


def test_stores_of_several_files(tmp_path: Path) -> None:
    qstore.build_shards(values_with(70000.0), tmp_path / "parts", 90)
    with pytest.raises(qstore.ExportError, match="row 321, column 5"):
        qstore.export(tmp_path / "parts", tmp_path / "out.npy", dtype="float16")


def test_the_export_command(
    make_store: MakeStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = make_store(values_with(70000.0)), str(tmp_path / "out.npy")
    assert main(["export", store.path, "-o", out, "--dtype", "float16"]) == 2
    assert "1 value is too large for float16" in capsys.readouterr().err
    assert main(["export", store.path, "-o", out, "--dtype", "float32"]) == 0  # as it says
    tiny = make_store(np.array([[1e-9, 1e-8]]), "tiny.h5")
    capsys.readouterr()
    assert main(["export", tiny.path, "-o", str(tmp_path / "tiny.npy"), "--dtype", "float16"]) == 0
    assert "warning: 2 values are too small for float16 and 0 in it" in capsys.readouterr().out
    arguments = ["export", tiny.path, "-o", str(tmp_path / "tiny.npy"), "--dtype", "float16", "--force"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["zeroed"] == 2


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_get_counts_and_says(make_store: MakeStore, capsys: pytest.CaptureFixture[str], form: str) -> None:
    values = values_with(70000.0)
    values[:, 7] = 70000.0
    values[10, :7] = 1e-9
    store = make_store(values)
    arguments = ["get", store.path, "0:20:5", "-1", "--columns", "-2:", "--format", form]
    assert main([*arguments, "--dtype", "float16"]) == 0
    shown = capsys.readouterr()
    assert ("1e999" if form == "json" else "inf") in shown.out
    assert shown.err == (
        "qstore: warning: 5 values are too large for float16 and infinite in it, the first in row 0, column "
        "7 (70000); --dtype float64 has a wider range\n"
    )
    assert main([*arguments, "--dtype", "float64"]) == 0
    shown = capsys.readouterr()
    assert (shown.err, "inf" in shown.out, "1e999" in shown.out) == ("", False, False)


def test_get_says_what_became_zero(make_store: MakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(np.array([[0.0, 1.0], [1e-9, 0.0]]))
    assert main(["get", store.path, ":", "--dtype", "float16"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "0.0 1.0\n0.0 0.0\n"
    assert "1 value is too small for float16 and 0 in it, the first in row 1, column 0 (1e-09)" in shown.err


def test_get_gives_the_values_of_the_store(
    make_store: MakeStore, matrix: NDArray[np.float32], tmp_path: Path
) -> None:
    store = make_store(matrix)
    for dtype in ("float16", "float32", "float64"):
        out = tmp_path / f"{dtype}.npy"
        arguments = ["get", store.path, "::-1", "--columns", "::-2", "--format", "npy", "-o", str(out)]
        assert main([*arguments, "--dtype", dtype]) == 0
        np.testing.assert_array_equal(np.load(out), store.astype(dtype)[:][::-1, ::-2])


# Reads in Python --------------------------------------------------------------------------------------

READS: dict[str, Callable[[qstore.Store], Any]] = {
    "row": lambda store: store[321],
    "numpy row": lambda store: store[np.int64(321)],
    "slice": lambda store: store[300:400],
    "columns": lambda store: store[321, 4:6],
    "list": lambda store: store[[1, 321]],
    "value": lambda store: store[321, 5],
    "mask": lambda store: store[np.arange(500) == 321],
    "scattered columns": lambda store: store[:, [5, 0]],
    "take": lambda store: store.take([321]),
    "out": lambda store: store.astype("float32").take([321], out=np.empty((1, 8), np.float16)),
    "blocks": lambda store: list(store.blocks(100)),
    "iteration": lambda store: list(store),
    "array": np.asarray,
    "array of a type": lambda store: np.asarray(store.astype("float32"), "float16"),
    "pool": lambda store: store.pool([321], [0]),
    "min": lambda store: store.min(),
    "max": lambda store: store.max(axis=0),
    "numpy.max": lambda store: np.max(store, axis=1),
    "numpy.maximum.reduce": np.maximum.reduce,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("kind", ["file", "shards"])
def test_reads_of_infinities_warn(tmp_path: Path, kind: str, read: Callable[[qstore.Store], Any]) -> None:
    for value in (70000.0, 65000.0):
        out = tmp_path / str(value)
        if kind == "file":
            qstore.build(values_with(value), out)
        else:
            qstore.build_shards(values_with(value), out, 90)
        with qstore.open(out) as store, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            read(store.astype("float16"))
            read(store)  # others do not look
        texts = [str(one.message) for one in told if issubclass(one.category, RuntimeWarning)]
        assert bool(texts) == (value > 65504)
        assert all("too large for float16" in text or "overflow" in text for text in texts)


def test_how_many_is_said(make_store: MakeStore) -> None:
    store = make_store(values_with(70000.0)).astype("float16")
    with pytest.warns(
        RuntimeWarning, match="^1 of 4,000 values are too large for float16 and read as infinity"
    ):
        assert np.isinf(store[:]).sum() == 1


def test_going_back_to_a_wider_type_is_quiet(make_store: MakeStore) -> None:
    store = make_store(values_with(70000.0)).astype("float16").astype("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(store[321]).all()
    assert type(store) is qstore.Store


def test_torch_takes(make_store: MakeStore) -> None:
    torch = pytest.importorskip("torch")
    store = make_store(values_with(70000.0))
    with pytest.warns(RuntimeWarning, match="1 of 8 values are too large for float16"):
        assert torch.isinf(qstore.torch.take(store, [321], dtype=torch.float16)).any()
    assert torch.isfinite(qstore.torch.take(store, [321], dtype=torch.bfloat16)).all()


# The arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scales_never_hide_a_loss(dtype: str) -> None:
    generator = np.random.default_rng(1)
    limits = np.finfo(dtype)
    edges = [float(limits.max) / 128, float(limits.max) / 127, float(limits.smallest_subnormal), 1e-320, 1.0]
    scales = np.array([edge * factor for edge in edges for factor in (0.4, 0.5, 0.999, 1, 1.001, 2)])
    codes = generator.integers(0, 256, (scales.size, 300)).astype(np.uint8)
    codes[:, :4] = 0, 1, 127, 129
    with np.errstate(over="ignore", under="ignore"):
        exact = (codes - 128.0) * scales[:, None]
    for row, scale in enumerate(scales):
        _, found = narrowed(exact[row : row + 1], dtype, [row], range(300))
        if found.infinite or found.zeroed:
            assert may_lose(np.array([scale]), dtype)
    assert not may_lose(np.array([1.0, 0.0]), dtype)
    assert not may_lose(np.empty(0), dtype)


def test_every_infinity_of_float16_is_counted() -> None:
    every = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    strided = every[::-1].reshape(2, -1)[:, ::2]
    cases: list[tuple[Any, int]] = [
        (every, 2),
        (np.float16("-inf"), 1),
        (strided, int(np.isinf(strided).sum())),
    ]
    for values, count in cases:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert tell_infinite(values) is values
        assert [str(one.message).split(" of ")[0] for one in told] == ([str(count)] if count else [])


def test_dequantize() -> None:
    codes, scales = qstore.quantize([[70000.0, 1.0]])
    with pytest.warns(RuntimeWarning, match="^1 of 2 values are too large for float16"):
        assert np.isinf(qstore.dequantize(codes, scales, "float16")[0, 0])
    with pytest.warns(RuntimeWarning, match="^1 of 2 values are too large for float16"):
        qstore.dequantize(codes, scales, out=np.empty((1, 2), np.float16))
