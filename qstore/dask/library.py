"""What is used of Dask, or an error that says what to install."""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    from dask import array
    from dask.base import tokenize
    from dask.delayed import Delayed, delayed
except ImportError as error:
    raise MissingExtraError('this needs dask: pip install "qstore[dask]"') from error

__all__ = ["Delayed", "array", "delayed", "tokenize"]
