"""How the bytes of words are text: UTF-8, unless somebody knows better."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import SourceError
from ..system.options import shown

__all__ = ["UTF8", "TextEncoding"]

_ERRORS = ("strict", "replace", "backslashreplace")
_ASCII = bytes(range(0x20, 0x7F)).translate(None, b"\\~")


class TextEncoding(NamedTuple):
    """An encoding, and what to do about bytes that are none of it.

    Attributes
    ----------
    name : str
        As Python knows it; one in which ASCII is ASCII, so that lines and spaces can be told.
    errors : {"strict", "replace", "backslashreplace"}
        Stop, or keep such words with a mark in them.
    """

    name: str
    errors: str

    @classmethod
    def parse(cls, text: str) -> TextEncoding:
        """From ``ENCODING`` or ``ENCODING:ERRORS``, as in Python's ``PYTHONIOENCODING``.

        Raises
        ------
        SourceError
            There is no such encoding, ASCII is something else in it, or it says something else to do.

        Examples
        --------
        >>> TextEncoding.parse("Latin-1"), TextEncoding.parse("utf8:replace").decode(b"Z\\xc3")
        (TextEncoding(name='iso8859-1', errors='strict'), 'Z\ufffd')
        """
        name, _, errors = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            found = codecs.lookup(name).name
            is_text = _ASCII.decode(found) == _ASCII.decode("ascii")
        except (LookupError, ValueError):  # no encoding, not one of text, or one of two bytes a character
            is_text = False
        if not is_text or errors not in ("", *_ERRORS):
            raise SourceError(
                f"the key encoding is {shown(text)}: expected ENCODING or ENCODING:ERRORS, an encoding that "
                f"Python has and in which ASCII is ASCII, such as latin-1, and one of {', '.join(_ERRORS)}"
            )
        return cls(found, errors or "strict")

    def decode(self, word: bytes) -> str:
        """The text; UnicodeError where it is none."""
        return word.decode(self.name, self.errors)

    def decode_all(self, words: Sequence[bytes]) -> list[str]:
        """The texts of words without line feeds; UnicodeError where one is none."""
        if self != UTF8 or not words:
            return [self.decode(word) for word in words]
        # At once: a line feed ends what came before it, whole or not.
        return b"\n".join(words).decode().split("\n")

    def first_bad(self, words: Iterable[bytes]) -> int:
        """Number of the first word that cannot be decoded; there is one."""
        return next(number for number, word in enumerate(words) if not self._is_text(word))

    def _is_text(self, word: bytes) -> bool:
        try:
            self.decode(word)
        except UnicodeError:
            return False
        return True

    def hint(self) -> str:
        """What to do about words that cannot be decoded."""
        return (
            'say what they are with key_encoding= (--key-encoding), such as "latin-1", or "utf-8:replace" to '
            "keep them with a mark; or leave keys out, with keys=False (--no-keys)"
        )

    def __str__(self) -> str:
        return "UTF-8" if self.name == "utf-8" else self.name


UTF8 = TextEncoding("utf-8", "strict")
