"""Weights as Keras 3 saves them: in groups `vars`, numbered, where nothing says what a number stands for.

``Embedding.quantize("int8")`` leaves codes of int8 and behind them one scale a row, 127 / max|row|, by which
codes are divided. int4 leaves packed codes of the same type and, without blocks, scales of the same shape;
only the codes themselves tell: in int8 the largest of each row is 127.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.quantization import ZERO_POINT, marker_dtype, to_float64
from ...errors import SourceError
from ..base import Fingerprint, RowSource, TensorInfo
from ..checks import shortened
from ..quantized import QUANTIZED, QuantizedSource
from .safe_file import child_of, element_type_of, named_errors

__all__ = ["KerasTable", "scales_of", "with_tables"]

_VARIABLE = re.compile(r"(?P<group>(?:.*/)?vars)/(?P<number>[0-9]{1,9})", re.DOTALL)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_LARGEST = 127
# What Keras adds to the largest magnitude of a row before it divides by it.
_EPSILON = 1e-7
_REMEDY = "build from the values that Keras makes of it, in chunks: layer(rows) of the model with keras.ops"


class KerasTable(QuantizedSource):
    """Codes and scales of an embedding that Keras has quantized to int8: value = code / scale.

    Parameters
    ----------
    codes : RowSource
        Of int8; closed by :meth:`close`.
    scales : h5py.h5d.DatasetID
        One for each row, of a type of floats.
    where : str
        Starts errors.
    path : str
    closing : callable
        Closes the HDF5 file.
    """

    def __init__(self, codes: RowSource, scales: Any, where: str, path: str, closing: Any) -> None:
        import h5py

        self.name, self.rows, self.dim = codes.name, codes.rows, codes.dim
        self._codes, self._scales, self._where = codes, h5py.Dataset(scales), where
        self._scale_type, self._path, self._closing = element_type_of(scales), path, closing

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Codes and 1 / scale of each row; see :meth:`.QuantizedSource.read_codes`.

        Raises
        ------
        SourceError
            A scale is not positive, or the codes of a row are none that int8 makes with it.
        """
        codes = self._codes.read(start, stop)
        with named_errors(self._path):
            raw: NDArray[Any] = self._scales[start:stop]
        if self._scale_type == "bfloat16":
            raw = raw.view(marker_dtype("bfloat16"))
        scales = to_float64(raw)
        self._check(codes, scales, start)
        return codes.view(np.uint8) ^ np.uint8(ZERO_POINT), 1 / scales

    def _check(self, codes: NDArray[Any], scales: NDArray[np.float64], first: int) -> None:
        bad = ~(np.isfinite(scales) & (scales > 0))
        if bad.any():
            row = int(bad.argmax())
            raise SourceError(
                f"{self._where}: row {first + row} has scale {scales[row]}: expected the positive numbers "
                f"that Keras divides codes by; {_REMEDY}"
            )
        largest = np.maximum(codes.max(axis=1).astype(np.int16), -codes.min(axis=1).astype(np.int16))
        bad = np.abs(largest - (_LARGEST - _EPSILON * scales)) > 1.5
        if bad.any():
            row = int(bad.argmax())
            raise SourceError(
                f"{self._where}: row {first + row} expected codes up to {_LARGEST}, as Keras makes them of "
                f"an embedding in int8, found up to {largest[row]}: it is packed int4, or was quantized in "
                f"another way; {_REMEDY}"
            )

    def fingerprint(self) -> Fingerprint | None:
        """That of the codes, as codes with scales."""
        found = self._codes.fingerprint()
        return found and {**found, "dtype": self.dtype, "scales": "keras"}

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._codes.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._closing()
        self._codes.close()


def with_tables(found: Sequence[TensorInfo]) -> list[TensorInfo]:
    """The same datasets, with embeddings that Keras has quantized as what they are."""
    by_name = {info.name: info for info in found}
    return [
        replace(info, dtype=QUANTIZED, stored="int8 with scales of Keras")
        if info.dtype == "int8" and _fits(info.shape, by_name.get(_behind(info.name)))
        else info
        for info in found
    ]


def scales_of(h5: Any, path: str, name: str, codes: Any) -> Any:
    """The dataset of scales that belongs to int8 codes of Keras; None where these are not Keras's.

    Raises
    ------
    SourceError
        They are Keras's, but not of an embedding in int8.
    """
    import h5py

    found = _VARIABLE.fullmatch(name)
    if found is None or element_type_of(codes) != "int8" or len(codes.shape or ()) != 2:
        return None
    group = h5.id
    for part in found["group"].split("/"):
        group = child_of(group, path, name, part)
    if len(group) < 2:
        return None
    scales = child_of(group, path, name, str(int(found["number"]) + 1))
    shape = scales.shape if isinstance(scales, h5py.h5d.DatasetID) else None
    if shape is None or not _fits(codes.shape, TensorInfo("", shape, element_type_of(scales))):
        beside = "nothing" if shape is None else f"{shape} of {element_type_of(scales)}"
        raise SourceError(
            f"{path}: tensor {shortened(repr(name))} holds int8 codes of Keras: expected behind them the "
            f"scales of an embedding in int8, {codes.shape[:1]} of floats, found {beside} (int4, or a layer "
            f"of another kind); {_REMEDY}"
        )
    return scales


def _behind(name: str) -> str:
    found = _VARIABLE.fullmatch(name)
    return f"{found['group']}/{int(found['number']) + 1}" if found else ""


def _fits(codes: tuple[int, ...], scales: TensorInfo | None) -> bool:
    return len(codes) == 2 and scales is not None and scales.shape == codes[:1] and scales.dtype in _FLOATS
