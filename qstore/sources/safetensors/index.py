"""Sharded safetensors checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

from ..base import Fingerprint, RowSource, TensorInfo
from ..containers.checkpoint_index import IndexFormat
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from .tensors import byte_layout_of, layout_of, read_header

__all__ = ["SafetensorsIndexFormat"]


class SafetensorsIndexFormat(IndexFormat):
    """A checkpoint in several `.safetensors` files, described by an index in JSON."""

    name = "safetensors index"
    suffixes: tuple[str, ...] = (".safetensors.index.json", ".safetensors.index.fp16.json")

    def tensors_in(self, file: RawFile) -> Mapping[str, TensorInfo]:
        """All tensors of one shard by name."""
        return {name: entry.info for name, entry in read_header(file).entries.items()}

    def open_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of a tensor of one shard."""
        return ContiguousRows(file, **layout_of(file.path, read_header(file), tensor), origin=origin)

    def metadata_in(self, file: RawFile) -> Mapping[str, str]:
        """What a shard says about itself."""
        return read_header(file).metadata

    def open_bytes_in(self, file: RawFile, tensor: str, origin: Fingerprint) -> RowSource:
        """Source of the bytes of a tensor of one shard."""
        return ContiguousRows(file, **byte_layout_of(read_header(file), tensor), origin=origin)
