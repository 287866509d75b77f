"""Parquet, through pyarrow: a column ``embedding`` of lists of fixed size; ``key`` where rows have keys."""

from __future__ import annotations

from typing import Any, BinaryIO

from ..errors import MissingExtraError
from .base import Format
from .selection import Selection

__all__ = ["ParquetFormat"]

# A row group is held whole while it is written: 16 MiB as float32.
_ROW_GROUP_VALUES = 1 << 22


class ParquetFormat(Format):
    """A list of numbers in each row."""

    name = "parquet"
    suffixes = (".parquet",)
    has_keys = True

    def write(self, file: BinaryIO, selection: Selection) -> None:
        """Row groups, then the footer; see :meth:`Format.write`."""
        arrow, parquet = _pyarrow()
        lists = arrow.list_(arrow.from_numpy_dtype(selection.store.dtype), selection.shape[1])
        kind = arrow.int64() if selection.key_kind == "integer" else arrow.string()
        fields = [("key", kind)] if selection.keys is not None else []
        schema = arrow.schema([*fields, ("embedding", lists)])
        # Floating-point values hardly repeat or compress, and their minima tell nothing.
        plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        with parquet.ParquetWriter(file, schema, **plain) as writer:
            for first, block in selection.blocks(_ROW_GROUP_VALUES):
                last = first + len(block)
                keys = [] if selection.keys is None else [arrow.array(selection.keys(first, last), kind)]
                values = arrow.FixedSizeListArray.from_arrays(arrow.array(block.reshape(-1)), type=lists)
                writer.write_batch(arrow.record_batch([*keys, values], schema=schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            'Parquet files are written with pyarrow: pip install "qstore[parquet]"'
        ) from None
    return pyarrow, pyarrow.parquet
