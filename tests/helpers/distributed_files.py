"""What torch.distributed.checkpoint and its Hugging Face storage writer leave, made without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from source_files import safetensors_bytes
from torch_files import body, checkpoint, tensor

__all__ = [
    "COLUMNS",
    "GRID",
    "ROWS",
    "Cut",
    "Distributed",
    "Item",
    "by_torch",
    "cut",
    "record",
    "save",
    "shards",
]

Cut = tuple[slice, slice]
ROWS: list[Cut] = [
    (slice(0, 100), slice(None)),
    (slice(100, 101), slice(None)),
    (slice(101, None), slice(None)),
]
COLUMNS: list[Cut] = [(slice(None), slice(0, 2)), (slice(None), slice(2, 3)), (slice(None), slice(3, None))]
GRID: list[Cut] = [
    (slice(0, 90), slice(0, 3)),
    (slice(0, 90), slice(3, None)),
    (slice(90, None), slice(0, 2)),
    (slice(90, None), slice(2, None)),
]
"""Pieces of a matrix, one for each process."""


def cut(values: NDArray[Any], cuts: Iterable[Cut]) -> list[tuple[tuple[int, int], NDArray[Any]]]:
    """Where each piece begins, and its values."""
    starts = [(rows.start or 0, columns.start or 0) for rows, columns in cuts]
    shape = values.shape
    return [
        ((min(row, shape[0]), min(column, shape[1])), values[rows, columns])
        for (row, column), (rows, columns) in zip(starts, cuts, strict=True)
    ]


@dataclass
class Item:
    """A piece of a tensor, and where it lies."""

    name: str
    offsets: tuple[int, ...] | None
    sizes: tuple[int, ...]
    file: Any
    begin: Any
    length: Any
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Distributed:
    """A checkpoint: change it, then write its `.metadata`."""

    folder: Path
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    def add(
        self, name: str, values: NDArray[Any], cuts: Iterable[Cut], columns_first: bool = False
    ) -> Distributed:
        """Write the pieces of a matrix, each behind what is in the file of its process already."""
        self.shapes[name] = values.shape
        self.dtypes[name] = values.dtype.names[0] if values.dtype.names else values.dtype.name
        for rank, (offsets, piece) in enumerate(cut(values, cuts)):
            held = np.asfortranarray(piece) if columns_first else np.ascontiguousarray(piece)
            path = self.folder / f"__{rank}_0.distcp"
            before = path.read_bytes() if path.exists() else b""
            content = checkpoint(
                path, b"\x80\x02" + tensor("0", held) + b".", {"0": held.T if columns_first else held}
            ).read_bytes()
            path.write_bytes(before + content)
            # As torch: where two pieces begin at one place, all but one without rows, the last is known.
            self.items = [item for item in self.items if (item.name, item.offsets) != (name, offsets)]
            self.items.append(Item(name, offsets, piece.shape, path.name, len(before), len(content)))
        return self

    def write(self, **attributes: bytes) -> Path:
        """The directory, with a `.metadata` of these tensors; `attributes` in place of its own."""
        made = {
            "state_dict_metadata": pairs(
                (body(name), self.described(name, shape)) for name, shape in self.shapes.items()
            ),
            "planner_data": body({name: (name,) for name in self.shapes}),
            "storage_data": pairs((self.index(item), self.info(item)) for item in self.items),
            "storage_meta": record("StorageMeta", attributes_of(checkpoint_id=body("x"), modules=b"]")),
            "version": body("1.0.0"),
            **attributes,
        }
        data = b"\x80\x02" + record("Metadata", attributes_of(**made)) + b"."
        (self.folder / ".metadata").write_bytes(data)
        return self.folder

    def described(self, name: str, shape: Sequence[int]) -> bytes:
        """A TensorStorageMetadata."""
        layout = b"ctorch.serialization\n_get_layout\n" + body(("torch.strided",)) + b"R"
        dtype = f"ctorch\n{self.dtypes[name]}\n".encode()
        properties = record("TensorProperties", b"(" + dtype + layout + b"\x89K\x00\x89t")
        chunks = b"".join(
            record("ChunkStorageMetadata", attributes_of(offsets=size(item.offsets), sizes=size(item.sizes)))
            for item in self.items
            if item.name == name and item.offsets is not None
        )
        held = attributes_of(properties=properties, size=size(shape), chunks=b"](" + chunks + b"e")
        return record("TensorStorageMetadata", held)

    @staticmethod
    def index(item: Item) -> bytes:
        """A MetadataIndex."""
        offset = b"N" if item.offsets is None else size(item.offsets)
        return record("MetadataIndex", attributes_of(fqn=body(item.name), offset=offset, index=b"K\x00"))

    @staticmethod
    def info(item: Item) -> bytes:
        """A _StorageInfo."""
        values = {"relative_path": item.file, "offset": item.begin, "length": item.length, **item.more}
        held = attributes_of(**{name: body(value) for name, value in values.items()})
        return record("_StorageInfo", held, "filesystem")


def record(name: str, state: bytes, module: str = "metadata") -> bytes:
    """Opcodes that push an object of torch.distributed.checkpoint."""
    return f"ctorch.distributed.checkpoint.{module}\n{name}\n)\x81".encode("latin-1") + state + b"b"


def attributes_of(**values: bytes) -> bytes:
    """Opcodes that push the attributes of an object."""
    return pairs((body(name), value) for name, value in values.items())


def pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Opcodes that push a dict."""
    return b"}(" + b"".join(key + value for key, value in items) + b"u"


def size(values: Any) -> bytes:
    """Opcodes that push a torch.Size."""
    return b"ctorch\nSize\n" + body((values,)) + b"R"


def save(folder: Path, values: NDArray[Any], cuts: Iterable[Cut], columns_first: bool = False) -> Path:
    """A directory with `.metadata` and the pieces of one matrix, `z.weight`, and a vector, `a.bias`."""
    made = Distributed(folder).add("z.weight", values, cuts, columns_first)
    bias = np.zeros((3, 1), np.float32)
    made.add("a.bias", bias, [(slice(None), slice(None))])
    made.shapes["a.bias"] = made.items[-1].sizes = (3,)
    made.items[-1].offsets = (0,)
    return made.write()


def shards(
    folder: Path, values: NDArray[Any], cuts: Iterable[Cut], name: str = "z.weight", part: str = "1-of-00001"
) -> Path:
    """A directory with a shard for each piece of one matrix; the first one holds a vector too."""
    for number, (offsets, piece) in enumerate(cut(values, cuts), 1):
        held: dict[str, Any] = {name: np.ascontiguousarray(piece)}
        places: dict[str, Sequence[int]] = {name: offsets}
        if number == 1:
            held["a.bias"], places["a.bias"] = np.zeros(3, np.float32), (0,)
        path = folder / f"shard-{number:05d}-model-0000{part}.safetensors"
        path.write_bytes(safetensors_bytes(held, sharding_info(places)))
    return folder


def sharding_info(places: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """The metadata of a shard."""
    info = {name: {"saved_offsets": list(offsets)} for name, offsets in places.items()}
    return {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(info)}


def by_torch(folder: Path, tensors: dict[str, tuple[NDArray[Any], list[Cut]]], writer: Any) -> None:
    """Have torch save these matrices, cut over as many processes as there are cuts, all in this process."""
    import torch
    from torch.distributed.checkpoint.default_planner import (
        DefaultSavePlanner,
        create_default_global_save_plan,
    )
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
    from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

    class Planner(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> Any:
            values, _ = tensors[write_item.index.fqn]
            chunk = write_item.tensor_data.chunk
            row, column = chunk.offsets
            piece = values[row : row + chunk.sizes[0], column : column + chunk.sizes[1]]
            return torch.from_numpy(np.ascontiguousarray(piece))

    plans: list[list[Any]] = [[] for _ in range(max(len(cuts) for _, cuts in tensors.values()))]
    for name, (values, cuts) in tensors.items():
        properties = TensorProperties(dtype=torch.from_numpy(values[:1]).dtype)
        for rank, (offsets, piece) in enumerate(cut(values, cuts)):
            chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(piece.shape))
            data = TensorWriteData(chunk, properties, torch.Size(values.shape))
            index = MetadataIndex(name, offsets)
            plans[rank].append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    folder.mkdir(parents=True, exist_ok=True)
    made, metadata = create_default_global_save_plan([SavePlan(items) for items in plans])
    writer.set_up_storage_writer(True)
    local = [writer.prepare_local_plan(plan) for plan in made]
    results = [writer.write_data(plan, Planner()).wait() for plan in writer.prepare_global_plan(local)]
    writer.finish(metadata, results)
