"""What people are given, made offline from a copy of the checkout: a source archive and a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import qstore

pytest.importorskip("setuptools", "77", reason="builds the archives")

ROOT = Path(__file__).parents[2]
KEPT = (".ci", "README.md", "docs", "findings", "pyproject.toml", "qstore", "tests", "tools")
# What the tests of the archive leave out in its stead: it has no extension, and is no installed package.
OF_THIS_RUN = ("PYTEST_ADDOPTS", "QSTORE_CI", "QSTORE_REQUIRE_EXTENSION")


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, *words: str) -> str:
    """Python in a folder, which it imports from."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_THIS_RUN}
    environment = {**kept, "PYTHONPATH": str(folder), "CC": "false", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def built(what: str, folder: Path) -> Path:
    """The archive that setuptools makes of a checkout, without the extension: compiling it takes long."""
    code = f"import sys; from setuptools.build_meta import {what}; print(); print({what}(sys.argv[1]))"
    return folder.parent / run(folder, "-c", code, str(folder.parent)).split()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this one, as somebody has it who has used it: with compiled modules."""
    folder = tmp_path_factory.mktemp("checkout") / "tree"
    junk = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "build", "node_modules", ".*_cache")
    for name in KEPT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=junk)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def unpacked(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of the checkout, unpacked elsewhere."""
    cache = checkout / "tests" / "__pycache__"
    cache.mkdir()
    (cache / "conftest.cpython-311.pyc").write_bytes(b"")
    archive = built("build_sdist", checkout)
    shutil.rmtree(cache)
    shutil.rmtree(checkout / "qstore.egg-info")
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / f"qstore-{qstore.__version__}"


def test_the_archive_has_every_file_of_the_checkout_and_no_other(checkout: Path, unpacked: Path) -> None:
    made = {name for name in files_of(unpacked) if name.startswith("qstore.egg-info/")}
    assert files_of(unpacked) - made - {"PKG-INFO", "setup.cfg"} == files_of(checkout)


def test_tests_run_from_the_archive(unpacked: Path) -> None:
    names = "tests/test_architecture.py::test_files_that_pages_name_are_there"  # of every folder
    files = (names, "tests/cli/test_cli_page.py", "tests/format/test_compatibility.py")
    assert " passed" in run(unpacked, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)


def test_the_wheel_of_the_archive(unpacked: Path) -> None:
    with zipfile.ZipFile(built("build_wheel", unpacked)) as wheel:
        names = set(wheel.namelist())
        about = f"qstore-{qstore.__version__}.dist-info"
        license_text = wheel.read(f"{about}/licenses/docs/LICENSE.txt").decode()
        entry_points = wheel.read(f"{about}/entry_points.txt").decode()
        metadata = message_from_string(wheel.read(f"{about}/METADATA").decode())
    modules = {f"qstore/{name}" for name in files_of(ROOT / "qstore") if name.endswith((".py", ".typed"))}
    assert {name for name in names if not name.startswith(about)} == modules
    assert license_text == (ROOT / "docs" / "LICENSE.txt").read_text()
    assert "qstore = qstore.cli:main" in entry_points
    assert (metadata["License-Expression"], metadata["License-File"]) == ("BSD-3-Clause", "docs/LICENSE.txt")
    assert not {"Home-page", "Project-URL", "Author"} & set(metadata)
