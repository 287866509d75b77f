"""Paths and URLs of sources: how they are shown, and what lies beside them."""

from __future__ import annotations

import os
from typing import Any

from ..system.remote_objects.session import Session
from ..system.urls import is_url, printable_url

__all__ = ["Address", "as_address", "beside", "file_name", "inside"]


class Address(str):
    """A URL. As text it is what messages may show: without user, password and query.

    Attributes
    ----------
    url : str
        What is opened.
    name : str
        That of the file.
    session : Session
        What has been read, shared by all that lies beside it.
    """

    url: str
    name: str
    session: Session

    def __new__(cls, url: str, session: Session | None = None) -> Address:
        """Of a URL, and of the session of another one beside it."""
        made = super().__new__(cls, printable_url(url))
        made.url, made.session = url, session or Session()
        made.name = _split(url)[1]
        return made


def as_address(path: Any) -> Any:
    """The address of a URL that is not, by chance, the path of a file; everything else as it is.

    Examples
    --------
    >>> print(as_address("https://me:secret@host/m.npy?signature=a1"), as_address("m.npy"))
    https://host/m.npy?… m.npy
    """
    if isinstance(path, Address) or not is_url(path) or os.path.lexists(path):
        return path
    return Address(path)


def file_name(path: str) -> str:
    """The name of the file alone."""
    return path.name if isinstance(path, Address) else os.path.basename(path)


def beside(path: str, name: str) -> str:
    """Where the file of that name lies in the directory of `path`.

    Examples
    --------
    >>> beside("model/a.gguf", "b.gguf"), beside(Address("https://host/model/a?x=1"), "b c").url
    ('model/b.gguf', 'https://host/model/b%20c?x=1')
    """
    if not isinstance(path, Address):
        return os.path.join(os.path.dirname(path), name)
    before, _, behind = _split(path.url)
    return Address(before + _quoted(path.url, name) + behind, path.session)


def inside(folder: str, name: str) -> str:
    """Where the file of that name lies in a directory.

    Examples
    --------
    >>> inside("model", "a"), inside(Address("memory://model"), "a")
    ('model/a', 'memory://model/a')
    """
    if not isinstance(folder, Address):
        return os.path.join(folder, name)
    before, _, behind = _split(folder.url.rstrip("/") + "/")
    return Address(before + _quoted(folder.url, name) + behind, folder.session)


def _split(url: str) -> tuple[str, str, str]:
    """A URL up to the last ``/`` of the path, the name behind it, and the rest.

    In ``simplecache::https://host/x`` and ``zip://x::https://host/y`` the first link with a path has it.

    Examples
    --------
    >>> _split("simplecache::https://host/a%20b/c%20d?x=/1"), _split("zip://a/b::file:///c")
    (('simplecache::https://host/a%20b/', 'c d', '?x=/1'), ('zip://a/', 'b', '::file:///c'))
    """
    links = url.split("::")
    first = next((number for number, link in enumerate(links) if "://" in link), len(links) - 1)
    path, mark, query = links[first].partition("?" if _is_http(links[first]) else "\0")
    folder, _, name = path.rpartition("/")
    if _is_http(path):
        from urllib.parse import unquote

        name = unquote(name)
    before = "".join(f"{link}::" for link in links[:first])
    behind = "".join(f"::{link}" for link in links[first + 1 :])
    return f"{before}{folder}/", name, mark + query + behind


def _quoted(url: str, name: str) -> str:
    """A name as part of a URL: one from an index must not reach into the query."""
    from urllib.parse import quote

    return quote(name, safe="") if any(map(_is_http, url.split("::"))) else name


def _is_http(link: str) -> bool:
    return link.startswith(("http://", "https://"))
