"""Stores that another program has written anew or changed: what is said, and the way back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from malformed_files import EXPECTED, fixture
from source_contract import matrix_of, refused, same

import qstore
from qstore.cli import main
from qstore.errors import FormatError, SourceError
from qstore.sources import QuantizedSource, TensorInfo, list_tensors, open_source

ROWS, DIM = 300, 24
VALUES = matrix_of("float32", ROWS, DIM)
KEYS: dict[str, Any] = {
    "none": None,
    "text": [f"wört-{row}" for row in range(ROWS)],
    "integer": np.arange(ROWS)[::-1] * 9 - 5,
}


def write_anew(source: Path, target: Path, libver: Any = "earliest", **options: Any) -> Path:
    """What h5py makes of a store: all attributes, and all datasets with these options."""
    with h5py.File(source) as old, h5py.File(target, "w", libver=libver) as new:
        for name, value in old.attrs.items():
            new.attrs[name] = value

        def copy(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                new.create_dataset(name, data=node[()], **(options if node.size else {}))

        old.visititems(copy)
    return target


def changed(change: Callable[[Any], object], libver: Any = None) -> Callable[[Path, Path], Path]:
    """A copy that h5py has changed in place."""

    def make(source: Path, target: Path) -> Path:
        shutil.copy(source, target)
        with h5py.File(target, "r+", libver=libver) as file:
            change(file)
        return target

    return make


def behind_a_user_block(source: Path, target: Path) -> Path:
    target.write_bytes(b"#!/bin/sh\n".ljust(1024, b"\n") + source.read_bytes())
    return target


def by_attribute_types(source: Path, target: Path) -> Path:
    """Numbers of other widths, in the other byte order, as a converter may leave them."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)
        new.attrs["version"], new.attrs["zero_point"] = [int(one) for one in old.attrs["version"]], [128]

        def copy(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                new.create_dataset(name, data=node[()].astype(node.dtype.newbyteorder(">")))

        old.visititems(copy)
    return target


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "superblock 0": write_anew,
    "superblock 2": lambda source, target: write_anew(source, target, ("v108", "v108")),
    "superblock 3": lambda source, target: write_anew(source, target, ("v110", "v110")),
    "latest": lambda source, target: write_anew(source, target, "latest"),
    "chunked": lambda source, target: write_anew(source, target, chunks=True),
    "gzip": lambda source, target: write_anew(source, target, compression="gzip"),
    "lzf, shuffled": lambda source, target: write_anew(source, target, compression="lzf", shuffle=True),
    "checksummed": lambda source, target: write_anew(source, target, fletcher32=True),
    "dense attributes": lambda source, target: write_anew(source, target, "latest", track_order=True),
    "attribute": changed(lambda file: file.attrs.__setitem__("note", "checked by hand")),
    "long attribute": changed(lambda file: file.attrs.__setitem__("note", "x" * 40_000)),
    "attribute of codes": changed(
        lambda file: file["codes"].attrs.update({str(n): "x" * 90 for n in range(20)})
    ),
    "dataset": changed(lambda file: file.create_dataset("extra", data=np.arange(3))),
    "group": changed(lambda file: file.create_group("more"), "latest"),
    "user block": behind_a_user_block,
    "types": by_attribute_types,
}


@pytest.fixture(params=KEYS)
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store with keys of each kind, or none."""
    with qstore.Writer(tmp_path / "o.h5", DIM, tensor="Gewichte/wörter", source_dtype="float32") as writer:
        writer.append(VALUES, keys=KEYS[request.param])
    return tmp_path / "o.h5"


@pytest.mark.parametrize("way", WAYS)
def test_what_happened_and_the_way_back(
    original: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    again, back = WAYS[way](original, tmp_path / "again.h5"), tmp_path / "back.h5"
    with pytest.raises(FormatError) as caught:
        qstore.open(again)
    assert type(caught.value) is FormatError
    assert "another program, such as h5repack or h5py, has written or changed this file" in str(caught.value)
    assert main(["info", str(again)]) == 2
    advice = f"qstore build {again} -o NEW.h5"
    assert advice in capsys.readouterr().err
    assert main([*advice.replace("NEW.h5", str(back)).split()[1:], "-q"]) == 0
    # Not only the same content id: the measured errors, names and all else are the same bytes.
    assert back.read_bytes() == original.read_bytes()
    with qstore.open(back) as store, qstore.open(original) as before:
        assert store.content_id == before.content_id
        assert store.verify().ok
        assert qstore.verify_against(store, again).ok


def test_python_builds_it_too(original: Path, tmp_path: Path) -> None:
    again = write_anew(original, tmp_path / "again.h5", compression="gzip")
    report = qstore.build(again, tmp_path / "back.h5")
    assert (report.rows, report.dim, report.tensor) == (ROWS, DIM, "Gewichte/wörter")
    assert (tmp_path / "back.h5").read_bytes() == original.read_bytes()
    planned = qstore.plan(again, tmp_path / "other.h5")
    assert (planned.rows, planned.source_bytes) == (ROWS, ROWS * (DIM + 8))
    assert planned.file_bytes in (None, original.stat().st_size)


REPACKED = {
    "plain": [],
    "gzip": ["-f", "GZIP=6"],
    "shuffled": ["-f", "SHUF", "-f", "GZIP=1"],
    "checksummed": ["-f", "FLET"],
    "chunked": ["-l", "codes:CHUNK=10x24"],
    "compact": ["-l", "COMPA"],
    "latest": ["-L"],
    "low 1": ["--low=1", "--high=1"],
    "low 2": ["--low=2", "--high=2"],
    "paged": ["-S", "PAGE", "-P", "1"],
    "no space": ["-S", "NONE"],
    "native": ["-n"],
}


@pytest.mark.parametrize("options", REPACKED.values(), ids=list(REPACKED))
def test_h5repack(original: Path, tmp_path: Path, options: list[str]) -> None:
    program = shutil.which("h5repack")
    if program is None:
        pytest.skip("h5repack is not installed (hdf5-tools)")
    again = tmp_path / "again.h5"
    run = subprocess.run(
        [program, *options, str(original), str(again)], capture_output=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    with pytest.raises(FormatError, match="build from it"):
        qstore.open(again)
    qstore.build(again, tmp_path / "back.h5")
    assert (tmp_path / "back.h5").read_bytes() == original.read_bytes()


# ------------------------------------------------------------------- as a source


@pytest.fixture
def again(tmp_path: Path) -> Path:
    """A store of several checksum blocks with text keys, written anew."""
    values = matrix_of("float32", 3000, 1024)
    qstore.build(values, tmp_path / "o.h5", keys=[f"k{row}" for row in range(3000)])
    return write_anew(tmp_path / "o.h5", tmp_path / "again.h5", chunks=True)


def test_any_range_of_codes(again: Path, tmp_path: Path) -> None:
    with qstore.open(tmp_path / "o.h5") as store, open_source(again) as source:
        assert isinstance(source, QuantizedSource)
        assert list_tensors(again) == [TensorInfo("", (3000, 1024), "quantized")]
        for start, stop in (
            (0, 3000),
            (0, 0),
            (3000, 3000),
            (1023, 1025),
            (1024, 2048),
            (17, 18),
            (2999, 3000),
        ):
            codes, scales = source.read_codes(start, stop)
            assert np.array_equal(codes, store.codes[start:stop])
            assert np.array_equal(scales, store.scales[start:stop])
        assert same(source.read(5, 9), store.astype("float64")[5:9])
        source.check_unchanged()
        again.touch()
        with pytest.raises(SourceError, match="was changed while it was read"):
            source.check_unchanged()
    with pytest.raises(SourceError):
        source.read_codes(0, 1)


def test_parts_of_it(again: Path, tmp_path: Path) -> None:
    qstore.build(again, tmp_path / "part.h5", rows=slice(1000, 1500))
    qstore.concat([tmp_path / "o.h5"], tmp_path / "cut.h5", rows=slice(1000, 1500))
    assert (tmp_path / "part.h5").read_bytes() == (tmp_path / "cut.h5").read_bytes()


def test_with_other_keys_or_none(again: Path, tmp_path: Path) -> None:
    assert qstore.build(again, tmp_path / "none.h5", keys=False).key_kind is None
    assert qstore.build(again, tmp_path / "ids.h5", keys=np.arange(3000)).key_kind == "integer"
    with qstore.open(tmp_path / "o.h5") as store:
        assert qstore.verify_against(store, again).ok
        assert not qstore.verify_against(store, again, keys=[f"x{row}" for row in range(3000)]).ok
    with qstore.open(tmp_path / "none.h5") as store:
        assert "no keys" in qstore.verify_against(store, again).problems[0]
        assert qstore.verify_against(store, again, keys=False).ok


def test_several_as_one_and_one_as_several(again: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="have the same key"):
        qstore.build([again, again], tmp_path / "two.h5")
    qstore.build([again, again], tmp_path / "two.h5", duplicates="first")
    qstore.concat([tmp_path / "o.h5", tmp_path / "o.h5"], tmp_path / "joined.h5", duplicates="first")
    with qstore.open(tmp_path / "two.h5") as store, qstore.open(tmp_path / "joined.h5") as joined:
        assert store.content_id == joined.content_id
    qstore.build(again, tmp_path / "none.h5", keys=False)
    with pytest.raises(SourceError, match=r"1 of 2 inputs have keys.*--no-keys"):
        qstore.build([again, tmp_path / "none.h5"], tmp_path / "three.h5")
    assert qstore.build([again, tmp_path / "none.h5"], tmp_path / "three.h5", keys=False).rows == 6000


class Stop(Exception):
    """What interrupts a build."""


def stop_at(row: int) -> Callable[[int, int | None], None]:
    def stop(done: int, total: int | None) -> None:
        if done >= row:
            raise Stop

    return stop


def test_shards_of_it(again: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        qstore.build_shards(again, tmp_path / "shards", 700, progress=stop_at(1500))
    report = qstore.build_shards(again, tmp_path / "shards", 700)
    assert (report.rows_resumed, report.key_kind) == (1400, "text")
    with qstore.open(tmp_path / "shards") as shards, qstore.open(tmp_path / "o.h5") as store:
        assert np.array_equal(shards[:], store[:])
        assert shards.key_of(2999) == "k2999"
        assert shards.source_dtype == "float32"


def test_a_store_of_each(tmp_path: Path) -> None:
    with qstore.Writer(tmp_path / "o.h5", DIM, tensor="w") as writer:
        writer.append(VALUES, keys=KEYS["text"])
    again = write_anew(tmp_path / "o.h5", tmp_path / "again.h5")
    for resumed in (0, ROWS):
        (report,) = qstore.build_all(again, tmp_path / "all")
        assert report.rows_resumed == resumed
    assert (tmp_path / "all" / "w.h5").read_bytes() == (tmp_path / "o.h5").read_bytes()
    refused(again, "has no tensor 'v': it holds 'w'", tensor="v", error=qstore.TensorError)


def test_a_shard_goes_back_to_its_place(tmp_path: Path) -> None:
    qstore.build_shards(VALUES, tmp_path / "store", 100, keys=KEYS["text"])
    shard = tmp_path / "store" / "part-00001.h5"
    before = shard.read_bytes()
    write_anew(shard, tmp_path / "again.h5").replace(shard)
    with pytest.raises(qstore.ShardError):
        qstore.open(tmp_path / "store")
    qstore.build(shard, tmp_path / "back.h5")
    (tmp_path / "back.h5").replace(shard)
    assert shard.read_bytes() == before
    assert qstore.open(tmp_path / "store").verify().ok


def test_stores_as_they_are_build_too(original: Path, tmp_path: Path) -> None:
    qstore.build(original, tmp_path / "copy.h5")
    assert (tmp_path / "copy.h5").read_bytes() == original.read_bytes()
    with pytest.raises(SourceError, match="both the source and the output"):
        qstore.build(original, original, overwrite=True)
    with pytest.raises(SourceError, match="both the source and the output"):
        qstore.build(f"file://{original}", original, overwrite=True)


@pytest.mark.parametrize("keys", [None, [], np.empty(0, np.int64)], ids=["none", "text", "integer"])
def test_no_rows(tmp_path: Path, keys: Any) -> None:
    qstore.build(np.empty((0, 3), np.float32), tmp_path / "o.h5", keys=keys)
    write_anew(tmp_path / "o.h5", tmp_path / "again.h5")
    qstore.build(tmp_path / "again.h5", tmp_path / "back.h5")
    assert (tmp_path / "back.h5").read_bytes() == (tmp_path / "o.h5").read_bytes()


def test_many_keys_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.sources.hdf5.store_again._KEY_ROWS", 7)
    monkeypatch.setattr("qstore.sources.hdf5.store_again._KEY_BYTES", 30)
    for kind, keys in KEYS.items():
        for rows in (6, 7, 8, 14, 300):
            path = tmp_path / f"{kind}-{rows}.h5"
            some = keys if keys is None else [f"{row}" * (row % 9) + f"/{row}" for row in range(rows)]
            qstore.build(VALUES[:rows], path, keys=keys[:rows] if kind == "integer" else some)
            write_anew(path, tmp_path / "again.h5")
            qstore.build(tmp_path / "again.h5", tmp_path / "back.h5", overwrite=True)
            assert (tmp_path / "back.h5").read_bytes() == path.read_bytes()


def test_keys_that_stand_twice(tmp_path: Path) -> None:
    qstore.build(VALUES[:3], tmp_path / "o.h5", keys=["a", "b", "a"], duplicates="first")
    write_anew(tmp_path / "o.h5", tmp_path / "again.h5")
    with pytest.raises(SourceError, match=r"rows 0 and 2 have the same key.*--duplicates first"):
        qstore.build(tmp_path / "again.h5", tmp_path / "back.h5")
    qstore.build(tmp_path / "again.h5", tmp_path / "back.h5", duplicates="first")
    assert (tmp_path / "back.h5").read_bytes() == (tmp_path / "o.h5").read_bytes()


# ------------------------------------------------------------------ what is wrong


def broken(original: Path, target: Path, change: Callable[[Any], object]) -> Path:
    """The store written anew, and then changed."""
    write_anew(original, target)
    with h5py.File(target, "r+") as file:
        change(file)
    return target


def replaced(name: str, value: Any) -> Callable[[Any], object]:
    def change(file: Any) -> None:
        del file[name]
        file[name] = value

    return change


def emptied(name: str, shape: tuple[int, ...]) -> Callable[[Any], object]:
    """A dataset that claims a lot and holds one chunk."""

    def change(file: Any) -> None:
        dtype = file[name].dtype
        del file[name]
        dataset = file.create_dataset(name, shape, dtype, chunks=(1,) * len(shape))
        dataset[(0,) * len(shape)] = 1

    return change


BROKEN: dict[str, tuple[Callable[[Any], object], str]] = {
    "codes changed": (
        lambda f: f["codes"].__setitem__((7, 3), f["codes"][7, 3] ^ 1),
        "rows 0 to 299 differ from",
    ),
    "scales changed": (lambda f: f["scales"].__setitem__(7, 5.0), "rows 0 to 299 differ from their checksum"),
    "checksums changed": (lambda f: f["checksums"].__setitem__((0, 0), 5), "content id does not belong"),
    "content id changed": (
        lambda f: f.attrs.__setitem__("content_id", np.bytes_(b"0" * 32)),
        "content id does not",
    ),
    "no content id": (lambda f: f.attrs.__delitem__("content_id"), "content id does not belong"),
    "formula": (
        lambda f: f.attrs.__setitem__("formula", np.bytes_(b"codes * scales")),
        "formula is 'codes * scales'",
    ),
    "no formula": (lambda f: f.attrs.__delitem__("formula"), "formula is ''"),
    "zero point": (lambda f: f.attrs.__setitem__("zero_point", 0), "with zero_point 0: expected"),
    "no zero point": (lambda f: f.attrs.__delitem__("zero_point"), "has no attribute 'zero_point'"),
    "zero points": (lambda f: f.attrs.__setitem__("zero_point", [128, 128]), "is not 1 whole number"),
    "version of text": (
        lambda f: f.attrs.__setitem__("version", np.bytes_(b"1.1")),
        "is not 2 whole numbers",
    ),
    "newer version": (
        lambda f: f.attrs.__setitem__("version", [2, 0]),
        "format version 2.0: expected 1.x; upgrade",
    ),
    "tensor of any length": (lambda f: f.attrs.__setitem__("tensor", "w"), "is no text of a fixed length"),
    "tensor no UTF-8": (lambda f: f.attrs.__setitem__("tensor", np.bytes_(b"\xff")), "'tensor' is no UTF-8"),
    "long tensor": (lambda f: f.attrs.__setitem__("tensor", np.bytes_(b"w" * 3000)), "is no text of a fixed"),
    "no codes": (lambda f: f.__delitem__("codes"), "there is no dataset /codes"),
    "codes of int8": (
        replaced("codes", np.zeros((ROWS, DIM), np.int8)),
        "/codes has shape (300, 24) of int8",
    ),
    "codes in a link": (replaced("codes", h5py.SoftLink("/scales")), "is a soft or external link"),
    "codes a group": (lambda f: (f.__delitem__("codes"), f.create_group("codes")), "no dataset /codes"),
    "scales of float32": (replaced("scales", np.zeros(ROWS, np.float32)), "expected (300,) of float64"),
    "fewer scales": (replaced("scales", np.zeros(ROWS - 1)), "/scales has shape (299,)"),
    "fewer checksums": (replaced("checksums", np.zeros((0, 2), np.uint32)), "/checksums has shape (0, 2)"),
    "both kinds of keys": (lambda f: f.create_dataset("keys/ids", data=np.arange(ROWS)), "and not both"),
    "keys changed": (lambda f: f["keys/bytes"].__setitem__(0, 120), "/keys/bytes differs from its checksum"),
    "keys no UTF-8": (lambda f: f["keys/bytes"].__setitem__(0, 255), "the key of row 0 is no UTF-8"),
    "offsets descend": (lambda f: f["keys/offsets"].__setitem__(5, 0), "/keys/offsets is wrong somewhere"),
    "offsets too far": (lambda f: f["keys/offsets"].__setitem__(ROWS, 1 << 40), "/keys/offsets is wrong"),
    "first offset": (lambda f: f["keys/offsets"].__setitem__(0, 1), "/keys/offsets is wrong somewhere"),
    "key checksums changed": (lambda f: f["keys/checksums"].__setitem__(3, 5), "content id does not belong"),
    "no key bytes": (lambda f: f.__delitem__("keys/bytes"), "there is no dataset /keys/bytes"),
}


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    """A store with text keys."""
    qstore.build(VALUES, tmp_path / "o.h5", keys=KEYS["text"])
    return tmp_path / "o.h5"


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_agree_is_refused(keyed: Path, tmp_path: Path, case: str) -> None:
    change, words = BROKEN[case]
    path = broken(keyed, tmp_path / "again.h5", change)
    with pytest.raises(SourceError) as caught:
        qstore.build(path, tmp_path / "back.h5")
    assert words in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again.h5", "o.h5"]
    if "file['codes']" in str(caught.value):  # the remedy that is named works
        with h5py.File(path) as file:
            qstore.build((file["codes"], file["scales"]), tmp_path / "back.h5")
        assert qstore.open(tmp_path / "back.h5").shape == (ROWS, DIM)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("codes", (1 << 20, 1 << 31), "/codes has 2147483648 columns"),
        ("checksums", (1 << 30, 2), "/checksums has shape (1073741824, 2)"),
        ("keys/bytes", (1 << 50,), "/keys/offsets is wrong somewhere"),
    ],
)
def test_claims_of_what_is_not_there(
    keyed: Path, tmp_path: Path, name: str, shape: tuple[int, ...], words: str
) -> None:
    path = broken(keyed, tmp_path / "again.h5", emptied(name, shape))
    with pytest.raises(SourceError) as caught:
        qstore.build(path, tmp_path / "back.h5")
    assert words in str(caught.value)


def test_many_rows_that_were_never_written(keyed: Path, tmp_path: Path) -> None:
    """The checksums of 2⁴⁰ rows would be read at once, if they were there."""

    def change(file: Any) -> None:
        emptied("codes", (1 << 40, 1))(file)
        emptied("scales", (1 << 40,))(file)
        emptied("checksums", (1 << 20, 2))(file)

    path = broken(keyed, tmp_path / "again.h5", change)
    refused(path, "not all of /checksums has been written")


def test_virtual_and_external_parts(keyed: Path, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, DIM), np.uint8)
    layout[:] = h5py.VirtualSource(str(keyed), "codes", (ROWS, DIM))

    def virtual(file: Any) -> None:
        del file["codes"]
        file.create_virtual_dataset("codes", layout)

    refused(broken(keyed, tmp_path / "again.h5", virtual), "is a virtual dataset")

    def external(file: Any) -> None:
        del file["codes"]
        file.create_dataset("codes", (ROWS, DIM), np.uint8, external=[(str(keyed), 12288, ROWS * DIM)])

    refused(broken(keyed, tmp_path / "again.h5", external), "lies in external files")


def test_damaged_measurements_stay_behind(tmp_path: Path) -> None:
    qstore.build(VALUES, tmp_path / "o.h5")
    path = broken(tmp_path / "o.h5", tmp_path / "again.h5", lambda file: file["fidelity"].__setitem__(3, 0.0))
    qstore.build(path, tmp_path / "back.h5")
    with qstore.open(tmp_path / "back.h5") as store, qstore.open(tmp_path / "o.h5") as before:
        assert store.fidelity is None
        assert store.content_id == before.content_id


def test_cut_short_at_any_length(keyed: Path, tmp_path: Path) -> None:
    path = write_anew(keyed, tmp_path / "again.h5", compression="gzip")
    content = path.read_bytes()
    for length in [*range(0, 4000, 61), *range(4000, len(content), 499)]:
        path.write_bytes(content[:length])
        with pytest.raises(SourceError):
            qstore.build(path, tmp_path / "back.h5")
    assert not (tmp_path / "back.h5").exists()


def test_random_damage_is_never_taken_over(keyed: Path, tmp_path: Path) -> None:
    whole = write_anew(keyed, tmp_path / "again.h5").read_bytes()
    rng, refusals = np.random.default_rng(8), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.choice(len(whole), 3, replace=False):
            damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "again.h5").write_bytes(damaged)
        try:
            qstore.build(tmp_path / "again.h5", tmp_path / "back.h5", overwrite=True)
        except SourceError:
            refusals += 1
            continue
        with qstore.open(tmp_path / "back.h5") as store, qstore.open(keyed) as before:
            assert store.content_id == before.content_id
            assert np.array_equal(store.codes, before.codes)
            assert np.array_equal(store.scales, before.scales)
            assert store.key_of(slice(None)) == KEYS["text"]
    assert refusals > 50


# --------------------------------------------------- codes without their attributes


def test_codes_that_lost_what_says_so(keyed: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.h5"
    with h5py.File(keyed) as old, h5py.File(path, "w") as new:
        for name in ("codes", "scales"):
            new[f"words/{name}"] = old[name][()]
    refused(path, "holds 'words/codes' and 'words/scales', as a qstore store does, but not the attributes")
    with h5py.File(path) as file:
        qstore.build((file["words/codes"], file["words/scales"]), tmp_path / "pair.h5", keys=KEYS["text"])
    with qstore.open(tmp_path / "pair.h5") as store, qstore.open(keyed) as before:
        assert store.content_id == before.content_id
    report = qstore.build(path, tmp_path / "values.h5", tensor="words/codes")  # numbers like any others
    assert report.source_dtype == "uint8"


def test_texts_of_any_length_are_not_read(keyed: Path, tmp_path: Path) -> None:
    path = broken(keyed, tmp_path / "again.h5", lambda file: file.attrs.__setitem__("format", "qstore"))
    refused(path, "holds 'codes' and 'scales', as a qstore store does, but not the attributes of one")


@pytest.mark.parametrize("scales", [np.zeros(ROWS - 1), np.zeros(ROWS, np.int64), np.zeros((ROWS, 2))])
def test_other_data_of_these_names(tmp_path: Path, scales: Any) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["codes"], file["scales"] = np.zeros((ROWS, DIM), np.uint8), scales
    with open_source(tmp_path / "x.h5", "codes") as source:
        assert source.dtype == "uint8"
    if scales.ndim == 1:
        with open_source(tmp_path / "x.h5") as source:
            assert source.name == "codes"


def test_files_with_one_defect_are_refused_or_taken_over_whole(tmp_path: Path) -> None:
    taken = 0
    for name in EXPECTED:
        path = tmp_path / f"{name}.h5"
        path.write_bytes(fixture(name))
        try:
            qstore.build(path, tmp_path / "back.h5", overwrite=True)
        except SourceError:
            continue
        taken += 1
        with qstore.open(tmp_path / "back.h5") as store, h5py.File(path) as file:
            assert store.verify().ok
            assert store.content_id == file.attrs["content_id"].decode()
            assert np.array_equal(store.codes, file["codes"][()])
    assert 20 < taken < 50
