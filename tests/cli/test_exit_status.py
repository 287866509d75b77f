"""How commands end: closed pipes, full disks, interrupts, warnings."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Run, start

import qstore
from qstore.cli import failures, main


def test_a_closed_pipe_ends_it_silently(tmp_path: Path) -> None:
    qstore.build(np.ones((20_000, 64), np.float32), tmp_path / "ones.h5")
    process = start("get", tmp_path / "ones.h5", ":")
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.read(4) == b"1.0 "
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait(300) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(store: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("get", store, ":", stdout=full)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err == b"qstore: error: No space left on device\n"


def test_a_closed_stdout(run: Run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert failures.exit_status(lambda: 0) == 0
    assert main(["get", str(store), "0"]) == 2


def test_memory_and_interrupts(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> Callable[[], int]:
        def command() -> int:
            raise error

        return command

    assert failures.exit_status(fail(MemoryError())) == 2
    assert failures.exit_status(fail(KeyboardInterrupt())) == 130
    assert failures.exit_status(fail(OSError("odd"))) == 2
    err = capsys.readouterr().err
    assert (
        err == "qstore: error: there is not enough memory for this\nqstore: interrupted\nqstore: error: odd\n"
    )


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        warnings.warn("no locks here", RuntimeWarning, stacklevel=1)
        return 0

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert failures.exit_status(command) == 0
    assert capsys.readouterr().err == "qstore: warning: no locks here\n"
