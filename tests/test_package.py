"""The namespace: names come when they are used, and cost nothing before."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import qstore


def test_every_public_name_is_there() -> None:
    for name in qstore.__all__:
        assert getattr(qstore, name) is not None
    assert set(qstore.__all__) < set(dir(qstore))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qstore.nothing  # noqa: B018
    assert qstore.torch.__name__ == "qstore.torch"
    assert qstore.dask.__name__ == "qstore.dask"
    assert [name for name in dir(qstore) if name[0] != "_" and name not in qstore.__all__] == [
        "dask",
        "errors",
        "open",
        "sources",
        "torch",
    ]


def test_packages_are_there_after_import_qstore() -> None:
    script = "import qstore; print(qstore.errors.QStoreError.__name__, qstore.sources.open_source.__name__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["QStoreError", "open_source"]


def test_a_star_import_leaves_open_alone() -> None:
    script = "import builtins; from qstore import *; print(open is builtins.open, build.__module__)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "qstore.building.one"]


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(qstore.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == qstore._HOME_OF
    assert sorted(seen) == sorted([*qstore.__all__, "open"])


def test_names_that_are_also_modules_are_the_functions() -> None:
    """A module of the name of a function would hide the function once it is imported."""
    script = (
        "import qstore, numpy, sys\n"
        "qstore.Writer; qstore.Store; qstore.verify_against; qstore.list_tensors\n"
        "for name in qstore.__all__:\n"
        "    assert not isinstance(getattr(qstore, name), type(sys)), name\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_import_loads_no_library_and_no_module() -> None:
    script = (
        "import sys, qstore\n"
        "print(sorted(name for name in sys.modules if name.startswith(('qstore.', 'numpy', 'h5py', 'tqdm'))))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_reading_needs_no_hdf5_library(tmp_path: Path) -> None:
    qstore.build([[1.0, 2.0]], tmp_path / "x.h5")
    script = "import sys, qstore; qstore.open(sys.argv[1])[0]; print('h5py' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.h5")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"
