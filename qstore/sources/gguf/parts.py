"""GGUF files in several parts, ``NAME-00001-of-00003.gguf`` and so on: any of them stands for the whole.

Names and metadata (`split.no`, `split.count`, `split.tensors.count`) are those of llama.cpp's gguf-split and
of the gguf library. No part knows what the others hold: their headers are read, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import IncompleteError, SourceError
from ..addresses import beside, file_name
from ..base import TensorInfo
from ..checks import shortened
from ..remote_files import exists, open_file
from .header import Header, read_header, read_texts

__all__ = ["Whole", "read_vocabulary", "read_whole"]

_NAME = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)

# A file that was cut anywhere, as those who publish large ones do: "….gguf.part1of2", "….gguf-split-a".
_PIECE = re.compile(r".*\.gguf[.-](part[0-9]+of[0-9]+|split-[a-z])", re.DOTALL)


@dataclass
class Whole:
    """The headers of all parts that are there.

    Attributes
    ----------
    path : str
        The part that was given.
    headers : dict
        By path, in the order of the parts. One where the file is no part.
    missing : list of str
        Names of the parts that are not there.
    """

    path: str
    headers: dict[str, Header] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def tensors(self) -> list[TensorInfo]:
        """Those of all parts that are there, sorted by name."""
        found = [entry.info for header in self.headers.values() for entry in header.entries.values()]
        return sorted(found, key=lambda info: info.name)

    def check_complete(self) -> None:
        """Raise `IncompleteError` where a part is missing."""
        if self.missing:
            names = shortened(", ".join(self.missing), 1000)
            raise IncompleteError(
                f"{self.path}: {len(self.missing)} of its {len(self.headers) + len(self.missing)} parts "
                f"missing: {names}; get them again",
                tuple(self.tensors()),
            )

    def path_of(self, tensor: str) -> str | None:
        """The part that a tensor is in."""
        return next((path for path, header in self.headers.items() if tensor in header.entries), None)


def read_whole(path: str) -> Whole:
    """Read the header of a file, and those of all parts that belong to it.

    Raises
    ------
    SourceError
        A header is malformed, a part is not named as one, or the parts do not belong together.
    """
    whole = Whole(path)
    given = _header(path)
    for number, part in enumerate(_parts(path, given)):
        if part == path:
            whole.headers[part] = given
        elif exists(part):
            whole.headers[part] = _header(part)
            _check_part(part, number, whole.headers[part], given)
        else:
            whole.missing.append(file_name(part))
    _check_together(whole, given)
    return whole


def read_vocabulary(path: str) -> list[str]:
    """The tokens of a file, ``tokenizer.ggml.tokens``, as they stand there; also those in another part.

    Raises
    ------
    SourceError
        There are none, one is not UTF-8, or as for :func:`read_whole`.
    """
    whole = read_whole(path)
    for part, header in whole.headers.items():
        if header.tokens is not None:
            with open_file(part) as file:
                return list(_decoded(part, read_texts(file, header.tokens)))
    whole.check_complete()
    raise SourceError(f"{path} has no vocabulary: expected an array of texts tokenizer.ggml.tokens")


def _decoded(path: str, tokens: list[bytes]) -> Iterator[str]:
    for number, token in enumerate(tokens):
        try:
            yield token.decode()
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{path}: token {number} of its vocabulary, {shortened(repr(token))}, is no UTF-8; give the "
                f"keys in another file"
            ) from error


def _header(path: str) -> Header:
    if _PIECE.fullmatch(file_name(path)):
        raise SourceError(
            f"{path} is a piece of a GGUF file that was cut: put all pieces together in order, "
            f"cat PIECES > whole.gguf, and give that"
        )
    with open_file(path) as file:
        return read_header(file)


def _parts(path: str, header: Header) -> list[str]:
    """Paths of all parts in order; the one path where the file is a whole."""
    split = header.split
    if split is None:
        return [path]
    found = _NAME.fullmatch(file_name(path))
    if found is None or (int(found["number"]) - 1, int(found["count"])) != (split.number, split.count):
        raise SourceError(
            f"{path} is part {split.number + 1} of {split.count} of a GGUF file: expected a name that ends "
            f"with {_ending(split.number, split.count)}, by which the other parts are found; rename it so"
        )
    names = (found["stem"] + _ending(number, split.count) for number in range(split.count))
    return [beside(path, name) for name in names]


def _ending(number: int, count: int) -> str:
    return f"-{number + 1:05}-of-{count:05}.gguf"


def _check_part(path: str, number: int, header: Header, given: Header) -> None:
    split, expected = header.split, given.split
    if split is None or expected is None or (split.number, split.count) != (number, expected.count):
        found = "a whole file" if split is None else f"part {split.number + 1} of {split.count}"
        raise SourceError(f"{path} expected part {number + 1}, found {found}; get it again")


def _check_together(whole: Whole, given: Header) -> None:
    """No tensor is in two parts, and there are as many as the parts say."""
    parts: dict[str, str] = {}
    for part, header in whole.headers.items():
        for name in header.entries:
            if parts.setdefault(name, part) != part:
                raise SourceError(
                    f"tensor {shortened(repr(name))} is in {parts[name]} and in {part}: expected it in one; "
                    f"get both again"
                )
    expected = given.split and given.split.tensors
    if expected is not None and not whole.missing and len(parts) != expected:
        raise SourceError(
            f"{whole.path} expected {expected} tensors in all its parts, found {len(parts)}: they do not "
            f"belong together; get all of them again"
        )
