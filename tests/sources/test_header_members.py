"""Whatever a header says about values is honoured or refused, also what its format does not know."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import refused, same

from qstore.sources import TensorInfo, list_tensors, open_source

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3) - 5


def safetensors(path: Path, *members: dict[str, Any]) -> Path:
    header, data = {}, b""
    for number, more in enumerate(members):
        place = [len(data), len(data) + VALUES.nbytes]
        header[f"w{number}"] = {"dtype": "F32", "shape": [4, 3], "data_offsets": place, **more}
        data += VALUES.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("more", [{"scale": 2.0}, {"strides": [1, 4]}, {"negated": True}, {"": None}])
def test_members_that_safetensors_lacks(tmp_path: Path, more: dict[str, Any]) -> None:
    """The library passes over them; a tensor that needs one would be read wrong."""
    path = safetensors(tmp_path / "m.safetensors", {}, more)
    word = f"float32 with '{next(iter(more))}'"
    assert list_tensors(path) == [TensorInfo("w0", (4, 3), "float32"), TensorInfo("w1", (4, 3), word)]
    with open_source(path) as source:
        assert source.name == "w0"
        assert same(np.concatenate(list(source.chunks())), VALUES)
    refused(path, f"holds {word}: expected one of float16", tensor="w1")


def gguf(path: Path, *values: bytes) -> Path:
    """One matrix behind these values of metadata, aligned to 64 bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + b"".join(values)
    head += text(b"w") + struct.pack("<IQQIQ", 2, 3, 4, 0, 0)
    path.write_bytes(head + bytes(-len(head) % 64) + VALUES.tobytes())
    return path


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


def test_alignment_of_another_type(tmp_path: Path) -> None:
    key = text(b"general.alignment")
    right = gguf(tmp_path / "m.gguf", key + struct.pack("<II", 4, 64))
    with open_source(right) as source:
        assert same(np.concatenate(list(source.chunks())), VALUES)
    for kind, value in ((10, struct.pack("<Q", 64)), (5, struct.pack("<i", 64)), (8, text(b"64"))):
        wrong = gguf(tmp_path / "m.gguf", key + struct.pack("<I", kind) + value)
        refused(wrong, f"general.alignment expected type 4, found {kind}")


@pytest.mark.parametrize("descr", ["('<f4', (3,))", "[('a', '<f4')]", "'<f4', 'strides': (1, 4)"])
def test_npy_headers_that_say_more(tmp_path: Path, descr: str) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': (4, 3)}}".ljust(117).encode() + b"\n"
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + VALUES.tobytes() * 3)
    refused(path, "x.npy", "expected one of float16" if "strides" not in descr else "correct keys")
