"""Which paths are URLs, and how they are shown."""

from __future__ import annotations

import os
import re
from typing import Any, TypeGuard

__all__ = ["is_url", "printable_path", "printable_url", "without_file_scheme", "without_secrets"]

_URL = re.compile(r"[A-Za-z][\w.+-]*(::[A-Za-z][\w.+-]*)*://")
_ANY_URL = re.compile(r"[A-Za-z][\w.+-]*://[^\s'\"<>]*")
_FILE_SCHEME = "file://"


def is_url(path: Any) -> TypeGuard[str]:
    """True for what is not a file of this machine: ``s3://bucket/x``, ``simplecache::https://host/x``.

    Examples
    --------
    >>> is_url("https://host/words.h5"), is_url("words.h5"), is_url("file:///tmp/words.h5")
    (True, False, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None and not path.startswith(_FILE_SCHEME)


def without_file_scheme(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path in ``file:///path``, as fsspec takes it (nothing is decoded); any other path as it is."""
    return path.removeprefix(_FILE_SCHEME) if isinstance(path, str) else path


def printable_url(url: str) -> str:
    """`url` without user, password and query, which is where signatures are.

    Examples
    --------
    >>> printable_url("https://me:secret@host/store.h5?signature=a1")
    'https://host/store.h5?…'
    """
    plain = re.sub(r"//[^/?#]*@", "//", url)
    return re.sub(r"\?.*", "?…", plain, flags=re.DOTALL)


def printable_path(path: str | os.PathLike[str]) -> str:
    """A URL as :func:`printable_url` shows it, and a path as it is.

    Examples
    --------
    >>> printable_path("https://host/a?b"), printable_path("what?.npy")
    ('https://host/a?…', 'what?.npy')
    """
    return printable_url(path) if is_url(path) else os.fsdecode(path)


def without_secrets(text: str) -> str:
    """A message of another library, with the URLs in it as :func:`printable_url` shows them.

    Examples
    --------
    >>> without_secrets("0, message='', url='https://me:secret@host/a?signature=a1'")
    "0, message='', url='https://host/a?…'"
    """
    return _ANY_URL.sub(lambda found: printable_url(found[0]), text)
