"""The file of a store, to read rows from that are not mapped: because of the memory, or of the disk."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from ..engine.file_rows import WINDOW_BYTES, Piece, Window, read_rows
from ..engine.kernels import RowScales
from ..engine.quantization import scales_at

__all__ = ["Held", "RowFile"]

_SCALE_BYTES = 8


class Held:
    """An open file, and what of it may be read through a map: given back when nobody uses it any more.

    Parameters
    ----------
    fd : int
        It is this object's from now on.
    size : int
        Bytes of the file.
    scales : range
        The bytes of the scales: as much of them as may be is read through the map.
    left : ndarray of int64, shape (1,), or None
        How many windows may still be mapped; None where nothing is.
    """

    def __init__(self, fd: int, size: int, scales: range, left: NDArray[np.int64] | None) -> None:
        self.fd = fd
        self.left = left
        self.taken = np.zeros(0 if left is None else size // WINDOW_BYTES + 1, np.uint8)
        wanted = self.taken[scales.start // WINDOW_BYTES : -(-scales.stop // WINDOW_BYTES)]
        if left is not None:  # each of these is touched more often than any other
            count = max(0, min(wanted.size, int(left[0])))
            wanted[:count] = 1
            left -= count
        if hasattr(os, "posix_fadvise"):  # a page that has gone since it was asked for is read alone
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)

    def window(self, mapped: NDArray[np.uint8]) -> Window | None:
        """What may be read through this map of the file."""
        return None if self.left is None else Window(mapped, self.taken, self.left)

    def __del__(self) -> None:
        os.close(self.fd)
        if self.left is not None:
            self.left += np.count_nonzero(self.taken)


class RowFile:
    """Rows of one file. Any number of threads may read them, and one that does may outlive the store.

    Parameters
    ----------
    held : Held
    rows, dim : int
    codes_offset : int
        Where the codes begin.
    scales : int, ndarray of float64, shape (N,), or PackedScales
        Where the scales begin, or all of them.
    mapped : ndarray of uint8
        A map of the file.
    """

    def __init__(
        self,
        held: Held,
        rows: int,
        dim: int,
        codes_offset: int,
        scales: int | RowScales,
        mapped: NDArray[np.uint8],
    ) -> None:
        self._held = held
        self._rows, self._dim = rows, dim
        self._codes_offset, self._scales = codes_offset, scales
        self._window = held.window(mapped)

    def read(
        self,
        rows: NDArray[np.int64],
        first_column: int,
        codes: NDArray[np.uint8],
        scales: NDArray[np.float64],
        mapped: bool,
    ) -> int:
        """Fill `codes`, of shape (n, columns), and `scales`, of shape (n,): numbers from -N to before N.

        Parameters
        ----------
        mapped : bool
            Whether to use the map as far as it may be used.

        Returns
        -------
        int
            As :func:`.read_rows`.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        one = Piece(self._codes_offset + first_column, self._dim, codes.shape[1], codes)
        window = self._window if mapped else None
        if not isinstance(self._scales, int):
            scales[...] = scales_at(self._scales, rows)
            return read_rows(self._held.fd, rows, self._rows, (one,), window)
        return read_rows(self._held.fd, rows, self._rows, (one, _scale_piece(self._scales, scales)), window)

    def read_values(
        self, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and scales of single values, of shape (n,): rows and columns counted from 0."""
        codes, scales = np.empty(rows.size, np.uint8), np.empty(rows.size)
        places = rows * self._dim + columns
        one = Piece(self._codes_offset, 1, 1, codes[:, None])
        read_rows(self._held.fd, places, self._rows * self._dim, (one,))
        if isinstance(self._scales, int):
            read_rows(self._held.fd, rows, self._rows, (_scale_piece(self._scales, scales),))
        else:
            scales[...] = scales_at(self._scales, rows)
        return codes, scales

    def ask(self, rows: NDArray[np.int64]) -> None:
        """Have these rows read, numbers from -N to before N, without waiting."""
        pieces = [Piece(self._codes_offset, self._dim, self._dim, None)]
        if isinstance(self._scales, int):
            pieces.append(Piece(self._scales, _SCALE_BYTES, _SCALE_BYTES, None))
        read_rows(self._held.fd, rows, self._rows, tuple(pieces))


def _scale_piece(offset: int, scales: NDArray[np.float64]) -> Piece:
    return Piece(offset, _SCALE_BYTES, _SCALE_BYTES, scales.view(np.uint8).reshape(-1, _SCALE_BYTES))
