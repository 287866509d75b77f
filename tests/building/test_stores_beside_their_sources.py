"""What compares a store with its source takes paths of stores, and finds the tensor that the store names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.cli import main

NAMES = ["user.weight", "item.weight"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tables: dict[str, Any] = {name: rng.standard_normal((9, 4)).astype("f4") for name in NAMES}
    np.savez(tmp_path / "model.npz", **tables)
    for name in NAMES:
        qstore.build(tmp_path / "model.npz", tmp_path / f"{name}.h5", tensor=name)
    return tmp_path / "model.npz"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["path", "text", "store", "list"])
def test_the_tensor_that_the_store_names(model: Path, name: str, form: str) -> None:
    path = model.parent / f"{name}.h5"
    store: Any = {"path": path, "text": str(path), "store": qstore.open(path), "list": [path]}[form]
    assert qstore.verify_against(store, model).ok
    other = NAMES[1 - NAMES.index(name)]
    found = qstore.verify_against(store, model, tensor=other)
    assert (found.ok, found.differing_rows) == (False, 9)


def test_the_command_finds_it_too(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(model.parent / "item.weight.h5"), "--against", str(model)]) == 0
    assert "every code and scale of 9 rows agrees with" in capsys.readouterr().out


def test_a_store_that_names_no_tensor_of_the_source(model: Path, tmp_path: Path) -> None:
    qstore.build(np.eye(9, 4), tmp_path / "unnamed.h5")
    with qstore.Writer(tmp_path / "strange.h5", 4, tensor="gone.weight") as writer:
        writer.append(np.eye(9, 4))
    for name in ("unnamed.h5", "strange.h5"):
        with pytest.raises(qstore.TensorError, match="holds 2 matrices"):
            qstore.verify_against(tmp_path / name, model)
    np.savez(tmp_path / "one.npz", other=np.eye(9, 4))
    assert qstore.verify_against(tmp_path / "strange.h5", tmp_path / "one.npz").ok


@pytest.mark.parametrize("wrong", [None, 7, np.eye(2), b"x.h5"])
def test_what_is_neither_store_nor_path(wrong: Any) -> None:
    with pytest.raises((TypeError, OSError, qstore.QStoreError)):
        qstore.verify_against(wrong, np.eye(2))


def test_pictures_take_paths(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    store = model.parent / "item.weight.h5"
    kinds = qstore.plot(store, tmp_path / "a.png", source=model, kind=["norms", "errors"])
    assert kinds == ("norms", "errors")
    qstore.report(str(store), tmp_path / "a.html", source=model)
    assert "every code and scale agrees" in (tmp_path / "a.html").read_text()
    with qstore.open(store) as held:
        qstore.report(held, tmp_path / "b.html", source=model)
        assert len(held) == 9
    page = (tmp_path / "a.html").read_text()
    assert page.replace("a.html", "b.html") == (tmp_path / "b.html").read_text()
