"""The manifest of a directory of shards: as documented, and refused with one defect."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from sharded_stores import DIM, ROWS, published, read_all

import qstore


@pytest.fixture
def folder(tmp_path: Path, matrix: NDArray[Any]) -> Path:
    """A published directory of six shards, one of them empty."""
    return published(tmp_path / "shards", matrix)


def sealed(members: dict[str, Any]) -> bytes:
    """A manifest with a right checksum, whatever it says."""
    text = json.dumps({**members, "checksum": "0" * 8}).encode()
    return text.replace(b'"checksum": "00000000"', b'"checksum": "%08x"' % zlib.crc32(text))


def shard_of(**changes: Any) -> dict[str, Any]:
    return {"name": "part-0.h5", "rows": 700, "bytes": 1, "content_id": "0" * 32, **changes}


DEFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "another format": ({"format": "zip"}, '"format" is .zip., expected "qstore shards"'),
    "version of a number": ({"version": 1}, '"version" is 1, expected list'),
    "version of texts": ({"version": ["1", "0"]}, "expected two whole numbers"),
    "version never published": ({"version": [0, 9]}, "was never published"),
    "dim of a float": ({"dim": 48.0}, '"dim" is 48.0, expected int'),
    "dim of a truth": ({"dim": True}, '"dim" is True, expected int'),
    "no dim": ({"dim": None}, '"dim" is None'),
    "no columns": ({"dim": 0}, '"dim" is 0, expected 1'),
    "too many columns": ({"dim": 1 << 41}, '"dim" is'),
    "rows that do not add up": ({"rows": 3000}, '"rows" is 3000, but the shards have 3001'),
    "rows below zero": ({"shards": [shard_of(rows=-1)]}, "which cannot be"),
    "rows past 64 bits": ({"shards": [shard_of(rows=1 << 64)]}, "which cannot be"),
    "rows past 64 bits in all": (
        {"shards": [shard_of(rows=1 << 62), shard_of(name="b", rows=1 << 62)]},
        "more than",
    ),
    "bytes of a text": ({"shards": [shard_of(bytes="1")]}, '"bytes" is'),
    "name of a number": ({"shards": [shard_of(name=5)]}, '"name" is 5'),
    "name with a slash": ({"shards": [shard_of(name="../part-0.h5")]}, "cannot be the name of a shard"),
    "absolute name": ({"shards": [shard_of(name="/etc/passwd")]}, "cannot be the name of a shard"),
    "name with a backslash": ({"shards": [shard_of(name="a\\b")]}, "cannot be the name of a shard"),
    "name with a zero": ({"shards": [shard_of(name="a\0b")]}, "cannot be the name of a shard"),
    "hidden name": ({"shards": [shard_of(name=".x.h5")]}, "cannot be the name of a shard"),
    "dots": ({"shards": [shard_of(name="..")]}, "cannot be the name of a shard"),
    "no name": ({"shards": [shard_of(name="")]}, "cannot be the name of a shard"),
    "long name": ({"shards": [shard_of(name="x" * 256)]}, "cannot be the name of a shard"),
    "surrogate": ({"shards": [shard_of(name="\ud800")]}, "cannot be the name of a shard"),
    "its own name": ({"shards": [shard_of(name="qstore.json")]}, "cannot be the name of a shard"),
    "a name twice": ({"shards": [shard_of(), shard_of()]}, "stands twice"),
    "bad content id": ({"shards": [shard_of(content_id="X" * 32)]}, "not 32 hexadecimal digits"),
    "short content id": ({"shards": [shard_of(content_id="0" * 31)]}, "not 32 hexadecimal digits"),
    "another content id": ({"content_id": "0" * 32}, '"content_id" does not belong to the shards'),
    "shards of an object": ({"shards": {}}, '"shards" is {}, expected list'),
    "shard of a text": ({"shards": ["part-0.h5"]}, "a shard is 'part-0.h5', expected an object"),
    "tensor of a number": ({"tensor": 5}, '"tensor" is 5, expected str'),
    "keys of a number": ({"keys": 5}, '"keys" is 5, expected "text"'),
    "long tensor": ({"tensor": "x" * 2049}, "expected at most 2048"),
    "surrogate tensor": ({"tensor": "\ud800"}, '"tensor" is no text'),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_manifest_with_one_defect(folder: Path, defect: str) -> None:
    changes, message = DEFECTS[defect]
    path = folder / "qstore.json"
    good = json.loads(path.read_bytes())
    path.write_bytes(sealed(good))
    read_all(folder)
    path.write_bytes(sealed({**good, **changes}))
    with pytest.raises(qstore.FormatError, match=message) as caught:
        qstore.open(folder)
    assert str(path) in str(caught.value)


def test_newer_manifests(folder: Path) -> None:
    path = folder / "qstore.json"
    good = json.loads(path.read_bytes())
    path.write_bytes(sealed({**good, "version": [1, 7], "more": {"a": 1}}))
    read_all(folder)
    path.write_bytes(sealed({**good, "version": [2, 0]}))
    with pytest.raises(qstore.VersionError, match="upgrade qstore"):
        qstore.open(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (b"{", "expected JSON"),
        (b"[]", "expected a JSON object"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"dim": 1, "dim": 2}', "stands twice"),
        (b'{"dim": NaN}', "NaN is no JSON"),
        (b'{"dim": ' + b"9" * 5000 + b"}", "expected JSON"),
        (b'{"format": "qstore shards", "version": [1, 0]}', "no .checksum."),
    ],
)
def test_other_files_as_manifest(folder: Path, content: bytes, message: str) -> None:
    (folder / "qstore.json").write_bytes(content)
    with pytest.raises(qstore.FormatError, match=message):
        qstore.open(folder)


def test_manifests_have_a_largest_size(folder: Path) -> None:
    os.truncate(folder / "qstore.json", 1 << 40)
    with pytest.raises(qstore.FormatError, match="expected at most"):
        qstore.open(folder)


def test_every_changed_byte_of_a_manifest_is_noticed(folder: Path) -> None:
    path = folder / "qstore.json"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(qstore.FormatError):
            qstore.open(folder)


def test_manifest_is_as_documented(folder: Path) -> None:
    text = (folder / "qstore.json").read_bytes()
    found = json.loads(text)
    assert found["format"] == "qstore shards"
    assert found["version"] == [1, 0]
    assert (found["dim"], found["rows"]) == (DIM, ROWS)
    assert list(found["shards"][0]) == ["name", "rows", "bytes", "content_id"]
    zeroed = re.sub(rb'"checksum": "[0-9a-f]{8}"', b'"checksum": "00000000"', text)
    assert int(found["checksum"], 16) == zlib.crc32(zeroed)
    assert sealed(found) != text  # the bytes count, not what they mean
