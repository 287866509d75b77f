"""safetensors: 8 bytes of header length, JSON, data. https://github.com/huggingface/safetensors#format"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from ..engine.quantization import ZERO_POINT
from .base import Format
from .selection import Selection

__all__ = ["SafetensorsCodes", "SafetensorsFormat"]

_TYPES = {"float16": "F16", "float32": "F32", "float64": "F64"}


class SafetensorsFormat(Format):
    """The values as one tensor of the store's tensor name, or ``weight``."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Header and rows; see :meth:`Format.write`."""
        entry = _entry(_TYPES[selection.dtype.name], selection.shape, 0, selection.nbytes)
        # transformers refuses files that do not say which library's tensors they hold.
        file.write(_header({"format": "pt"}, {selection.tensor: entry}))
        for _, block in selection.blocks():
            file.write(block.data)


class SafetensorsCodes(Format):
    """What the store holds: tensors ``codes`` (U8) and ``scales`` (F64)."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Header, scales, codes; see :meth:`Format.write`."""
        rows, dim = selection.shape
        # Scales come first, as the format's own library has it: they stay aligned whatever the codes' size.
        entries = {
            "scales": _entry("F64", (rows,), 0, 8 * rows),
            "codes": _entry("U8", (rows, dim), 8 * rows, 8 * rows + rows * dim),
        }
        about = {
            "tensor": selection.store.tensor,
            "zero_point": str(ZERO_POINT),
            "formula": f"(codes - {ZERO_POINT}) * scales",
        }
        file.write(_header(about, entries))
        for scales in selection.scales():
            file.write(scales.data)
        for codes in selection.codes():
            file.write(codes.data)

    def least_size(self, selection: Selection) -> int:
        """See :meth:`Format.least_size`."""
        rows, dim = selection.shape
        return rows * (dim + 8)


def _entry(dtype: str, shape: tuple[int, ...], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def _header(metadata: dict[str, str], entries: dict[str, dict[str, Any]]) -> bytes:
    text = json.dumps({"__metadata__": metadata, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of 8: readers map it as it is
    return len(text).to_bytes(8, "little") + text
