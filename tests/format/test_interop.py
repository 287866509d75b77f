"""Other HDF5 readers open our files and read the same codes and scales: h5py, h5dump, pyfive, h5wasm.

A missing tool skips its tests, and fails them under ``QSTORE_CI=1``, where all are installed.
``QSTORE_NODE_MODULES`` names the ``node_modules`` directory that h5wasm is in.
"""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

import qstore

Contents = tuple[NDArray[np.uint8], NDArray[np.float64]]
Reader = Callable[[Path, Path], Contents]

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
SHAPES = [(0, 5), (1, 1), (3, 4), (20_011, 96)]

# The page exports readStore and readRow; this writes what they give where the test can read it.
JAVASCRIPT_DRIVER = """
import { writeFileSync } from "node:fs";
import { readStore, readRow } from "./reader.mjs";

const store = await readStore(process.argv[2]);
const bytes = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
writeFileSync("shape", `${store.rows} ${store.dim}`);
writeFileSync("codes", bytes(store.codes));
writeFileSync("scales", bytes(store.scales));
writeFileSync("row", store.rows ? bytes(readRow(store, store.rows - 1)) : "");
"""


def missing(reason: str) -> NoReturn:
    if os.environ.get("QSTORE_CI") == "1":
        pytest.fail(f"{reason}, and QSTORE_CI=1 wants it")
    pytest.skip(reason)


def run(command: list[str | Path], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def read_with_h5py(path: Path, scratch: Path) -> Contents:
    with h5py.File(path) as file:
        return file["codes"][...], file["scales"][...]


def read_with_pyfive(path: Path, scratch: Path) -> Contents:
    try:
        pyfive: Any = importlib.import_module("pyfive")
    except ImportError:
        missing("pyfive is not installed")
    with pyfive.File(path) as file:
        return file["codes"][...], file["scales"][...]


def read_with_h5dump(path: Path, scratch: Path) -> Contents:
    if shutil.which("h5dump") is None:
        missing("h5dump (hdf5-tools) is not installed")
    for name in ("codes", "scales"):
        run(["h5dump", "-d", f"/{name}", "-b", "LE", "-o", name, path], scratch)
    with h5py.File(path) as file:
        shape = file["codes"].shape
    codes = np.fromfile(scratch / "codes", np.uint8).reshape(shape)
    return codes, np.fromfile(scratch / "scales", "<f8")


def read_with_h5wasm(path: Path, scratch: Path) -> Contents:
    run_javascript_reader(path, scratch)
    rows, dim = map(int, (scratch / "shape").read_text().split())
    codes = np.fromfile(scratch / "codes", np.uint8).reshape(rows, dim)
    return codes, np.fromfile(scratch / "scales", "<f8")


def run_javascript_reader(path: Path, scratch: Path) -> None:
    """The JavaScript of the format page, run by Node."""
    modules = os.environ.get("QSTORE_NODE_MODULES")
    if shutil.which("node") is None:
        missing("node is not installed")
    if modules is None or not Path(modules, "h5wasm").is_dir():
        missing("QSTORE_NODE_MODULES does not name a directory with h5wasm in it")
    (source,) = re.findall(r"```js\n(.*?)```", FORMAT_PAGE.read_text(), re.DOTALL)
    (scratch / "reader.mjs").write_text(source)
    (scratch / "driver.mjs").write_text(JAVASCRIPT_DRIVER)
    # Node looks for modules beside the file that imports them, whatever NODE_PATH says.
    (scratch / "node_modules").symlink_to(Path(modules).resolve())
    run(["node", "driver.mjs", path], scratch)


READERS = {
    "h5py": read_with_h5py,
    "h5dump": read_with_h5dump,
    "pyfive": read_with_pyfive,
    "h5wasm": read_with_h5wasm,
}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def build(path: Path, shape: tuple[int, int], keys: Any = None) -> NDArray[np.float32]:
    values = np.random.default_rng(3).standard_normal(shape, dtype=np.float32)
    with qstore.Writer(path, shape[1], tensor="Gewichte/wörter") as writer:
        writer.append(values, keys=keys)
    return values


def keys_of(kind: str, rows: int) -> Any:
    return {
        "none": None,
        "text": [f"wört-{row}" for row in range(rows)],
        "integer": np.arange(rows)[::-1] * 9,
    }[kind]


@pytest.mark.parametrize("kind", ["none", "text", "integer"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_codes_and_scales_are_read_alike(
    tmp_path: Path, scratch: Path, reader: Reader, shape: tuple[int, int], kind: str
) -> None:
    values = build(tmp_path / "store.h5", shape, keys_of(kind, shape[0]))
    expected_codes, expected_scales = qstore.quantize(values)
    codes, scales = reader(tmp_path / "store.h5", scratch)
    assert codes.dtype == np.dtype(np.uint8)
    assert scales.dtype == np.dtype(np.float64)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(scales, expected_scales)


@pytest.mark.parametrize("library", ["h5py", "pyfive"])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_keys_are_plain_datasets(tmp_path: Path, library: str, rows: int) -> None:
    module: Any = pytest.importorskip(library)
    texts, numbers = keys_of("text", rows), keys_of("integer", rows)
    build(tmp_path / "text.h5", (rows, 3), texts)
    build(tmp_path / "integer.h5", (rows, 3), numbers)
    with module.File(tmp_path / "text.h5") as file:
        offsets, raw = file["keys/offsets"][...], file["keys/bytes"][...].tobytes()
        assert [raw[a:b].decode() for a, b in itertools.pairwise(offsets)] == texts
        assert sorted(file["keys/rows"][...].tolist()) == list(range(rows))
        hashes = file["keys/hashes"][...]
        assert hashes.tolist() == sorted(hashes.tolist())
    with module.File(tmp_path / "integer.h5") as file:
        assert np.array_equal(file["keys/ids"][...], numbers)
        assert np.array_equal(file["keys/sorted"][...], np.sort(numbers))
        assert np.array_equal(file["keys/ids"][...][file["keys/rows"][...]], file["keys/sorted"][...])


def test_javascript_reads_the_values_that_we_read(tmp_path: Path, scratch: Path) -> None:
    build(tmp_path / "store.h5", (300, 7))
    run_javascript_reader(tmp_path / "store.h5", scratch)
    with qstore.open(tmp_path / "store.h5") as store:
        assert np.array_equal(np.fromfile(scratch / "row", "<f8"), store.astype("float64")[-1])


def test_pyfive_reads_the_attributes(tmp_path: Path, scratch: Path) -> None:
    build(tmp_path / "store.h5", (3, 4))
    read_with_pyfive(tmp_path / "store.h5", scratch)
    pyfive: Any = importlib.import_module("pyfive")
    with pyfive.File(tmp_path / "store.h5") as file, qstore.open(tmp_path / "store.h5") as store:
        assert bytes(file.attrs["content_id"]).decode() == store.content_id
        assert file.attrs["version"].tolist() == [1, 1]
        assert file.attrs["zero_point"] == 128
