"""What torch's HuggingFaceStorageWriter adds to a header: where each piece begins in the whole tensor."""

from __future__ import annotations

import os
import re
from typing import Any

from ...errors import SourceError
from ..checks import shortened
from ..containers.json_object import parse_json

__all__ = ["Offsets", "check_whole", "saved_offsets"]

Offsets = dict[str, tuple[int, ...]]

_MEMBER = "DCP_SHARDING_INFO"
# What it calls files of whole tensors; those of pieces begin with "shard-".
_WHOLE = re.compile(r"model-[0-9]{5,}-of-[0-9]{5,}\.safetensors")
_LARGEST = 1 << 63


def saved_offsets(path: str, about: Any, shapes: dict[str, tuple[int, ...]]) -> Offsets | None:
    """Where the tensors of a file begin in whole ones; None where it says nothing of the kind.

    Parameters
    ----------
    path : str
        Starts errors.
    about : object
        The header's `__metadata__`.
    shapes : dict
        Of all tensors of the file.

    Raises
    ------
    SourceError
        It is malformed, or says nothing of one of the tensors.
    """
    text = about.get(_MEMBER) if isinstance(about, dict) else None
    if text is None:
        return None
    said = parse_json(f"{path}: {_MEMBER}", text.encode(errors="replace")) if isinstance(text, str) else {}
    offsets = {}
    for name, shape in shapes.items():
        one = said.get(name)
        found = one.get("saved_offsets") if isinstance(one, dict) else None
        if not isinstance(found, list) or len(found) != len(shape) or not all(map(_is_offset, found)):
            raise SourceError(
                f"{path}: tensor {shortened(repr(name))} of {len(shape)} dimensions expected as many "
                f"saved_offsets in {_MEMBER}, found {shortened(repr(found))}"
            )
        offsets[name] = tuple(found)
    return offsets


def _is_offset(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def check_whole(path: str, offsets: Offsets) -> None:
    """Refuse a file of pieces. Nothing in it tells the first piece from a whole tensor: its name must.

    Raises
    ------
    SourceError
    """
    if _WHOLE.fullmatch(os.path.basename(path)) and not any(any(place) for place in offsets.values()):
        return
    raise SourceError(
        f"{path} holds pieces of tensors, as torch's HuggingFaceStorageWriter saves them on several "
        f"processes: expected the directory with the shards of all of them, under their own names "
        f"(shard-00001-model-00001-of-00001.safetensors …), or what enable_consolidation=True writes; if it "
        f"is all there is, save it again: safetensors.torch.save_file(safetensors.torch.load_file(path), "
        f"new_path)"
    )
