"""Where matrices come from: arrays, chunks, and one module for each file format."""

from .base import Fingerprint, RowSource, Source, TensorInfo
from .concatenated import are_paths
from .quantized import QuantizedSource
from .raw import RawSource
from .registry import FORMATS, Format, list_tensors, open_source
from .tensor_choice import is_matrix, unknown_tensor

__all__ = [
    "FORMATS",
    "Fingerprint",
    "Format",
    "QuantizedSource",
    "RawSource",
    "RowSource",
    "Source",
    "TensorInfo",
    "are_paths",
    "is_matrix",
    "list_tensors",
    "open_source",
    "unknown_tensor",
]
