"""How many threads work: those that are asked for, or QSTORE_THREADS, or one a processor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.cli import main
from qstore.environment import environment
from qstore.system import threads
from qstore.system.threads import in_order, in_parts, processors, thread_count


def test_the_variable_stands_for_those_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSTORE_THREADS", raising=False)
    assert (thread_count(None), thread_count(3)) == (processors(), 3)
    monkeypatch.setenv("QSTORE_THREADS", " 5 ")
    assert (thread_count(None), thread_count(3)) == (5, 3)
    monkeypatch.setenv("QSTORE_THREADS", "")
    assert thread_count(None) == processors()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "٣", "9" * 5000])
def test_a_bad_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QSTORE_THREADS", text)
    with pytest.raises(qstore.SettingError, match=r"QSTORE_THREADS is .*expected a number of threads"):
        qstore.build(np.ones((3, 4)), tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "m.npy", np.ones((3, 4)))
    assert main(["build", str(tmp_path / "m.npy"), "-o", str(tmp_path / "x.h5")]) == 2
    assert "QSTORE_THREADS" in capsys.readouterr().err
    qstore.build(np.ones((3, 4)), tmp_path / "x.h5", threads=1)  # it is not asked


def test_fewer_than_one_is_refused() -> None:
    with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
        thread_count(0)


WORK: dict[str, Callable[[Any], object]] = {
    "in_order": lambda note: list(in_order(note, range(40), None)),
    "in_parts": lambda note: in_parts(lambda start, stop: note(start), 40, 1 << 30, None),
}


@pytest.mark.parametrize("name", WORK)
def test_work_is_split_as_it_says(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("QSTORE_THREADS", "1")
    seen: set[int] = set()
    WORK[name](lambda item: seen.add(threading.get_ident()))
    assert seen == {threading.get_ident()}


def test_a_build_takes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QSTORE_THREADS", "3")
    with qstore.Writer(tmp_path / "x.h5", 4) as writer:
        assert writer._encoder._threads == 3
    monkeypatch.setattr(threads, "processors", lambda: 0)  # nobody asks
    qstore.concat([tmp_path / "x.h5"], tmp_path / "y.h5")
    assert environment().variables["QSTORE_THREADS"] == "3"
