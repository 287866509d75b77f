"""The formats that can be written, and which one is meant: by its name, or by the end of the file's."""

from __future__ import annotations

import os

from ..errors import ExportError
from ..system.options import shown
from .base import Format
from .npy import NpyFormat
from .parquet import ParquetFormat
from .safetensors import SafetensorsCodes, SafetensorsFormat
from .torch_zip import TorchFormat
from .word2vec import Word2vecBinary, Word2vecText

__all__ = ["FORMATS", "choose_format"]

FORMATS: tuple[Format, ...] = (
    NpyFormat(),
    SafetensorsFormat(),
    Word2vecText(),
    Word2vecBinary(),
    ParquetFormat(),
    TorchFormat(),
)

_CODES = SafetensorsCodes()


def choose_format(path: str, name: str | None, dtype: str, codes: bool, keys: bool) -> Format:
    """The format to write.

    Parameters
    ----------
    path, name, dtype
        Output, format (None: the output's name tells) and type of values asked for.
    codes, keys : bool
        Whether codes and scales are wanted instead of values, and whether keys are given.

    Raises
    ------
    ExportError
        No such format, or it cannot hold what is asked for.
    """
    chosen = _named(name) if name is not None else _by_suffix(path)
    if codes:
        if chosen.name != _CODES.name or dtype != "float32":
            raise ExportError(
                f"codes can only be exported to {_CODES.name}, without a dtype: "
                f"expected codes=False (no --codes) for {chosen.name} of {dtype}"
            )
        chosen = _CODES
    if not isinstance(dtype, str) or dtype not in chosen.dtypes:
        raise ExportError(f"{chosen.name} holds {' or '.join(chosen.dtypes)}, found dtype {shown(dtype)}")
    if keys and not chosen.has_keys:
        holders = ", ".join(known.name for known in FORMATS if known.has_keys)
        raise ExportError(f"{chosen.name} has no place for keys: leave keys out, or choose {holders}")
    return chosen


def _named(name: str) -> Format:
    for known in FORMATS:
        if isinstance(name, str) and known.name == name:
            return known
    raise ExportError(
        f"format is {shown(name)}, expected one of {', '.join(known.name for known in FORMATS)}"
    )


def _by_suffix(path: str) -> Format:
    for known in FORMATS:
        if path.lower().endswith(known.suffixes):
            return known
    name = os.path.basename(path)
    names = ", ".join(f"{' '.join(known.suffixes)} ({known.name})" for known in FORMATS)
    csv = ""
    if name.lower().endswith(".csv"):
        csv = f"; CSV is written by qstore get STORE : --format csv -o {name}"
    raise ExportError(
        f"the name {name} tells no format: expected one that ends with {names}; "
        f"or say it with format= (--format){csv}"
    )
