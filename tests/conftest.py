"""What all tests share: Hypothesis profiles, the engine in the header, leak checks, small stores."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.engine import kernels

# Python programs that tests start import what is installed, not the folder they start in.
os.environ["PYTHONSAFEPATH"] = "1"

# What test files share by import, with failures explained as in the test files themselves.
sys.path.append(str(Path(__file__).parent / "helpers"))
pytest.register_assert_rewrite("source_contract", "exported_files", "kernel_checks", "remote_stores")

# The short form tries the same examples each time; HYPOTHESIS_PROFILE=long, others and many more.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_report_header() -> str:
    return f"qstore {qstore.__version__} from {Path(qstore.__file__).parent}, engine: {kernels.engine_name()}"


@pytest.fixture(autouse=True, scope="module")
def libraries_stay() -> None:
    """What is imported by now stays: the many collections that the tests of a module ask for pass it by."""
    gc.collect()
    gc.freeze()


def open_descriptors() -> list[str]:
    """Files this process holds open or mapped."""
    held = []
    for name in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    maps = Path("/proc/self/maps").read_text().splitlines()
    held += [line.split(maxsplit=5)[5] for line in maps if line.count(" ") and ".h5" in line]
    return sorted(held)


@pytest.fixture(params=["NumPy", "baseline", "avx2", "avx512"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs the test on the NumPy engine and on C at every level that the machine has."""
    from every_engine import running_on  # this folder is on the path by now

    yield from running_on(request.param, monkeypatch)


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fails if the test leaves descriptors or maps of stores behind."""
    gc.collect()
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


@pytest.fixture
def matrix() -> NDArray[np.float32]:
    """3,001 × 48 normal values with a zero row, a huge row and a tiny row."""
    values = np.random.default_rng(7).standard_normal((3001, 48)).astype(np.float32)
    values[5] = 0
    values[17] *= 1e30
    values[18] *= 1e-30
    return values


MakeStore = Callable[..., qstore.Store]


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[MakeStore]:
    """Function that builds a store of an array and opens it; all are closed at the end."""
    made: list[qstore.Store] = []

    def make(values: Any, name: str = "store.h5", **options: Any) -> qstore.Store:
        qstore.build(values, tmp_path / name, overwrite=True, **options)
        made.append(qstore.open(tmp_path / name))
        return made[-1]

    yield make
    gc.collect()
    for store in made:
        store.close()
