"""torch itself, or an error that says what to install."""

from __future__ import annotations

from ..errors import MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError('this needs torch: pip install "qstore[torch]"') from error

__all__ = ["torch"]
