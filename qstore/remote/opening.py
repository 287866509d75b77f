"""Which reader reads what is behind a URL."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ..errors import MissingExtraError, RemoteError
from ..system.urls import printable_url
from .file_system_reader import FileSystemReader
from .http_reader import HttpReader
from .reader import Reader

__all__ = ["open_reader"]


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
    protocols = connect()[0].protocol
    if "http" in ((protocols,) if isinstance(protocols, str) else protocols):
        return HttpReader(name, connect)
    return FileSystemReader(name, connect)


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
            f'reading {name} needs another library: {error}; pip install "qstore[remote]" brings what http '
            f"and https need"
        ) from error
    except ValueError as error:
        raise RemoteError(f"{name}: {error}") from error
    return found
