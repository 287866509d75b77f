"""The kernels that read rows of several parts: those of the whole, and their arguments checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from qstore.engine import kernels, part_kernels, quantization


@pytest.fixture(params=["NumPy", "baseline", "avx2", "avx512"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    native: Any = kernels.extension()
    if request.param == "NumPy":
        monkeypatch.setattr(kernels, "_native", None)
        monkeypatch.setattr(kernels, "_engine", quantization)
        yield "NumPy"
        return
    if native is None:
        pytest.skip("no extension")
    before = native.level()
    try:
        native.set_level(request.param)
    except ValueError:
        pytest.skip(f"this machine lacks {request.param}")
    yield request.param
    native.set_level(before)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    dim=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_rows_of_parts_are_rows_of_the_whole(engine: str, lengths: list[int], dim: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    total = sum(lengths)
    codes = random.integers(0, 256, (total, dim), dtype=np.uint8)
    scales = random.random(total) * 10.0 ** random.integers(-320, 300, total)
    firsts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
    rows = random.integers(-total, total, 50) if total else np.empty(0, np.int64)
    touched = part_kernels.touch_parts(firsts, total, rows)
    expected = {int(np.flatnonzero(firsts <= row % total)[-1]) for row in rows.tolist()}
    assert set(np.flatnonzero(touched).tolist()) == expected
    some = np.flatnonzero(touched)
    tables = (
        firsts[some],
        total,
        tuple(codes[firsts[k] : firsts[k] + lengths[k]] for k in some),
        tuple(scales[firsts[k] : firsts[k] + lengths[k]] for k in some),
    )
    for dtype in ("float32", "float64", "float16"):
        out, whole = np.full((2, rows.size, dim), 7, dtype)
        part_kernels.gather_parts(*tables, rows, out)
        quantization.gather(codes, scales, rows, whole)
        np.testing.assert_array_equal(out, whole)
    copied = np.empty((rows.size, dim), np.uint8), np.empty(rows.size)
    part_kernels.copy_parts(*tables, rows, *copied)
    np.testing.assert_array_equal(copied[0], codes[rows])
    np.testing.assert_array_equal(copied[1], scales[rows])
    for bad in (total, -total - 1, 2**63 - 1, -(2**63)):
        with pytest.raises(IndexError, match=f"index {bad} is out of bounds for axis 0 with size {total}"):
            part_kernels.touch_parts(firsts, total, np.array([bad]))


BAD_CALLS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "firsts that fall": lambda good: {"firsts": good["firsts"][::-1].copy()},
    "firsts past the rows": lambda good: {"total": 3},
    "negative total": lambda good: {"total": -1},
    "too few codes": lambda good: {"codes": good["codes"][:1]},
    "too few scales": lambda good: {"scales": good["scales"][:1]},
    "a list": lambda good: {"codes": list(good["codes"])},
    "no arrays": lambda good: {"codes": (None, None)},
    "other columns": lambda good: {"codes": (good["codes"][0][:, :3].copy(), good["codes"][1])},
    "short scales": lambda good: {"scales": (good["scales"][0][:2], good["scales"][1])},
    "other types": lambda good: {"scales": tuple(s.astype(np.float32) for s in good["scales"])},
    "another out": lambda good: {"out": np.empty((2, 8), np.float32)},
    "out read-only": lambda good: {"out": np.broadcast_to(np.float32(0), (4, 8))},
    "rows of float64": lambda good: {"rows": np.zeros(4)},
}


@pytest.mark.parametrize("defect", BAD_CALLS)
def test_extension_checks_its_arguments(defect: str) -> None:
    native = kernels.extension()
    if native is None:
        pytest.skip("no extension")
    good: dict[str, Any] = {
        "firsts": np.array([0, 5]),
        "total": 10,
        "codes": tuple(np.full((5, 8), k, np.uint8) for k in range(2)),
        "scales": tuple(np.ones(5) for _ in range(2)),
        "rows": np.array([0, 9, -1, 5]),
        "out": np.empty((4, 8), np.float32),
    }
    assert native.gather_parts(*good.values()) == -1
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.gather_parts(*{**good, **BAD_CALLS[defect](good)}.values())
    for outside in ([10], [-11], [2**63 - 1], [-(2**63)]):
        rows, out = np.array(outside), np.full((1, 8), 7, np.float32)
        assert native.gather_parts(*{**good, "rows": rows, "out": out}.values()) == 0
        assert (out == 7).all()
    gap = {**good, "firsts": np.array([0, 6]), "total": 11, "rows": np.array([0, 5, 6, 7])}
    assert native.gather_parts(*gap.values()) == 1
    with pytest.raises(TypeError, match="takes 6 arguments"):
        native.gather_parts()
