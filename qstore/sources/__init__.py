"""Where matrices come from: arrays, chunks, and one module for each file format."""

from .base import Fingerprint, RowSource, Source, TensorInfo
from .registry import FORMATS, Format, list_tensors, open_source

__all__ = [
    "FORMATS",
    "Fingerprint",
    "Format",
    "RowSource",
    "Source",
    "TensorInfo",
    "list_tensors",
    "open_source",
]
