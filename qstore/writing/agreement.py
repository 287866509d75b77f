"""Are rows that an unfinished build has done still those of its source? Block by block, by checksums."""

from __future__ import annotations

from array import array
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from ..keys.packed import KeyKind
from ..keys.stream import KeyStream
from .encoder import Encoder, ReadRows

__all__ = ["first_other_block", "first_other_keys"]


def first_other_block(
    encoder: Encoder,
    read: ReadRows,
    checksums: array[int],
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    block_rows: int,
) -> int | None:
    """Number of the first block that `read` gives otherwise, quantized again; None where none is.

    Parameters
    ----------
    encoder : Encoder
    read : callable
        Gives rows, numbered from 0.
    checksums : array of uint32
        Of the codes and the scales of each whole block, one after the other.
    codes, scales : ndarray
        Those of the rows behind the last whole block.
    block_rows : int
    """
    blocks = len(checksums) // 2
    with closing(encoder.blocks(read, 0, blocks * block_rows, 0)) as given:
        for number, (_, record) in enumerate(given):
            if (record.codes_crc, record.scales_crc) != (checksums[2 * number], checksums[2 * number + 1]):
                return number
    given_codes, given_scales = np.empty_like(codes), np.empty_like(scales)
    encoder.quantize(read, blocks * block_rows, given_codes, given_scales, blocks * block_rows)
    same = np.array_equal(given_codes, codes) and np.array_equal(given_scales, scales)
    return None if same else blocks


def first_other_keys(
    keys: KeyStream, kind: KeyKind | None, checksums: array[int], rows: int, block_rows: int
) -> int | None:
    """Number of the first block whose keys are others; None where none is.

    The keys of the `rows` rows, or of the blocks before that one, have then been taken from `keys`.
    """
    for number, checksum in enumerate(checksums):
        block = keys.take(min(block_rows, rows - number * block_rows))
        if block.kind != kind or block.crc32() != checksum:
            keys.give_back(block)
            return number
    return None
