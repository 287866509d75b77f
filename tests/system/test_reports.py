"""What operations report: ``to_dict()`` is what ``--json`` prints, and their ``repr`` is short."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.cli import main
from qstore.environment import environment
from qstore.system.reported import Reported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    values = np.random.default_rng(0).standard_normal((300, 40)).astype("f4")
    values[7] = 0
    np.save(folder / "values.npy", values)
    qstore.build(folder / "values.npy", folder / "store.h5", keys=[f"w{row}" for row in range(300)])
    return folder


def reports(folder: Path) -> Iterator[Any]:
    source, path = folder / "values.npy", folder / "store.h5"
    yield qstore.build(source, folder / "again.h5", overwrite=True)
    yield qstore.plan(source, folder / "new.h5")
    yield qstore.concat([path, path], folder / "twice.h5", overwrite=True, keys=False)
    yield qstore.export(path, folder / "values.npz.npy", overwrite=True)
    yield qstore.compare(path, folder / "again.h5")
    yield qstore.verify_against(path, source)
    yield environment()
    yield qstore.list_tensors(source)[0]
    with qstore.open(path) as store:
        yield store.verify()
        yield store.stats()
        yield store.fidelity


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, bool) or (type(value) is float and math.isfinite(value))


def test_all_of_them(folder: Path) -> None:
    for found in reports(folder):
        assert isinstance(found, Reported)
        as_dict = found.to_dict()
        assert list(as_dict) == list(vars(type(found))["__dataclass_fields__"])
        assert plain(as_dict)
        assert json.loads(json.dumps(as_dict)) == as_dict
        assert repr(found).startswith(f"{type(found).__name__}({next(iter(as_dict))}=")
        assert len(repr(found)) < 1200
        assert "\n" not in repr(found)


def test_it_is_what_json_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(folder / "store.h5")
    with qstore.open(path) as store:
        stats, held = store.stats().to_dict(), store.verify().to_dict()
    for words, expected in (
        (["stats", path, "--json"], {"path": path, **stats}),
        (["compare", path, path, "--json"], qstore.compare(path, path).to_dict()),
    ):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == expected
    assert main(["verify", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["store"] == held


def test_no_dataclass_of_the_public_names_goes_without() -> None:
    for name in qstore.__all__:
        found = getattr(qstore, name)
        if isinstance(found, type) and dataclasses.is_dataclass(found):
            assert issubclass(found, Reported), name
            assert found.__repr__ is Reported.__repr__, name


@dataclasses.dataclass(frozen=True, repr=False)
class Sample(Reported):
    number: float
    text: str
    array: Any
    rows: tuple[Any, ...]


def test_values_of_every_kind() -> None:
    sample = Sample(math.nan, "x" * 100, np.zeros((2, 3)), tuple(range(9)))
    assert sample.to_dict() == {
        "number": None,
        "text": "x" * 100,
        "array": [[0.0] * 3] * 2,
        "rows": list(range(9)),
    }
    assert repr(sample) == f"Sample(number=nan, text='{'x' * 58}…, array=<2×3 float64>, rows=<9 of them>)"
