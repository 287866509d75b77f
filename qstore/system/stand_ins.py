"""What can stand in the place of a file: pointers to content that was never fetched, and archives.

All are told by their first bytes. The words are the tail of a sentence that begins with a path and "is".
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

__all__ = [
    "HEAD_BYTES",
    "LONGEST_POINTER",
    "Archive",
    "archive_of",
    "pointer",
    "refused_format",
    "stand_in",
    "unpacking",
]

HEAD_BYTES = 512
"""So many first bytes tell all of these: tar's mark is the last."""

LONGEST_POINTER = 1024
"""No pointer is longer."""

_TENSORFLOW_DATA = re.compile(r".*\.data-[0-9]{5}-of-[0-9]{5}", re.DOTALL)

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md, and the address from before version 1.
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")


class Archive(NamedTuple):
    """A kind of packed file.

    Attributes
    ----------
    name : str
        With its article.
    suffix : str
    command : str
        Unpacks it: to standard output (it ends with "-dc"), or into the working directory. Empty where no
        program is usual.
    """

    name: str
    suffix: str
    command: str


# Bytes that a file starts with, and further ones at a place.
_ARCHIVES: tuple[tuple[bytes, int, tuple[bytes, ...], Archive], ...] = (
    (b"\x1f\x8b\x08", 0, (b"",), Archive("a gzip file", ".gz", "gzip -dc")),
    (b"\xfd7zXZ\0", 0, (b"",), Archive("an xz file", ".xz", "xz -dc")),
    (b"BZh", 4, (b"1AY&SY", b"\x17rE8P\x90"), Archive("a bzip2 file", ".bz2", "bzip2 -dc")),
    (b"PK", 2, (b"\3\4", b"\5\6", b"\7\x08"), Archive("a zip archive", ".zip", "unzip")),
    (b"\x28\xb5\x2f\xfd", 0, (b"",), Archive("a Zstandard file", ".zst", "zstd -dc")),
    (b"\4\x22\x4d\x18", 0, (b"",), Archive("an LZ4 file", ".lz4", "lz4 -dc")),
    (b"", 257, (b"ustar\0", b"ustar  \0"), Archive("a tar archive", ".tar", "tar -xf")),
    (b"7z\xbc\xaf\x27\x1c", 0, (b"",), Archive("a 7z archive", ".7z", "")),
    (b"Rar!\x1a\x07", 0, (b"",), Archive("a RAR archive", ".rar", "")),
)


def pointer(head: bytes) -> str | None:
    """What a file that starts so is, and what to do, where it only points to its content."""
    if not head.startswith(_LFS):
        return None
    return (
        "a Git LFS pointer in the place of the file: run git lfs pull in its repository, or download it "
        "from the address of its content (at Hugging Face with /resolve/ in the place of /raw/)"
    )


def refused_format(path: str, head: bytes) -> str | None:
    """What a file of a format that is not read is, and the way out: by its first bytes or its name."""
    name = os.path.basename(path)
    if head.startswith(b"FiFu"):
        return (
            "a finalfusion file: expected a format with plain rows; save its words in the word2vec format "
            "with finalfusion.compat.write_word2vec, and build from that"
        )
    if name.endswith(".index") or _TENSORFLOW_DATA.fullmatch(name):
        return (
            "part of a TensorFlow checkpoint: expected tensors that are read without TensorFlow; "
            "numpy.save what tensorflow.train.load_checkpoint(prefix).get_tensor(name) gives, and build from "
            "that"
        )
    return None


def archive_of(head: bytes) -> Archive | None:
    """Which kind of packed file starts so, if any."""
    for start, place, marks, kind in _ARCHIVES:
        if head.startswith(start) and head.startswith(marks, place):
            return kind
    return None


def unpacking(path: str, kind: Archive) -> str:
    """Advice to unpack it, with a command where one is usual.

    Examples
    --------
    >>> unpacking("x.npy.zst", archive_of(b"\\x28\\xb5\\x2f\\xfd"))
    'unpack it first: zstd -dc x.npy.zst > x.npy'
    """
    if not kind.command:
        return "unpack it first"
    import shlex  # not while all is well

    command = f"{kind.command} {shlex.quote(path)}"
    if kind.command.endswith("-dc"):
        bare = path[: -len(kind.suffix)] if path.lower().endswith(kind.suffix) else f"{path}.unpacked"
        command += f" > {shlex.quote(bare)}"
    return f"unpack it first: {command}"


def stand_in(path: str | os.PathLike[str], head: bytes) -> str | None:
    """What a file that starts so is, and what to do, where it is a pointer or packed."""
    kind = archive_of(head)
    return pointer(head) if kind is None else f"{kind.name}: {unpacking(os.fsdecode(path), kind)}"
