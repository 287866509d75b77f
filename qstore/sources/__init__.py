"""Where matrices come from: arrays, chunks, and a module or a wing of its own for each file format.

Comes in: what users name or hand in. Goes out: a Source, a matrix whose shape and type are known before any
of its data is read, or a SourceError. `registry` decides which format a thing is, `base` says what a source
must do, `checks` has the checks and words that all share, `containers` what files of several formats are
made of. Files are not trusted, and nothing in them is ever run.

May use: format, engine, system, errors.
"""

from .base import Fingerprint, RowSource, Source, TensorInfo
from .concatenated import are_paths
from .numbered import Numbered, names_several, numbered_tensors
from .quantized import QuantizedSource
from .quantized_weights import Choice
from .raw import RawSource
from .registry import FORMATS, Format, list_tensors, open_source
from .tensor_choice import is_matrix, unknown_tensor
from .text_encoding import UTF8, TextEncoding

__all__ = [
    "FORMATS",
    "UTF8",
    "Choice",
    "Fingerprint",
    "Format",
    "Numbered",
    "QuantizedSource",
    "RawSource",
    "RowSource",
    "Source",
    "TensorInfo",
    "TextEncoding",
    "are_paths",
    "is_matrix",
    "list_tensors",
    "names_several",
    "numbered_tensors",
    "open_source",
    "unknown_tensor",
]
