"""The short form of ``tools/fuzz``: seconds instead of minutes, the same files each time."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.format import manifest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from fixtures.hdf5_seal import header_parts, lookup3
from fuzz import __main__ as fuzz
from fuzz.mutations import Mutator
from fuzz.targets import (
    SOURCES,
    Judge,
    check_source,
    mutated_bytes,
    source_seeds,
    store_seeds,
    with_right_length,
)

TOOLS = Path(fuzz.__file__).parent
# Seconds without an end to a file of milliseconds: however busy the machine is, that is a hang.
HANG = 120
SEED = int(os.environ.get("QSTORE_FUZZ_SEED", "20"))
TOKENS = {
    "npy": (b"\x93NUMPY", b"'shape': ", b"True", b"'>f8'", b"99999999999999999999", b"(((((", b"'O'", b"\n"),
    "safetensors": (
        b'"dtype":"F32",',
        b'"shape":[1,1],',
        b"[[[[",
        b"1e999",
        b"NaN",
        b"\\ud800",
        b"18446744073709551616",
        b'"DCP_SHARDING_INFO":"{}",',
    ),
    "quantized": (
        b'"dtype":"F8_E4M3",',
        b"I8",
        b"U8",
        b"F32",
        b'"shape":[1],',
        b"[10,64]",
        b"_scale",
        b"weight",
    ),
    "index": (b'"weight_map":', b"{}", b"../", b"/etc/passwd", b"\\u0000", b"[[[[", b"null"),
    "npz": (b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b".npy", b"\xff" * 4, bytes(4), b"\x93NUMPY"),
    "torch": (
        b"PK\x01\x02",
        b"cos\nsystem\n",
        b"R",
        b"Q",
        b"h\x00",
        b"\x80\x04\x95",
        b"\xff" * 8,
        b"(" * 200,
    ),
    "distributed": (
        b"\x8c\x08builtins\x8c\x04eval\x93",
        b"R",
        b"Q",
        b"b",
        b"h\x00",
        b"\xff" * 8,
        b"\x8c\x0c__1_0.distcp",
        b"(" * 200,
    ),
    "distributed-quantized": (
        b"R",
        b"b",
        b"h\x00",
        b"\xff" * 8,
        b"\x8c\x0c__1_0.distcp",
        b"weight_scale",
        b"weight",
        b"K\x0a",
        b"K\x20",
    ),
    "words-binary": (b"9" * 19, b"\n", b" ", b"\xff\xfe", b"-1 ", b"\x1f\x8b\x08"),
    "words-text": (b"9" * 19, b"\n", b" ", b"\xff\xfe", b"nan ", b"1e999 ", b"\0", b"2 3\n"),
    "gguf": (b"GGUF", b"\x03\0\0\0", b"\xff" * 8, bytes(8), b"\x08\0\0\0", b"\x02\0\0\0"),
    "vecs": (b"\xff" * 4, bytes(4), b"\x03\0\0\0"),
    "fasttext": (b"\xff" * 4, bytes(4), b"</s>\0", b"\x03\0\0\0", b"\0" * 8),
    "onnx": (b"\xff" * 9, b"\x70\1", b"\x6a\4\x0a\2", bytes(4), b"\x2a\0", b"\x3a\0"),
    "onnx-tables": (
        b"\xff" * 9,
        b"\x70\1",
        bytes(4),
        b"\x2a\0",
        b"\x22\x06Gather",
        b"axis\x18\1",
        b"block_size\x18\x10",
        b"\x0a\1s",
        b"\x10\2",
    ),
    "big-ann": (b"\xff" * 4, bytes(4), b"\x02\0\0\0"),
    "keras": (b"PK\x01\x02", b"OHDR", b"TREE", b"\xff" * 8, bytes(8), b"vars"),
    "hdf5": (b"OHDR", b"TREE", b"SNOD", b"HEAP", b"\xff" * 8, bytes(8), b"\x10\0\0\0"),
}


def test_mutated_stores(tmp_path: Path) -> None:
    report = fuzz.mutate(3000, SEED, workers=2, limit=HANG, found=tmp_path / "found")
    print(f"seed {SEED}\n{report}")
    reasons = [path.read_text() for path in tmp_path.glob("found/*.txt")]
    assert report.ok, (str(report), *reasons)
    assert report.files == 3000
    assert report.sealed.total() > 1500
    # Damage must reach the checks behind the checksums, and some must be harmless.
    assert report.sealed["refused"] > 1000
    assert report.sealed["whole"] > 50
    assert report.sealed["found by verify"] > 5


@pytest.mark.parametrize("plant", ["crash", "hang", "wrong", "other error"])
def test_what_must_never_happen_would_be_seen(plant: str, tmp_path: Path) -> None:
    limit = 1 if plant == "hang" else HANG
    report = fuzz.mutate(12, SEED, workers=1, limit=limit, found=tmp_path / "found", plant=plant)
    seen = {
        "crash": report.crashes,
        "hang": report.hangs,
        "wrong": report.sealed["wrong"] + report.unsealed["wrong"],
        "other error": report.sealed["other error"] + report.unsealed["other error"],
    }
    assert {name for name, count in seen.items() if count} == {plant}
    assert not report.ok
    assert report.files == 12
    kept = tmp_path / "found" / f"seed{SEED}-7.h5"
    assert kept.read_bytes() == Mutator(*store_seeds(), SEED).mutated(7).content


def test_a_silently_wrong_store_would_be_seen() -> None:
    """Content that verifies but is none that was ever made, and a shape that other readers see otherwise."""
    good, _ = store_seeds()
    with pytest.raises(AssertionError, match="not a content that was made"):
        Judge(good[:1]).outcome(good[-1])
    judge = Judge(good)
    assert judge.outcome(good[-1]) == "whole"
    changed = bytearray(good[-1])
    changed[12288] ^= 1
    assert judge.outcome(bytes(changed)) == "found by verify"


def test_mutations_repeat_and_are_sealed() -> None:
    mutator = Mutator(*store_seeds(), SEED)
    made = [mutator.mutated(number) for number in range(200)]
    assert [mutator.mutated(number) for number in range(200)] == made
    sealed = [mutated.content for mutated in made if mutated.sealed]
    assert len(sealed) > 100
    right = sum(
        all(
            lookup3(content[start:end]).to_bytes(4, "little") == content[end : end + 4]
            for start, end in parts
        )
        for content in sealed
        if (parts := header_parts(content))
    )
    assert right > 0.8 * len(sealed)  # the others have headers that overlap


@pytest.mark.parametrize("parser", SOURCES)
def test_mutated_sources(parser: str, tmp_path: Path, no_leaks: None) -> None:
    """Listing, opening and reading a hostile source: right, or SourceError."""
    chance = random.Random(f"{SEED}/{parser}")
    path, seeds = source_seeds(parser, tmp_path)
    seen = {"read": 0, "refused": 0}
    for _ in range(700):
        content = mutated_bytes(chance.choice(seeds), chance, TOKENS[parser])
        if parser in ("safetensors", "quantized") and chance.random() < 0.75:
            content = with_right_length(content)
        path.write_bytes(content)
        try:
            seen[check_source(path)] += 1
        except Exception as error:
            error.add_note(f"seed {SEED}: {content!r}")
            raise
    assert seen["refused"] >= 50, seen
    assert seen["read"] >= 5, seen


ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    7,
    2**63,
    1.5,
    "",
    "..",
    "two.h5",
    "\ud800",
    [],
    {},
    [1, 0],
    [2, 0],
    "0" * 32,
)


def edited_manifest(text: bytes, chance: random.Random) -> bytes:
    """Members and shards that are odd, missing, repeated or in another order; mostly with right checksums."""
    members: dict[str, Any] = json.loads(text)
    for _ in range(chance.choice((1, 1, 2))):
        shards = members["shards"] if isinstance(members.get("shards"), list) else []
        entries = [shard for shard in shards if isinstance(shard, dict)]
        changed = chance.choice([members, *entries])
        what = chance.random()
        if what < 0.3 and shards:
            shards[:] = chance.choices(shards, k=chance.randrange(4))
        elif what < 0.45:
            changed.pop(chance.choice([*changed, "name"]), None)
        else:
            changed[chance.choice([*changed, "name"])] = chance.choice(ODD)
    with contextlib.suppress(KeyError, TypeError, ValueError, struct.error, OverflowError):
        if chance.random() < 0.8:
            shards = [qstore.Shard("", 0, one["rows"], one["content_id"]) for one in members["shards"]]
            members["content_id"] = manifest.sharded_content_id(members["dim"], shards)
            members["rows"] = sum(shard.rows for shard in shards)
    return json.dumps(members, indent=1).encode()


def resealed(text: bytes) -> bytes:
    zeroed = re.sub(rb'("checksum": ")[0-9a-f]{8}"', rb'\g<1>00000000"', text, count=1)
    return zeroed.replace(b'"00000000"', b'"%08x"' % zlib.crc32(zeroed), 1)


def test_mutated_manifests(tmp_path: Path, no_leaks: None) -> None:
    """A sharded store opens as exactly what its manifest lists, or is refused."""
    rows = {name: np.full((count, 3), count, np.float32) for name, count in (("one.h5", 2), ("two.h5", 5))}
    for name, values in rows.items():
        qstore.build(values, tmp_path / name)
    qstore.publish_shards(tmp_path, list(rows))
    path = tmp_path / manifest.MANIFEST
    seed, chance = path.read_bytes(), random.Random(f"{SEED}/manifest")
    seen = {"read": 0, "refused": 0}
    for _ in range(1500):
        edit = chance.random() < 0.6
        text = edited_manifest(seed, chance) if edit else mutated_bytes(seed, chance, TOKENS["index"])
        path.write_bytes(resealed(text) if chance.random() < 0.9 else text)
        try:
            with qstore.open(tmp_path) as store:
                listed = [shard for shard in json.loads(path.read_bytes())["shards"] if shard["rows"]]
                none = np.empty((0, store.shape[1]), np.float32)
                wanted = np.concatenate([rows[shard["name"]] for shard in listed] or [none])
                np.testing.assert_array_equal(store[:], wanted)
            seen["read"] += 1
        except qstore.FormatError:
            seen["refused"] += 1
        except BaseException as error:
            error.add_note(f"seed {SEED}: {path.read_bytes()!r}")
            raise
    assert seen["refused"] >= 500, seen
    assert seen["read"] >= 20, seen


@pytest.mark.parametrize("parser", SOURCES)
def test_seeds_are_good_sources(parser: str, tmp_path: Path) -> None:
    path, seeds = source_seeds(parser, tmp_path)
    path.write_bytes(seeds[0])
    assert qstore.list_tensors(path)


def test_without_atheris_the_tool_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "atheris.py").write_text("raise ImportError")
    run = subprocess.run(
        [sys.executable, TOOLS, "atheris", "--found", tmp_path / "found"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{TOOLS}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "pip install atheris" in run.stderr
