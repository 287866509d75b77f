"""Which engine runs: the extension, or NumPy where it is missing or switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from every_engine import LEVELS, NEEDS_EXTENSION

from qstore.engine import kernels

REPOSITORY = Path(kernels.__file__).parents[2]
NAME = "from qstore.engine import kernels; print(kernels.engine_name())"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QSTORE_")}
    clean["PYTHONPATH"] = str(REPOSITORY)
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def test_environment_forces_numpy() -> None:
    done = run_python(
        "from qstore.engine import kernels; print(kernels.engine_name())", QSTORE_NO_EXTENSION="1"
    )
    assert (done.returncode, done.stdout) == (0, "NumPy\n")


@NEEDS_EXTENSION
def test_extension_is_the_default() -> None:
    done = run_python(NAME, QSTORE_REQUIRE_EXTENSION="1")
    assert done.stdout in [f"C ({level})\n" for level in LEVELS]


def test_missing_extension_falls_back_or_fails_as_asked() -> None:
    hide = f"import sys; sys.modules['qstore._native'] = None; {NAME}"
    assert run_python(hide).stdout == "NumPy\n"
    done = run_python(hide, QSTORE_REQUIRE_EXTENSION="1")
    assert done.returncode == 1
    assert "ImportError: QSTORE_REQUIRE_EXTENSION=1, but qstore._native does not load" in done.stderr
    assert "install a C compiler" in done.stderr


def test_free_threaded_python_gets_numpy() -> None:
    """Simulated: an extension of the stable ABI does not load in that build."""
    pretend = f"import sys; sys.abiflags = 't'; {NAME}"
    assert run_python(pretend).stdout == "NumPy\n"
    done = run_python(pretend, QSTORE_REQUIRE_EXTENSION="1")
    assert done.returncode == 1
    assert "qstore._native does not load: this Python is free-threaded" in done.stderr
    assert "run qstore with the usual build of Python, or unset the variable" in done.stderr


def test_import_is_cheap() -> None:
    code = (
        "import sys, types; package = types.ModuleType('qstore'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['qstore'] = package; import qstore.engine.kernels; "
        "print([name for name in ('h5py', 'tqdm', 'concurrent.futures.thread') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY / "qstore")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
