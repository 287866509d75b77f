"""No file can make the reader crash, hang, read out of bounds or open another file.

tests/data/malformed holds files with exactly one defect each, named after it, compressed with gzip (they
are mostly zeros) and frozen; ``tools/fixtures`` adds new ones. ``expected.json`` holds class and
words of the error of each.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qstore
from qstore.format import hdf5_checksum, hdf5_headers

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from fixtures.hdf5_seal import seal, sealed_parts
from malformed_files import EXPECTED, FOLDER, fixture
from work_bounds import little_work

GOOD = Path(__file__).parents[1] / "data" / "v1" / "five-rows.h5"
KEYED = GOOD.with_name("text-keys.h5")


def metadata(content: bytes) -> Iterator[int]:
    """Positions of all bytes of metadata, checksums included."""
    for start, end in sealed_parts(content):
        yield from range(start, end + 4)


def error_of(path: Path) -> qstore.QStoreError | None:
    try:
        qstore.open(path).close()
    except qstore.QStoreError as error:
        return error
    return None


# One-defect files -------------------------------------------------------------------------------------


def test_every_fixture_has_its_error() -> None:
    assert {path.name.removesuffix(".h5.gz") for path in FOLDER.glob("*.gz")} == set(EXPECTED)
    assert len(EXPECTED) >= 40


@pytest.mark.parametrize("name", EXPECTED)
def test_the_error_is_the_one_of_the_defect(name: str, tmp_path: Path, no_leaks: None) -> None:
    kind, words = EXPECTED[name]
    path = tmp_path / f"{name}.h5"
    path.write_bytes(fixture(name))
    with little_work(), pytest.raises(qstore.FormatError, match=re.escape(words)) as caught:
        qstore.open(path)
    assert type(caught.value).__name__ == kind
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 1000


def test_the_good_file_beside_them_opens() -> None:
    with qstore.open(GOOD) as store:
        assert store.verify().ok


def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        if os.environ.get("QSTORE_CI"):
            pytest.fail("strace is missing, and QSTORE_CI=1 lets nothing be skipped")
        pytest.skip("strace is not installed")
    return found


OPEN_ALL = """\
import os
import sys

import qstore

qstore.open(sys.argv[1]).close()
try:
    os.open("/BEGIN", 0)
except OSError:
    pass
for path in sys.argv[2:]:
    try:
        qstore.open(path)
    except qstore.FormatError:
        continue
    print("accepted", path)
try:
    os.open("/END", 0)
except OSError:
    pass
"""


def test_no_other_file_is_opened(tmp_path: Path) -> None:
    """Links, external storage, virtual datasets and plug-in filters lead nowhere.

    What they name lies there, and the plug-in folder holds something to load.
    """
    tracer = strace()
    (tmp_path / "open_all.py").write_text(OPEN_ALL)
    for name in EXPECTED:
        (tmp_path / f"{name}.h5").write_bytes(fixture(name))
    (tmp_path / "outside.bin").write_bytes(b"secret")
    (tmp_path / "outside.h5").write_bytes(GOOD.read_bytes())
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "libfilter.so").write_bytes(b"\x7fELF")
    paths = [str(tmp_path / f"{name}.h5") for name in EXPECTED]
    log = tmp_path / "log"
    run = subprocess.run(
        [
            *(
                tracer,
                "-f",
                "-qq",
                "-s",
                "4096",
                "-o",
                str(log),
                "-e",
                "trace=open,openat,openat2,execve,connect",
            ),
            *(sys.executable, "open_all.py", str(GOOD), *paths),
        ],
        cwd=tmp_path,
        env={**os.environ, "HDF5_PLUGIN_PATH": str(plugins)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
    between = re.search(r"/BEGIN[^\n]*\n(.*?)[^\n]*/END", log.read_text(), re.DOTALL)
    assert between is not None
    opened = re.findall(r'"([^"]*)"', between[1])
    assert opened == paths


# Things that are no files -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [("fifo", "not a regular file"), ("folder", "there is no manifest"), ("/dev/zero", "not a regular file")],
)
def test_things_that_are_no_files(path: str, words: str, tmp_path: Path, no_leaks: None) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    # A pipe would be waited for and a device read without an end.
    with little_work(), pytest.raises((OSError, qstore.FormatError), match=words):
        qstore.open(tmp_path / path)


# Damage everywhere ------------------------------------------------------------------------------------


@pytest.fixture
def summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that the damage passes by are not summed up again each time."""
    monkeypatch.setattr(hdf5_headers, "lookup3", functools.cache(hdf5_checksum.lookup3))


@pytest.mark.parametrize(("good", "step"), [(GOOD, 1), (KEYED, 3)], ids=["bare", "keyed"])
def test_truncation_at_every_length(
    tmp_path: Path, no_leaks: None, summed_once: None, good: Path, step: int
) -> None:
    path = tmp_path / "store.h5"
    path.write_bytes(good.read_bytes())
    for size in reversed(range(0, len(good.read_bytes()), step)):
        os.truncate(path, size)
        error = error_of(path)
        assert isinstance(error, qstore.FormatError), size


@pytest.mark.parametrize("good", [GOOD, KEYED], ids=["bare", "keyed"])
def test_every_flipped_bit_of_the_metadata(
    tmp_path: Path, no_leaks: None, summed_once: None, good: Path
) -> None:
    """Without a new checksum: refused, or a bit that says nothing."""
    content = bytearray(good.read_bytes())
    path = tmp_path / "store.h5"
    path.write_bytes(content)
    with qstore.open(path) as store:
        whole = (store.shape, store.content_id, store.tensor, store.source_dtype, store.format_version)
    refused = 0
    with path.open("r+b", buffering=0) as file:
        for at in metadata(bytes(content)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([content[at] ^ 1 << bit]), at)
                try:
                    with qstore.open(path) as store:
                        found = (
                            store.shape,
                            store.content_id,
                            store.tensor,
                            store.source_dtype,
                            store.format_version,
                        )
                        assert found == whole, (at, bit)
                        assert store.verify().ok, (at, bit)
                except qstore.FormatError:
                    refused += 1
            os.pwrite(file.fileno(), content[at : at + 1], at)
    assert refused > 8000


@pytest.mark.parametrize("name", ["codes", "scales", "checksums"])
def test_a_flipped_bit_of_the_data_is_found_by_verify(name: str, tmp_path: Path) -> None:
    values = np.tile(np.array([[1, -2], [3, 0.5]], np.float32), (400_000, 1))
    path = tmp_path / "store.h5"
    qstore.build(values, path)
    places = {"codes": 12288 + 2 * 600_000, "scales": 1617920 + 8 * 600_000, "checksums": 8024064 + 8}
    with path.open("r+b") as file:
        file.seek(places[name])
        byte = file.read(1)
        file.seek(places[name])
        file.write(bytes([byte[0] ^ 0x10]))
    with qstore.open(path) as store:
        report = store.verify()
    assert not report.ok
    assert report.broken_blocks == (1,)
    assert report.content_id_ok == (name != "checksums")


def test_checksums_that_lie_are_found_by_verify(tmp_path: Path) -> None:
    """Codes, checksum and its CRC changed together: the content id tells."""
    content = bytearray(GOOD.read_bytes())
    content[12288] ^= 1
    content[28672:28676] = zlib.crc32(content[12288 : 12288 + 15]).to_bytes(4, "little")
    path = tmp_path / "store.h5"
    path.write_bytes(content)
    with qstore.open(path) as store:
        report = store.verify()
    assert not report.ok
    assert report.broken_blocks == ()
    assert report.problems == ("the content id does not belong to the checksums",)


def test_sealing_gives_what_hdf5_wrote() -> None:
    """The mutators' own checksum is HDF5's: sealing a good file changes nothing."""
    for path in GOOD.parent.glob("*.h5"):
        content = path.read_bytes()
        assert len(sealed_parts(content)) >= 5
        assert seal(bytearray(content)) == content
        broken = bytearray(content)
        broken[44] ^= 1
        assert seal(broken) == content


# Nothing is left behind -------------------------------------------------------------------------------


def test_thousands_of_refused_opens_leave_nothing(tmp_path: Path, no_leaks: None) -> None:
    for name in ("truncated-in-codes", "external-codes", "codes-nowhere", "tensor-bad-utf-8", "version-2"):
        path = tmp_path / f"{name}.h5"
        path.write_bytes(fixture(name))
        for _ in range(400):
            assert error_of(path) is not None
