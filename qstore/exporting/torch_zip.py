"""A torch state dict, written without torch: a zip of a small pickle and the values as they are.

What ``torch.save({name: tensor}, path)`` makes since torch 1.6. The pickle is put together by hand from
nine opcodes, so that neither torch nor the whole tensor need be in memory.
"""

from __future__ import annotations

from pickle import encode_long
from typing import TYPE_CHECKING, BinaryIO

from .base import Format
from .selection import Selection

if TYPE_CHECKING:
    from zipfile import ZipInfo

__all__ = ["TorchFormat"]

_STORAGES = {"float16": "HalfStorage", "float32": "FloatStorage", "float64": "DoubleStorage"}

# torch.load(mmap=True) makes tensors of the file's pages: values begin where torch.save puts them.
_ALIGNMENT = 64


class TorchFormat(Format):
    """The values as one tensor of the store's tensor name, or ``weight``."""

    name = "torch"
    suffixes = (".pt", ".pth")

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Members of the zip one after the other, none compressed; see :meth:`Format.write`."""
        from zipfile import ZipFile  # 5 ms to import

        with ZipFile(file, "w") as archive:
            archive.writestr(_member("data.pkl"), _pickled(selection))
            archive.writestr(_member("byteorder"), b"little")
            data = _aligned(_member("data/0"), file.tell())
            # Checksum and sizes are put into the member's header when the last block is there.
            with archive.open(data, "w", force_zip64=True) as member:
                for _, block in selection.blocks():
                    member.write(block.data)
            archive.writestr(_member("version"), b"3\n")


def _member(name: str) -> ZipInfo:
    from zipfile import ZipInfo

    # Without a time of its own a member is of 1980: the same store gives the same bytes.
    return ZipInfo(f"archive/{name}")


def _aligned(member: ZipInfo, position: int) -> ZipInfo:
    """Pad the header of a member at `position`, so that its data begins at a multiple of 64 bytes."""
    # 30 fixed bytes, the name, 20 bytes of 64-bit sizes, 4 of the padding's own head.
    unpadded = position + 30 + len(member.filename) + 20 + 4
    padding = -unpadded % _ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    return member


def _pickled(selection: Selection) -> bytes:
    """``{name: tensor}`` in protocol 2, the tensor a call of ``torch._utils._rebuild_tensor_v2``."""
    rows, dim = selection.shape
    storage = _tuple(
        _text("storage"),
        _global("torch", _STORAGES[selection.dtype.name]),
        _text("0"),
        _text("cpu"),
        _integer(rows * dim),
    )
    no_hooks = _global("collections", "OrderedDict") + b")R"
    tensor = _global("torch._utils", "_rebuild_tensor_v2") + _tuple(
        storage + b"Q",  # persistent id: the storage is found by this tuple
        _integer(0),
        _tuple(_integer(rows), _integer(dim)),
        _tuple(_integer(dim), _integer(1)),
        b"\x89",  # False: no gradient
        no_hooks,
    )
    return b"\x80\x02}" + _text(selection.tensor) + tensor + b"Rs."


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _integer(number: int) -> bytes:
    encoded = encode_long(number)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"
