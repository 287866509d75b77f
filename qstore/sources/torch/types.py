"""The element types of torch, and tensors as a checkpoint describes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["DTYPES", "SCHEMES", "STORAGES", "OpaqueTensor", "Quantizer", "Storage", "Tensor"]

DTYPES = {  # name in torch: bytes of an item
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "quint8": 1,
    "qint8": 1,
    "qint32": 4,
}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QUInt8Storage": "quint8",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
}
SCHEMES = (
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
    "per_channel_affine_float_qparams",
)


@dataclass(frozen=True)
class Storage:
    """A run of bytes that tensors are views of.

    Attributes
    ----------
    key : str
        Name of its member in the archive.
    dtype : str or None
    size : int
        Bytes.
    """

    key: str
    dtype: str | None
    size: int


@dataclass(frozen=True)
class Quantizer:
    """How the items of a quantized tensor are to be read.

    Attributes
    ----------
    scheme : str
        Name of torch's ``qscheme``.
    scales, zero_points : object
        Tensors if there is one a channel.
    axis : object
        The dimension of the channels.
    """

    scheme: str
    scales: Any = None
    zero_points: Any = None
    axis: Any = None


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, which it does not leave.

    Attributes
    ----------
    storage : Storage
    dtype : str
        Name in torch.
    offset : int
        Position of the first item in the storage, in items.
    shape, strides : tuple of int
        Strides in items.
    quantizer : Quantizer or None
    negated : bool
        The values are those of the storage with the other sign: torch's "neg bit".
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    quantizer: Quantizer | None = field(default=None, repr=False)
    negated: bool = False

    @property
    def item_size(self) -> int:
        """Bytes of an item."""
        return DTYPES[self.dtype]


@dataclass(frozen=True)
class OpaqueTensor:
    """A tensor whose values do not lie in the file as plain items.

    Attributes
    ----------
    kind : str
        What it is in place of a plain tensor.
    dtype : str
    shape : tuple of int
        Empty where it is not known.
    remedy : str
        What to save in its place.
    parts : dict of str to Tensor
        Tensors that torchao keeps of one that it has quantized: "qdata", "scale", and "zero_point" in some.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    remedy: str
    parts: dict[str, Tensor] = field(default_factory=dict)
