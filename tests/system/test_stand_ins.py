"""What stands in the place of a file, told by its first bytes, and the advice that goes with it."""

from __future__ import annotations

import numpy as np
import pytest

from qstore.system.stand_ins import HEAD_BYTES, archive_of, pointer, stand_in, unpacking

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 7


@pytest.mark.parametrize(
    "head",
    [
        LFS,
        LFS.replace(b"git-lfs", b"hawser"),
        LFS.replace(b"\noid", b"\next-0-foo sha256:00\noid"),
        LFS.replace(b"\n", b"\r\n"),
    ],
)
def test_pointers(head: bytes) -> None:
    assert "in the place of the file: run git" in (pointer(head) or "")
    assert stand_in("x", head) == pointer(head)


@pytest.mark.parametrize(
    "head",
    [b"", b"version", b"version 1 2 3\n", b"https://git-lfs.github.com/spec/v1\n", b"annex 1 2\n", LFS[1:]],
)
def test_what_is_none(head: bytes) -> None:
    assert pointer(head) is None
    assert stand_in("x", head) is None


def test_text_is_no_archive() -> None:
    """Words that look like the marks of archives; key files may begin with anything."""
    for text in (
        b"PK\n",
        b"BZh\nBZh9\n",
        b"Rar!\n",
        b"7z\n",
        b"a" * 257 + b"ustar\nb\n",
        b"a" * 257 + b"ustar  \n",
    ):
        assert archive_of(text) is None


def test_vectors_are_no_archives() -> None:
    """Headers of the other formats, and plain numbers."""
    rng = np.random.default_rng(3)
    for dim in (1, 100, 300, 768, 4096, 65_536):
        row = dim.to_bytes(4, "little") + rng.standard_normal(dim).astype("<f4").tobytes()
        assert archive_of(row[:HEAD_BYTES]) is None


@pytest.mark.parametrize(
    ("path", "head", "command"),
    [
        ("a/x.npy.gz", b"\x1f\x8b\x08", "gzip -dc a/x.npy.gz > a/x.npy"),
        ("X.GZ", b"\x1f\x8b\x08", "gzip -dc X.GZ > X"),
        ("x", b"\xfd7zXZ\0", "xz -dc x > x.unpacked"),
        ("my $x.txt.bz2", b"BZh91AY&SY", "bzip2 -dc 'my $x.txt.bz2' > 'my $x.txt'"),
        ("x.zip", b"PK\x05\x06", "unzip x.zip"),
    ],
)
def test_commands(path: str, head: bytes, command: str) -> None:
    kind = archive_of(head)
    assert kind is not None
    assert unpacking(path, kind) == f"unpack it first: {command}"
