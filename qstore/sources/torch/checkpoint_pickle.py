"""What the pickle of a torch checkpoint says: its tensors by name, and where each one lies.

The calls that torch's own pickler writes stand in `torch/_utils.py` (``_rebuild_tensor_v2`` and so on).
Here they make plain descriptions; torch is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import SourceError
from ..checks import shortened
from .restricted_pickle import Function, Pairs, PickleRefused, read_pickle
from .types import DTYPES, SCHEMES, STORAGES, Quantizer, Storage, Tensor

__all__ = ["read_tensors"]

_LARGEST = 1 << 63
_MOST_DIMENSIONS = 64
_MOST_DEEP = 100
_MOST_VALUES = 8_000_000
_MOST_NAMES = 200_000
_LONGEST_NAMES = 64 << 20


@dataclass(frozen=True)
class _Dtype:
    name: str


@dataclass(frozen=True)
class _StorageType:
    dtype: str | None
    """None: bytes, whose type the tensor tells."""


@dataclass(frozen=True)
class _Scheme:
    name: str


@dataclass(frozen=True)
class _TensorType:
    """torch.Tensor or a class of it that adds nothing to the values."""


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Tensors of a checkpoint by name; the keys of nested containers are joined by dots.

    Raises
    ------
    SourceError
        The pickle is malformed, has anything but plain data and tensors in it, or a tensor leaves its
        storage.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _named_tensors(read_pickle(data, _NAMES, _storage)):
        if name in tensors:
            raise SourceError(f"the name {shortened(repr(name))} stands for two tensors")
        tensors[name] = tensor
    return tensors


# ---------------------------------------------------------------- names


def _named_tensors(root: Any) -> Iterator[tuple[str, Tensor]]:
    # The same container may stand in many places: ten lists of ten times the one before are 10^10 names.
    values = names = letters = 0
    waiting: list[tuple[str, int, Any]] = [("", 0, root)]
    while waiting:
        name, depth, value = waiting.pop()
        if isinstance(value, Tensor):
            yield name, value
            continue
        members = value.items if isinstance(value, Pairs) else value
        if not isinstance(members, (list, tuple)):
            continue
        values += len(members)
        if depth == _MOST_DEEP or values > _MOST_VALUES:
            raise _too_much(f"{_MOST_DEEP} levels and {_MOST_VALUES} values")
        for key, member in members if isinstance(value, Pairs) else enumerate(members):
            if isinstance(member, (Tensor, Pairs, list, tuple)):
                longer = _joined(name, key)
                names, letters = names + 1, letters + len(longer)
                if names > _MOST_NAMES or letters > _LONGEST_NAMES:
                    raise _too_much(f"{_MOST_NAMES} names of {_LONGEST_NAMES} characters together")
                waiting.append((longer, depth + 1, member))


def _too_much(expected: str) -> SourceError:
    return SourceError(f"it holds containers in containers: expected at most {expected}, found more")


def _joined(name: str, key: Any) -> str:
    if not isinstance(key, (str, int, float, type(None))):
        raise SourceError(f"a tensor has a {type(key).__name__} for a name: expected text or a number")
    return f"{name}.{key}" if name else str(key)


# ---------------------------------------------------------------- what a pickle may ask for
# Values can be nested a million deep: their types may go into messages, their texts may not.


def _storage(key: Any) -> Storage:
    match key:
        case ("storage", _StorageType(dtype), str(name), _, int(count)) if 0 <= count < _LARGEST:
            return Storage(name, dtype, count * (DTYPES[dtype] if dtype else 1))
    raise PickleRefused(
        "its pickle has a persistent id of another kind: expected ('storage', type, key, location, size)"
    )


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and len(values) <= _MOST_DIMENSIONS and all(map(_is_size, values))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> Tensor:
    well_formed = (
        isinstance(storage, Storage)
        and _is_size(offset)
        and _are_sizes(shape)
        and _are_sizes(strides)
        and len(shape) == len(strides)
    )
    word = dtype.name if isinstance(dtype, _Dtype) else getattr(storage, "dtype", None)
    if not well_formed or word is None:
        raise PickleRefused(
            "its pickle rebuilds a tensor from other values than a storage, an offset, a shape and strides"
        )
    tensor = Tensor(storage, word, offset, shape, strides)
    end = 0 if 0 in shape else offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if end * tensor.item_size > storage.size:
        raise SourceError(
            f"a tensor of shape {shortened(str(shape))} leaves its storage: expected at most "
            f"{storage.size} bytes, found {end * tensor.item_size}"
        )
    return tensor


def _rebuild(arguments: tuple[Any, ...]) -> Tensor:
    """The view; arguments are a storage, an offset, a shape, strides, and what gradients need."""
    if len(arguments) not in (4, 6, 7):
        raise _wrong_arguments(arguments)
    return _view(*arguments[:4])


def _rebuild_typed(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], _Dtype):
        raise _wrong_arguments(arguments)
    storage, offset, shape, strides = arguments[:4]
    return _view(storage, offset, shape, strides, arguments[6])


def _rebuild_quantized(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) == 7:
        match arguments[4]:
            case (_Scheme(name), _, _):  # one scale and one zero point
                return replace(_view(*arguments[:4]), quantizer=Quantizer(name))
            case (_Scheme(name), scales, zero_points, axis):
                quantizer = Quantizer(name, scales, zero_points, axis)
                return replace(_view(*arguments[:4]), quantizer=quantizer)
    raise _wrong_arguments(arguments)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor:
    if len(arguments) in (3, 4) and isinstance(arguments[0], Tensor):
        return arguments[0]
    raise _wrong_arguments(arguments)


def _rebuild_with_attributes(arguments: tuple[Any, ...]) -> Tensor:
    match arguments:
        case (Function(call), _TensorType(), tuple(inner), _) if call in (_rebuild, _rebuild_typed):
            rebuilt: Tensor = call(inner)
            return rebuilt
    raise _wrong_arguments(arguments)


def _ordered_dict(arguments: tuple[Any, ...]) -> Pairs:
    if arguments:
        raise _wrong_arguments(arguments)
    return Pairs()


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    raise _wrong_arguments(arguments)


def _nothing(arguments: tuple[Any, ...]) -> None:
    """A device: where a tensor was does not matter here."""


def _wrong_arguments(arguments: tuple[Any, ...]) -> PickleRefused:
    found = ", ".join(type(argument).__name__ for argument in arguments[:8])
    return PickleRefused(f"its pickle rebuilds something from other arguments than torch's: found ({found})")


_NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("torch", "Size"): Function(_size),
    ("torch", "device"): Function(_nothing),
    ("torch", "Tensor"): _TensorType(),
    ("torch.nn.parameter", "Parameter"): _TensorType(),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_rebuild_with_attributes),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_rebuild_typed),
    ("torch._utils", "_rebuild_qtensor"): Function(_rebuild_quantized),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): _Dtype(name) for name in DTYPES},
    **{("torch", name): _Scheme(name) for name in SCHEMES},
}
