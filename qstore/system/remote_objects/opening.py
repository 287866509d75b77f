"""Which reader reads what is behind a URL, and what is in a folder behind one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ...errors import MissingExtraError, RemoteError
from ..urls import printable_url, without_secrets
from .file_system_reader import FileSystemReader
from .http_reader import HttpReader
from .reader import Reader

__all__ = ["list_folder", "open_reader"]


def open_reader(url: str, storage_options: Mapping[str, Any]) -> Reader:
    """Open the object behind `url`.

    Parameters
    ----------
    url : str
        Whatever fsspec knows.
    storage_options : mapping
        For fsspec's file system.

    Raises
    ------
    MissingExtraError
        A library is not installed.
    RemoteError
        The object is not there or cannot be read in ranges.
    """
    name = printable_url(url)
    connect = functools.partial(_connect, url, storage_options)
    if _is_http(connect()[0]):
        return HttpReader(name, connect)
    return FileSystemReader(name, connect)


def _is_http(file_system: Any) -> bool:
    protocols = file_system.protocol
    return "http" in ((protocols,) if isinstance(protocols, str) else protocols)


def _connect(url: str, storage_options: Mapping[str, Any]) -> tuple[Any, str]:
    name = printable_url(url)
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtraError(f'reading {name} needs fsspec: pip install "qstore[remote]"') from error
    try:
        found: tuple[Any, str] = url_to_fs(url, **storage_options)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {name} needs another library: {without_secrets(str(error))}; pip install "
            f'"qstore[remote]" brings what http and https need'
        ) from error
    except ValueError as error:
        raise RemoteError(f"{name}: {without_secrets(str(error))}") from error
    return found


def list_folder(url: str) -> tuple[list[str], list[str]] | None:
    """Names of the objects and of the folders in a folder, both sorted; None where `url` is no folder.

    Raises
    ------
    MissingExtraError
        A library is not installed.
    RemoteError
        It cannot be listed.
    """
    file_system, path = _connect(url, {})
    if _is_http(file_system):
        return None  # there are none
    try:
        file_system.invalidate_cache(path)
        if not file_system.isdir(path):
            return None
        found = file_system.ls(path, detail=True)
    except Exception as error:  # file systems raise what their libraries raise
        words = without_secrets(f"{type(error).__name__}: {error}")
        raise RemoteError(f"{printable_url(url)} cannot be listed: {words}") from error
    names = {one["name"].rstrip("/").rpartition("/")[2]: one["type"] == "directory" for one in found}
    return sorted(name for name in names if not names[name]), sorted(name for name in names if names[name])
