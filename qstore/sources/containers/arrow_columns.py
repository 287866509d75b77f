"""Columns of Arrow, in whatever file they lie: lists as rows of a matrix, texts and whole numbers as keys."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Keys
from ..checks import is_utf8, shortened, type_name

__all__ = ["can_be_key", "is_list", "key_values", "matrix", "unused_names", "value_type"]


def is_list(kind: Any) -> bool:
    """Whether it is a type of lists, each a row of a matrix."""
    from pyarrow import types

    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def can_be_key(kind: Any) -> bool:
    """Whether it is a type of keys: strings, bytes without a type, whole numbers, or a dictionary of them."""
    from pyarrow import types

    kind = _plain(kind)
    return bool(_is_text(kind) or _is_bytes(kind) or types.is_integer(kind))


def unused_names(schema: Any) -> tuple[str, ...]:
    """What to say of columns of texts, of which none is taken for keys."""
    names = [repr(field.name) for field in schema if _is_text(_plain(field.type))]
    if not names:
        return ()
    held, first = ("column", "it") if len(names) == 1 else ("columns", "one")
    return (
        f"{held} {shortened(', '.join(names))} of texts left out: to name the rows by {first}, call it "
        f"'key', or give it as keys= (--keys, a text file with a line a row)",
    )


def _plain(kind: Any) -> Any:
    """The type of the values, which a dictionary may hold."""
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    """Bytes without a type: older writers leave out that they are text."""
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def value_type(kind: Any) -> str:
    """Element type in NumPy's words, or Arrow's where NumPy has none."""
    import pyarrow

    if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
        return str(kind)
    return type_name(np.dtype(kind.to_pandas_dtype()))


def matrix(where: str, lists: Any, row: int, dim: int) -> NDArray[Any]:
    """The rows of an array of lists, `row` being the number of the first one."""
    import pyarrow

    if lists.null_count:
        raise SourceError(f"{where}: row {row + _first_null(lists)} is null: expected {dim} numbers")
    if not pyarrow.types.is_fixed_size_list(lists.type):
        widths = np.diff(lists.offsets.to_numpy())
        if (widths != dim).any():
            bad = int(np.argmax(widths != dim))
            raise SourceError(f"{where}: row {row + bad} expected {dim} values, found {widths[bad]}")
    values = lists.flatten()
    if values.null_count:
        bad, column = divmod(_first_null(values), dim)
        raise SourceError(f"{where}: row {row + bad}, column {column} is null: expected a number")
    rows: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return rows


def _first_null(values: Any) -> int:
    return int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))


def key_values(where: str, keys: Any, row: int) -> Keys:
    """The keys of an array, `row` being the number of the first one."""
    import pyarrow

    if pyarrow.types.is_dictionary(keys.type):
        keys = keys.dictionary_decode()
    if not pyarrow.types.is_integer(keys.type):
        texts: list[str | None] = keys.to_pylist()
        return _decoded(where, texts, row) if _is_bytes(keys.type) else texts
    if keys.null_count:
        raise SourceError(
            f"{where}: row {row + _first_null(keys)} is null: expected a key, as whole numbers cannot leave "
            f"a row without one; leave all out with keys=False (--no-keys), or write the column as strings"
        )
    try:
        numbers: NDArray[np.int64] = keys.cast(pyarrow.int64()).to_numpy()
    except pyarrow.ArrowInvalid as error:
        raise SourceError(
            f"{where}: rows {row} and after expected keys of 64 bits with sign: {error}; write the column as "
            f"strings, or leave it out with keys=False (--no-keys)"
        ) from error
    return numbers


def _decoded(where: str, keys: list[Any], row: int) -> list[str | None]:
    try:
        return [None if key is None else key.decode() for key in keys]
    except UnicodeDecodeError as error:
        bad = next(number for number, key in enumerate(keys) if key is not None and not is_utf8(key))
        raise SourceError(
            f"{where}: row {row + bad} is {shortened(repr(keys[bad]))}, bytes that are no UTF-8: expected "
            f"text as a key; leave the column out with keys=False (--no-keys), or write it as strings"
        ) from error
