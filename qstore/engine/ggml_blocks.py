"""Rows in the quantized blocks of ggml to float32: in C, or in NumPy with the same bits.

What NumPy does here is the specification. It gives what `gguf.quants.dequantize` of the gguf library gives:
the same float32 operations in the same order, each rounded by itself. A value is ``d * q``, or ``d * q + m``
where a type has minima: q a small whole number, d and m those of its group of values. Only the bits of a NaN,
which nothing reads, may be others.

Layout of the blocks: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h. The types whose values
are looked up in long tables (IQ1, IQ2, IQ3) are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels

__all__ = ["BLOCK_TYPES", "unpack", "unpack_blocks"]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

Groups = tuple[NDArray[Any], Floats, Floats | None]
"""Whole numbers (blocks, values); factors and, or None, summands (blocks, groups) of equally long groups."""

# Values that NumPy makes at a time: what comes in between stays in the second-level cache.
_PIECE_VALUES = 1 << 16

_LEVELS_OF_IQ4 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8
)
# Twice the values of E2M1: those with a half become whole.
_LEVELS_OF_FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.int8)


def unpack(block_type: str, blocks: Bytes, out: Floats) -> None:
    """Fill `out` with the values of rows of blocks, on the calling thread; any thread may.

    Parameters
    ----------
    block_type : str
        One of :data:`BLOCK_TYPES`: "Q8_0", "Q4_K" and so on.
    blocks : ndarray of uint8, shape (n, blocks of a row * bytes of a block)
        C-contiguous.
    out : ndarray of float32, shape (n, blocks of a row * values of a block)
        Filled. C-contiguous. Scales that are NaN or infinite give such values.

    Raises
    ------
    ValueError
        A row of either holds no whole number of blocks, or not as many as the other.
    """
    native = kernels.extension()
    (native.unpack_blocks if native is not None else unpack_blocks)(block_type, blocks, out)


def unpack_blocks(block_type: str, blocks: Bytes, out: Floats) -> None:
    """As :func:`unpack`, in NumPy."""
    values, size, groups_of = BLOCK_TYPES[block_type]
    if (blocks.shape[1] % size, blocks.shape[1] // size * values) != (0, out.shape[1]):
        raise ValueError(
            f"rows of {block_type} expected {size} bytes for {values} values, found {blocks.shape[1]} bytes "
            f"for {out.shape[1]} values"
        )
    one_by_one, filled = blocks.reshape(-1, size), out.reshape(-1, values)
    step = _PIECE_VALUES // values
    with np.errstate(all="ignore"):
        for start in range(0, len(one_by_one), step):
            piece = slice(start, start + step)
            q, d, m = groups_of(one_by_one[piece])
            grouped = filled[piece].reshape(*d.shape, -1)
            np.multiply(d[..., None], q.reshape(grouped.shape).astype(np.float32), out=grouped)
            if m is not None:
                grouped += m[..., None]


def _half(blocks: Bytes, at: int) -> Floats:
    """The binary16 at byte `at` of each block, (blocks, 1)."""
    return blocks[:, at : at + 2].view("<f2").astype(np.float32)


def _fields(packed: Bytes, run: int, bits: int) -> Bytes:
    """Fields of some bits: the lowest ones of `run` bytes, then the next ones of these bytes, and so on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields = packed.reshape(len(packed), -1, 1, run) >> shifts & np.uint8((1 << bits) - 1)
    return fields.reshape(len(packed), -1)


def _signed(values: NDArray[np.unsignedinteger[Any]], zero: int) -> NDArray[np.int8]:
    return values.astype(np.int8) - np.int8(zero)


def _q8_0(blocks: Bytes) -> Groups:
    return blocks[:, 2:].view(np.int8), _half(blocks, 0), None


def _q4_0(blocks: Bytes) -> Groups:
    return _signed(_fields(blocks[:, 2:], 16, 4), 8), _half(blocks, 0), None


def _q4_1(blocks: Bytes) -> Groups:
    return _fields(blocks[:, 4:], 16, 4), _half(blocks, 0), _half(blocks, 2)


def _five_bits(blocks: Bytes, at: int) -> Bytes:
    """Numbers whose upper bits come first, 32 of them in 4 bytes."""
    upper = np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little")
    return _fields(blocks[:, at + 4 :], 16, 4) | upper << np.uint8(4)


def _q5_0(blocks: Bytes) -> Groups:
    return _signed(_five_bits(blocks, 2), 16), _half(blocks, 0), None


def _q5_1(blocks: Bytes) -> Groups:
    return _five_bits(blocks, 4), _half(blocks, 0), _half(blocks, 2)


def _q2_k(blocks: Bytes) -> Groups:
    scales, q = blocks[:, :16], _fields(blocks[:, 16:80], 32, 2)
    return q, _half(blocks, 80) * (scales & 15), -(_half(blocks, 82) * (scales >> 4))


def _q3_k(blocks: Bytes) -> Groups:
    missing = _fields(blocks[:, :32], 32, 1) ^ np.uint8(1)
    q = _fields(blocks[:, 32:96], 32, 2).astype(np.int8) - (missing << np.uint8(2)).astype(np.int8)
    scales = _fields(blocks[:, 96:104], 8, 4) | _fields(blocks[:, 104:108], 4, 2) << np.uint8(4)
    return q, _half(blocks, 108) * _signed(scales, 32), None


def _factors_and_minima(blocks: Bytes) -> tuple[Floats, Floats]:
    """Of eight groups, from two halves and twelve bytes: six bits each; two of the last four apart."""
    d, m, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    factors = np.concatenate([d & 63, rest & 15 | d >> 2 & 48], axis=1)
    minima = np.concatenate([m & 63, rest >> 4 | m >> 2 & 48], axis=1)
    return _half(blocks, 0) * factors, -(_half(blocks, 2) * minima)


def _q4_k(blocks: Bytes) -> Groups:
    return _fields(blocks[:, 16:], 32, 4), *_factors_and_minima(blocks)


def _q5_k(blocks: Bytes) -> Groups:
    q = _fields(blocks[:, 48:], 32, 4) | _fields(blocks[:, 16:48], 32, 1) << np.uint8(4)
    return q, *_factors_and_minima(blocks)


def _q6_k(blocks: Bytes) -> Groups:
    q = _fields(blocks[:, :128], 64, 4) | _fields(blocks[:, 128:192], 32, 2) << np.uint8(4)
    return _signed(q, 32), _half(blocks, 208) * blocks[:, 192:208].view(np.int8), None


def _tq1_0(blocks: Bytes) -> Groups:
    """Numbers of three values, five in a byte; bytes that are multiplied wrap around."""

    def trits(packed: Bytes, count: int) -> Bytes:
        powers = np.array([1, 3, 9, 27, 81], np.uint8)[:count, None]
        return (packed[:, None, :] * powers).reshape(len(packed), -1)

    bytes_ = np.concatenate(
        [trits(blocks[:, :32], 5), trits(blocks[:, 32:48], 5), trits(blocks[:, 48:52], 4)], 1
    )
    return _signed(bytes_.astype(np.uint16) * np.uint16(3) >> np.uint16(8), 1), _half(blocks, 52), None


def _tq2_0(blocks: Bytes) -> Groups:
    return _signed(_fields(blocks[:, :64], 32, 2), 1), _half(blocks, 64), None


def _iq4_nl(blocks: Bytes) -> Groups:
    return _LEVELS_OF_IQ4[_fields(blocks[:, 2:], 16, 4)], _half(blocks, 0), None


def _iq4_xs(blocks: Bytes) -> Groups:
    upper = _fields(blocks[:, 2:4], 1, 2)
    scales = _fields(blocks[:, 4:8], 1, 4) | upper << np.uint8(4)
    return _LEVELS_OF_IQ4[_fields(blocks[:, 8:], 16, 4)], _half(blocks, 0) * _signed(scales, 32), None


def _mxfp4(blocks: Bytes) -> Groups:
    exponents = blocks[:, :1].astype(np.uint32)
    # Half of 2^(byte - 127); the two smallest are subnormal.
    bits = np.where(exponents < 2, np.uint32(0x00200000) << exponents, (exponents - 1) << np.uint32(23))
    return _LEVELS_OF_FP4[_fields(blocks[:, 1:], 16, 4)], bits.view(np.float32), None


def _half_of_unsigned_e4m3() -> Floats:
    """By their bytes. The upper bit does not count, but that 0x7F, a NaN elsewhere, is 0."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    values = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    values[127] = 0
    halves: Floats = (values / 2).astype(np.float32)
    return halves


_HALF_OF_UNSIGNED_E4M3 = _half_of_unsigned_e4m3()


def _nvfp4(blocks: Bytes) -> Groups:
    return _LEVELS_OF_FP4[_fields(blocks[:, 4:], 8, 4)], _HALF_OF_UNSIGNED_E4M3[blocks[:, :4]], None


BLOCK_TYPES: dict[str, tuple[int, int, Callable[[Bytes], Groups]]] = {
    "Q4_0": (32, 18, _q4_0),
    "Q4_1": (32, 20, _q4_1),
    "Q5_0": (32, 22, _q5_0),
    "Q5_1": (32, 24, _q5_1),
    "Q8_0": (32, 34, _q8_0),
    "Q2_K": (256, 84, _q2_k),
    "Q3_K": (256, 110, _q3_k),
    "Q4_K": (256, 144, _q4_k),
    "Q5_K": (256, 176, _q5_k),
    "Q6_K": (256, 210, _q6_k),
    "IQ4_NL": (32, 18, _iq4_nl),
    "IQ4_XS": (256, 136, _iq4_xs),
    "TQ1_0": (256, 54, _tq1_0),
    "TQ2_0": (256, 66, _tq2_0),
    "MXFP4": (32, 17, _mxfp4),
    "NVFP4": (64, 36, _nvfp4),
}
"""By name: values in a block, bytes of a block, and what NumPy makes of blocks."""
