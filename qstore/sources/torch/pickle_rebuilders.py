"""What torch's own pickler calls to rebuild tensors, as plain descriptions; torch is not needed.

The functions stand in `torch/_utils.py` and `torch/_tensor.py` (``_rebuild_tensor_v2`` and so on). Every
argument of theirs is honoured where it can change a value, and what cannot be is an :class:`OpaqueTensor`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ...errors import SourceError
from ..checks import shortened
from .restricted_pickle import Function, Opaque, Pairs, PickleRefused
from .types import DTYPES, SCHEMES, STORAGES, OpaqueTensor, Quantizer, Storage, Tensor

__all__ = ["NAMES", "storage_of"]

_LARGEST = 1 << 63
_MOST_DIMENSIONS = 64

# Attributes of a tensor that write over its values where torch sets them.
_OVERWRITING = ("data", "real", "imag", "__class__", "__dict__")
# The same long dict may stand in a million calls.
_MOST_ATTRIBUTES = 100
_MOST_SHOWN = 40


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


# Values can be nested a million deep: their types may go into messages, their texts may not.


def storage_of(key: Any) -> Storage | Opaque:
    """The storage that a persistent id stands for; opaque where its type is not known."""
    match key:
        case ("storage", Opaque() as storage_type, str(), _, int()):
            return storage_type
        case ("storage", _StorageType(dtype), str(name), _, int(count)) if 0 <= count < _LARGEST:
            return Storage(name, dtype, count * (DTYPES[dtype] if dtype else 1))
    raise PickleRefused(
        "its pickle has a persistent id of another kind: expected ('storage', type, key, location, size)"
    )


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and len(values) <= _MOST_DIMENSIONS and all(map(_is_size, values))


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _wrong_arguments(arguments: tuple[Any, ...]) -> PickleRefused:
    found = ", ".join(type(argument).__name__ for argument in arguments[:8])
    return PickleRefused(f"its pickle rebuilds something from other arguments than torch's: found ({found})")


# ---------------------------------------------------------------- views of storages


def _view(storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None) -> Tensor | OpaqueTensor:
    well_formed = (
        isinstance(storage, (Storage, Opaque))
        and _is_size(offset)
        and _are_sizes(shape)
        and _are_sizes(strides)
        and len(shape) == len(strides)
    )
    unknown = storage if isinstance(storage, Opaque) else dtype
    if well_formed and isinstance(unknown, Opaque):
        return OpaqueTensor("of a type of its own", unknown.name, shape, "its values as torch.float32")
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


def _rebuild(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor:
    """The view; arguments are a storage, an offset, a shape, strides, what gradients need, and marks."""
    if len(arguments) not in (4, 6, 7):
        raise _wrong_arguments(arguments)
    _check_gradients(arguments, *arguments[4:6])
    return _marked(_view(*arguments[:4]), arguments, *arguments[6:])


def _rebuild_typed(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], (_Dtype, Opaque)):
        raise _wrong_arguments(arguments)
    _check_gradients(arguments, *arguments[4:6])
    storage, offset, shape, strides = arguments[:4]
    return _marked(_view(storage, offset, shape, strides, arguments[6]), arguments, *arguments[7:])


def _check_gradients(arguments: tuple[Any, ...], requires_grad: Any = False, hooks: Any = None) -> None:
    """Neither changes a value: hooks are for gradients."""
    if type(requires_grad) is not bool or not isinstance(hooks, (Pairs, type(None))):
        raise _wrong_arguments(arguments)


def _marked(
    tensor: Tensor | OpaqueTensor, arguments: tuple[Any, ...], marks: Any = None
) -> Tensor | OpaqueTensor:
    """The view, with the bits that torch keeps beside it. Their being there sets them, whatever they hold."""
    if not isinstance(marks, (Pairs, type(None))) or (marks and len(marks.items) > _MOST_ATTRIBUTES):
        raise _wrong_arguments(arguments)
    for mark, value in marks.items if marks else ():
        if isinstance(tensor, Tensor) and value is True:
            if mark == "neg" and tensor.dtype in ("float16", "float32", "float64"):
                tensor = replace(tensor, negated=True)
                continue
            if tensor.dtype.startswith("complex") and mark in ("neg", "conj"):
                continue  # complex values cannot be built from anyway
        word = repr(mark[:_MOST_SHOWN]) if isinstance(mark, str) else "that is no text"
        tensor = _opaque(tensor, f"with the mark {word}", "tensor.resolve_conj().resolve_neg()")
    return tensor


def _opaque(tensor: Tensor | OpaqueTensor, kind: str, remedy: str) -> OpaqueTensor:
    return OpaqueTensor(kind, tensor.dtype, tensor.shape, remedy)


def _rebuild_quantized(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor:
    if len(arguments) != 7:
        raise _wrong_arguments(arguments)
    _check_gradients(arguments, *arguments[5:7])
    view = _view(*arguments[:4])
    match view, arguments[4]:
        case Tensor(), (_Scheme(name), _, _):  # one scale and one zero point
            return replace(view, quantizer=Quantizer(name))
        case Tensor(), (_Scheme(name), scales, zero_points, axis):
            return replace(view, quantizer=Quantizer(name, scales, zero_points, axis))
        case Tensor(), (Opaque(name), *_):
            return _opaque(view, name, "tensor.dequantize()")
        case OpaqueTensor(), _:
            return _opaque(view, view.kind, "tensor.dequantize()")
    raise _wrong_arguments(arguments)


# ---------------------------------------------------------------- tensors that are no views


def _rebuild_sparse(arguments: tuple[Any, ...]) -> OpaqueTensor:
    """Arguments are a layout and indices, values, a shape and, in some, a flag."""
    match arguments:
        case (str(layout), tuple(parts)) if len(parts) in (3, 4):
            tensors = [part for part in parts if isinstance(part, (Tensor, OpaqueTensor))]
            shapes = [part for part in parts if _are_sizes(part)]
            if tensors and len(shapes) == 1:
                kind = layout.removeprefix("torch.")[:_MOST_SHOWN]
                return OpaqueTensor(kind, tensors[-1].dtype, shapes[0], "tensor.to_dense()")
    raise _wrong_arguments(arguments)


def _rebuild_meta(arguments: tuple[Any, ...]) -> OpaqueTensor:
    match arguments:
        case (_Dtype(name) | Opaque(name), shape, _, bool()) if _are_sizes(shape):
            return OpaqueTensor("meta", name, shape, "one that has values")
    raise _wrong_arguments(arguments)


def _rebuild_nested(arguments: tuple[Any, ...]) -> OpaqueTensor:
    match arguments:
        case (Tensor() | OpaqueTensor() as buffer, _, _, _):
            return OpaqueTensor("nested", buffer.dtype, (), "tensor.to_padded_tensor(0.0)")
    raise _wrong_arguments(arguments)


def _rebuild_wrapper(arguments: tuple[Any, ...]) -> OpaqueTensor:
    match arguments:
        case (Opaque(kind), _Dtype(name) | Opaque(name), shape, *rest) if len(rest) == 5 and _are_sizes(
            shape
        ):
            return OpaqueTensor(kind, name, shape, _PLAIN)
    raise _wrong_arguments(arguments)


_PLAIN = "tensor.as_subclass(torch.Tensor), or tensor.dequantize() where its class quantizes,"


# ---------------------------------------------------------------- tensors in other things


def _rebuild_on_device(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor:
    """A tensor of a device that has no storages: saved from the processor's memory, in its own type."""
    match arguments:
        case (Tensor() as tensor, _Dtype(name), _, bool()) if tensor.dtype == name:
            return tensor
        case (OpaqueTensor() as tensor, _, _, bool()):
            return tensor
    raise _wrong_arguments(arguments)


def _rebuild_from_array(arguments: tuple[Any, ...]) -> Opaque:
    """The same of torch before 2.4: what it holds is an array of NumPy."""
    match arguments:
        case (Opaque() as array, _, _, bool()):
            return array
    raise _wrong_arguments(arguments)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor | Opaque:
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], (Tensor, OpaqueTensor, Opaque)):
        raise _wrong_arguments(arguments)
    _check_gradients(arguments, *arguments[1:3])
    return _with_attributes(arguments[0], arguments, *arguments[3:])


def _with_attributes(
    tensor: Tensor | OpaqueTensor | Opaque, arguments: tuple[Any, ...], state: Any = None
) -> Tensor | OpaqueTensor | Opaque:
    """A tensor with attributes of its own: a dict of them, or a pair of dicts."""
    dicts = state if type(state) is tuple and len(state) == 2 else (state,)
    if not all(isinstance(one, (Pairs, type(None))) for one in dicts):
        raise _wrong_arguments(arguments)
    names = [name for one in dicts if one for name, _ in one.items[: _MOST_ATTRIBUTES + 1]]
    plain = len(names) <= _MOST_ATTRIBUTES and all(
        isinstance(name, str) and name not in _OVERWRITING for name in names
    )
    if plain or isinstance(tensor, Opaque):
        return tensor
    return _opaque(tensor, "with attributes in the place of its own", "tensor.detach().clone()")


def _rebuild_subclass(arguments: tuple[Any, ...]) -> Tensor | OpaqueTensor | Opaque:
    """A tensor of a class of its own, or with attributes; arguments are a call, a class, and a state."""
    match arguments:
        case (Opaque() as function, made, tuple(), _):
            return made if isinstance(made, Opaque) else function
        case (Function(call), made, tuple(inner), state) if call in _TENSORS:
            tensor: Tensor | OpaqueTensor = call(inner)
            if isinstance(made, Opaque):
                parts = _torchao_parts(tensor.shape, state) if call is _rebuild_wrapper else {}
                return replace(_opaque(tensor, made.name, _PLAIN), parts=parts)
            if isinstance(made, _TensorType):
                return _with_attributes(tensor, arguments, state)
    raise _wrong_arguments(arguments)


def _torchao_parts(shape: tuple[int, ...], state: Any) -> dict[str, Tensor]:
    """What torchao keeps of a tensor with a code for each value; empty where it is not that."""
    items = state.items[: _MOST_ATTRIBUTES + 1] if isinstance(state, Pairs) else ()
    held = {name: value for name, value in items if isinstance(name, str)}
    found = {name: held[name] for name in ("qdata", "scale", "zero_point") if held.get(name) is not None}
    whole = "qdata" in found and "scale" in found and all(isinstance(one, Tensor) for one in found.values())
    return found if whole and len(items) <= _MOST_ATTRIBUTES and found["qdata"].shape == shape else {}


# ---------------------------------------------------------------- containers and marks


def _ordered_dict(arguments: tuple[Any, ...]) -> Pairs:
    if arguments:
        raise _wrong_arguments(arguments)
    return Pairs()


def _default_dict(arguments: tuple[Any, ...]) -> Pairs:
    if len(arguments) > 1:
        raise _wrong_arguments(arguments)
    return Pairs()


def _size(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) == 1 and isinstance(arguments[0], tuple):
        return arguments[0]
    raise _wrong_arguments(arguments)


def _layout(arguments: tuple[Any, ...]) -> str:
    if len(arguments) == 1 and isinstance(arguments[0], str):
        return arguments[0]
    raise _wrong_arguments(arguments)


def _plain(arguments: tuple[Any, ...]) -> bytes:
    """A device, or bytes: plain data, whatever it says, that holds no tensor."""
    return b""


# These call nothing of what they are given.
_TENSORS = (
    _rebuild,
    _rebuild_typed,
    _rebuild_quantized,
    _rebuild_sparse,
    _rebuild_meta,
    _rebuild_nested,
    _rebuild_wrapper,
)

NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("collections", "defaultdict"): Function(_default_dict),
    ("_codecs", "encode"): Function(_plain),
    ("__builtin__", "bytes"): Function(_plain),
    ("torch", "Size"): Function(_size),
    ("torch", "device"): Function(_plain),
    ("torch.serialization", "_get_layout"): Function(_layout),
    ("torch", "Tensor"): _TensorType(),
    ("torch.nn.parameter", "Parameter"): _TensorType(),
    ("torch._tensor", "_rebuild_from_type"): Function(_rebuild_subclass),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_rebuild_subclass),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_rebuild_typed),
    ("torch._utils", "_rebuild_qtensor"): Function(_rebuild_quantized),
    ("torch._utils", "_rebuild_sparse_tensor"): Function(_rebuild_sparse),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): Function(_rebuild_meta),
    ("torch._utils", "_rebuild_nested_tensor"): Function(_rebuild_nested),
    ("torch._utils", "_rebuild_wrapper_subclass"): Function(_rebuild_wrapper),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): Function(_rebuild_on_device),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): Function(_rebuild_from_array),
    ("torch._utils", "_rebuild_xla_tensor"): Function(_rebuild_from_array),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", name): _StorageType(dtype) for name, dtype in STORAGES.items()},
    **{("torch", name): _Dtype(name) for name in DTYPES},
    **{("torch", name): _Scheme(name) for name in SCHEMES},
    # What makes arrays and numbers of NumPy has names that tell little.
    **{
        (f"numpy.{core}.{module}", function): Opaque(f"numpy.{name}")
        for core in ("core", "_core")
        for module, function, name in (
            ("multiarray", "_reconstruct", "ndarray"),
            ("numeric", "_frombuffer", "ndarray"),
            ("multiarray", "scalar", "generic"),
        )
    },
}
