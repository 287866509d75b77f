"""Which tensor of a file is meant: by its name, or because only one can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..engine.quantization import ELEMENT_TYPES
from ..errors import SourceError, TensorError
from .base import TensorInfo
from .checks import shortened
from .quantized import QUANTIZED

__all__ = ["is_matrix", "only_matrix", "unknown_tensor"]

_MOST_LISTED = 40
# difflib takes about 25 µs a name; a hostile file can hold millions, or a few of megabytes.
_MOST_COMPARED = 2_000
_LONGEST_COMPARED = 256


def only_matrix(where: str, tensors: Sequence[TensorInfo]) -> TensorInfo:
    """The one 2-D tensor of a supported type; or the only tensor, of which an error of its own says more.

    Raises
    ------
    TensorError
        There are several: all are listed with shape and dtype.
    SourceError
        There is none.
    """
    matrices = [info for info in tensors if is_matrix(info)] if len(tensors) > 1 else tensors
    if len(matrices) == 1:
        return matrices[0]
    if matrices:
        raise TensorError(
            f"{where} holds {len(matrices)} matrices: choose one with tensor= (--tensor NAME):\n"
            f"{_table(matrices)}",
            tuple(info.name for info in matrices),
        )
    found = f"found\n{_table(tensors)}" if tensors else "found no tensors at all"
    raise SourceError(f"{where} holds no matrix: expected a 2-D tensor of numbers, {found}")


def unknown_tensor(where: str, tensor: str, names: Iterable[str]) -> TensorError:
    """The error for a name that is not there: it gives the closest ones, or else the first few."""
    names = list(names)
    closest = _closest(tensor, names)
    if closest:
        hint = f"did you mean {', '.join(_quoted(name) for name in closest)}?"
    elif names:
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        hint = f"it holds {', '.join(_quoted(name) for name in names[:10])}{more}"
    else:
        hint = "it holds no tensors at all"
    return TensorError(f"{where} has no tensor {_quoted(tensor)}: {hint}", closest or tuple(names))


def is_matrix(info: TensorInfo) -> bool:
    """Whether a store can be built from the tensor: 2-D, with columns, of a supported type."""
    return len(info.shape) == 2 and info.shape[1] > 0 and info.dtype in (*ELEMENT_TYPES, QUANTIZED)


def _closest(tensor: str, names: Sequence[str]) -> tuple[str, ...]:
    compared = [name for name in names[:_MOST_COMPARED] if len(name) <= _LONGEST_COMPARED]
    wanted = tensor[:_LONGEST_COMPARED].lower()
    holding = [name for name in compared if wanted and wanted in name.lower()]
    import difflib  # 9 ms to import

    alike = difflib.get_close_matches(tensor[:_LONGEST_COMPARED], compared, n=5)
    return tuple(dict.fromkeys([*alike, *holding]))[:5]


def _quoted(name: str) -> str:
    return shortened(repr(name))


def _table(tensors: Sequence[TensorInfo]) -> str:
    lines = [
        f"  {_quoted(info.name)}  {info.shape}  {shortened(info.stored or info.dtype)}"
        for info in tensors[:_MOST_LISTED]
    ]
    if len(tensors) > _MOST_LISTED:
        lines.append(f"  … and {len(tensors) - _MOST_LISTED} more")
    return "\n".join(lines)
