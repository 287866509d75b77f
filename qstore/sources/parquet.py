"""Parquet files: columns of lists of numbers, each a matrix, read by pyarrow batch after batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, SourceError, TensorError
from .ahead import Ahead
from .base import Fingerprint, Keys, Source, TensorInfo
from .checks import check_matrix, shortened
from .containers.arrow_columns import can_be_key, is_list, key_values, matrix, unused_names, value_type
from .containers.byte_stream import FileBytes
from .containers.parquet_pages import Declined, ListColumn
from .files import RawFile
from .tensor_choice import only_matrix, unknown_tensor

__all__ = ["ParquetFormat", "ParquetRows"]

_MAGIC = b"PAR1"
_OWN_KEYS = "key"
"""Name of the column of keys that an export makes, and that a build takes without being told."""
_BATCH_BYTES = 4 << 20
_MOST_BATCH_ROWS = 1 << 16
_FOOTER_BYTES = 8
# Without a buffer pyarrow holds a whole column of a row group, which can be gigabytes.
_OPTIONS = {"buffer_size": 1 << 20, "pre_buffer": False}

_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
_NOT_READ = (Declined, SourceError, *_FAULTS)


class ParquetFormat:
    """One `.parquet` file; its columns of lists are the matrices."""

    name = "Parquet"
    suffixes: tuple[str, ...] = (".parquet",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a Parquet file."""
        return head.startswith(_MAGIC)

    def tensors(self, path: str) -> list[TensorInfo]:
        """All columns in the order of the file; those of lists with the width of their first row.

        Raises
        ------
        SourceError
        MissingExtraError
            pyarrow is not installed.
        """
        with ExitStack() as stack:
            file = stack.enter_context(RawFile(path))
            with _named_errors(path):
                return _columns(_open(file, stack))

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the rows of one column, with the keys of a column ``key``; see :class:`ParquetRows`."""
        return ParquetRows(path, tensor, keys=_OWN_KEYS if _has_own_keys(path) else None)


class ParquetRows(Source):
    """Rows of a column of lists (of one fixed size, or of any as long as all rows have it).

    For one thread at a time. Memory is that of two batches and a page of the file; with pages below 16 KiB,
    which no common library writes, pyarrow also keeps 4 bytes for each value of a row group.

    Parameters
    ----------
    path : str
    tensor : str, optional
        Name of the column. May be left out where only one holds lists.
    keys : str, optional
        Name of a column of strings or whole numbers, plain or in a dictionary, one key for each row. Bytes
        without a type of their own are keys where they are UTF-8; a null is no key.

    Raises
    ------
    SourceError
        The file is malformed or cut short, or the column is not one of lists of numbers; while iterating
        also where a row is null, holds null, or has another width (the row is named).
    TensorError
        Several columns of lists and no name, or a name that is not there.
    MissingExtraError
        pyarrow is not installed.
    """

    rows: int

    def __init__(self, path: str, tensor: str | None = None, *, keys: str | None = None) -> None:
        self._ahead = Ahead()
        with ExitStack() as on_error:
            self._file = on_error.enter_context(RawFile(path))
            with _named_errors(path):
                self._parquet = _open(self._file, on_error)
                name = only_matrix(path, _columns(self._parquet)).name if tensor is None else tensor
                info = _column(path, self._parquet, name)
                if keys is not None and keys not in self._parquet.schema_arrow.names:
                    raise unknown_tensor(path, keys, self._parquet.schema_arrow.names)
                self._keys = keys
            self.name, self.dtype = name, info.dtype
            self._where = f"{path}: column {shortened(repr(name))}"
            check_matrix(self._where, info.shape, info.dtype)
            self.rows, self.dim = info.shape
            self._footer_crc32 = _footer_crc32(self._file)
            self._closing = on_error.pop_all()
        self.keyed = keys is not None
        self.unused_names = () if self.keyed else unused_names(self._parquet.schema_arrow)

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on, in pieces of a page or about 4 MiB."""
        return (values for _, values in self._pieces(start))

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """Yield the same with as many keys; raises `SourceError` where no column of keys was named."""
        if self._keys is None:
            raise SourceError(f"{self._where} was opened without keys=: name the column that holds them")
        self.check_keys()
        return self._with_keys(start, self._keys)

    def _with_keys(self, start: int, name: str) -> Iterator[tuple[NDArray[Any], Keys]]:
        where = f"{self._file.path}: column {shortened(repr(name))}"
        batches = self._batches(start, name, _MOST_BATCH_ROWS)
        row, keys = next(batches, (start, None))
        for first, values in self._pieces(start):
            done = 0
            while done < len(values) and keys is not None:
                skipped = first + done - row
                part = keys.slice(skipped, len(values) - done)
                if len(part):
                    with _named_errors(self._file.path):
                        found = key_values(where, part, first + done)
                    yield values[done : done + len(part)], found
                    done += len(part)
                else:
                    row, keys = next(batches, (start, None))

    def check_keys(self) -> None:
        """Raise `SourceError` where there are two columns of the name, or it holds what can be no keys."""
        if self._keys is None:
            return
        _column(self._file.path, self._parquet, self._keys)
        kind = self._parquet.schema_arrow.field(self._keys).type
        if not can_be_key(kind):
            raise SourceError(
                f"{self._file.path}: column {shortened(repr(self._keys))} holds {kind}: expected strings or "
                f"whole numbers as keys; leave it out with keys=False (--no-keys), or give others with --keys"
            )

    def _pieces(self, start: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Rows from `start` on with the number of the first: by page as far as that goes, then by batch."""
        row = start
        for values in self._of_pages(start):
            yield row, values
            row += len(values)
        if row < self.rows:
            for first, column in self._batches(row, self.name, _batch_rows(self.dim, self.dtype)):
                with _named_errors(self._file.path):
                    found = matrix(self._where, column, first, self.dim)
                yield first, found

    def _of_pages(self, start: int) -> Iterator[NDArray[Any]]:
        """Rows from `start` on, as long as the pages are such as are read without pyarrow."""
        groups, row = _groups_from(self._parquet.metadata, start)
        rest: NDArray[Any] | None = None
        try:
            column = ListColumn(self._file, self._parquet, self.name, self.dim, self.dtype)
            pages = (
                page
                for group, first in zip(groups, [start - row] + [0] * len(groups), strict=False)
                for page in column.pages(group, first)
            )
            large = self._file.size > _BATCH_BYTES and column.takes_time
            for values in self._ahead.run(column.values, pages, self.threads, large):
                found = values if rest is None or not len(rest) else np.concatenate([rest, values])
                whole = len(found) - len(found) % self.dim
                rest = found[whole:]
                yield found[:whole].reshape(-1, self.dim)
        except _NOT_READ:  # pyarrow reads the rows that are left, or says what is wrong
            return

    def _batches(self, start: int, name: str, size: int) -> Iterator[tuple[int, Any]]:
        """A column, batch by batch, with the number of the first row."""
        groups, row = _groups_from(self._parquet.metadata, start)
        with _named_errors(self._file.path):
            for batch in self._parquet.iter_batches(size, groups, [name], use_threads=False):
                skipped = min(max(0, start - row), len(batch))
                yield row + skipped, batch.column(name).slice(skipped)
                row += len(batch)
        if row != self.rows:
            raise SourceError(
                f"{self._where} expected {self.rows:,} rows, found {row:,}: the file is damaged"
            )

    def fingerprint(self) -> Fingerprint:
        """Size, time and footer of the file as they were when it was opened."""
        return {
            "kind": "parquet",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._footer_crc32,
            "keys": self._keys,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back, once nothing reads it ahead any more. May be called twice."""
        self._ahead.stop()
        self._closing.close()


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Turn what pyarrow raises on malformed files into SourceError."""
    try:
        yield
    except (SourceError, MissingExtraError):
        raise
    except _FAULTS as error:  # pyarrow's own types are all below these
        raise SourceError(f"{path} cannot be read as Parquet: {shortened(str(error))}") from error


def _open(file: RawFile, stack: ExitStack) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError(
            f'{file.path}: reading Parquet needs pip install "qstore[parquet]"'
        ) from error
    # Through an object that can reach no other file.
    opened = stack.enter_context(parquet.ParquetFile(FileBytes(file), **_OPTIONS))
    counted = sum(opened.metadata.row_group(number).num_rows for number in range(opened.num_row_groups))
    if counted != opened.metadata.num_rows:
        raise SourceError(
            f"{file.path} expected {opened.metadata.num_rows:,} rows, found {counted:,} in its row groups: "
            f"the file is damaged"
        )
    return opened


def _columns(parquet: Any) -> list[TensorInfo]:
    schema = parquet.schema_arrow
    once = [name for name in schema.names if schema.names.count(name) == 1]
    return [_info(parquet, schema.field(name)) for name in once]


def _column(path: str, parquet: Any, name: str) -> TensorInfo:
    schema = parquet.schema_arrow
    if name not in schema.names:
        raise unknown_tensor(path, name, schema.names)
    if schema.names.count(name) > 1:
        raise TensorError(f"{path} has {schema.names.count(name)} columns named {name!r}: rename all but one")
    return _info(parquet, schema.field(name))


def _has_own_keys(path: str) -> bool:
    """Whether there is a column ``key``, as :func:`qstore.export` writes it; one of lists is a matrix."""
    with ExitStack() as stack:
        file = stack.enter_context(RawFile(path))
        with _named_errors(path):
            schema = _open(file, stack).schema_arrow
        return any(field.name == _OWN_KEYS and not is_list(field.type) for field in schema)


def _info(parquet: Any, field: Any) -> TensorInfo:
    import pyarrow

    kind, rows = field.type, parquet.metadata.num_rows
    if pyarrow.types.is_fixed_size_list(kind):
        return TensorInfo(field.name, (rows, kind.list_size), value_type(kind.value_type))
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return TensorInfo(field.name, (rows, _first_width(parquet, field.name)), value_type(kind.value_type))
    return TensorInfo(field.name, (rows,), str(kind))


def _first_width(parquet: Any, name: str) -> int:
    """Width of the first row: the file's description of a list tells none. 0 where there is no row."""
    for batch in parquet.iter_batches(1, columns=[name], use_threads=False):
        if len(batch):
            return len(batch.column(name)[0].values or ())
    return 0


def _groups_from(metadata: Any, start: int) -> tuple[list[int], int]:
    """The row groups that hold rows from `start` on, and the first row of the first one."""
    row = 0
    for number in range(metadata.num_row_groups):
        length = metadata.row_group(number).num_rows
        if row + length > start:
            return list(range(number, metadata.num_row_groups)), row
        row += length
    return [], row


def _batch_rows(dim: int, dtype: str) -> int:
    return min(_MOST_BATCH_ROWS, max(1, _BATCH_BYTES // (dim * np.dtype(dtype).itemsize)))


def _footer_crc32(file: RawFile) -> int:
    """CRC-32 of the footer, which pyarrow has found whole."""
    length = int.from_bytes(file.read_bytes(file.size - _FOOTER_BYTES, 4), "little")
    return zlib.crc32(file.read_bytes(file.size - _FOOTER_BYTES - length, length))
