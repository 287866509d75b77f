"""Arrow's IPC files and streams (Feather, Hugging Face's `datasets`): columns of lists, by pyarrow.

Layout: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc.
The frames of messages are read here too, for the numbers of rows, which nothing but each batch tells.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError, SourceError, TensorError
from .base import Fingerprint, Keys, Source, TensorInfo
from .checks import check_matrix, shortened
from .containers.arrow_columns import can_be_key, is_list, key_values, matrix, unused_names, value_type
from .containers.byte_stream import FileBytes
from .files import RawFile
from .tensor_choice import only_matrix, unknown_tensor

__all__ = ["ArrowFormat", "ArrowRows"]

_FILE, _FEATHER_1, _STREAM = b"ARROW1\0\0", b"FEA1", b"\xff\xff\xff\xff"
_SCHEMA, _RECORDS = 1, 3
_HEADER_TYPE, _HEADER, _BODY_LENGTH, _LENGTH = 1, 2, 3, 0
_LONGEST_METADATA = 64 << 20
_OWN_KEYS = "key"
_CHUNK_BYTES = 4 << 20


class ArrowFormat:
    """One file or stream of record batches; its columns of lists are the matrices."""

    name = "Arrow"
    suffixes: tuple[str, ...] = (".arrow", ".feather", ".arrows")

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like one of Arrow's, with a schema where it is a stream."""
        if head.startswith((_FILE, _FEATHER_1)):
            return True
        try:
            return head.startswith(_STREAM) and _message(head[8:])[0] == _SCHEMA
        except (struct.error, IndexError):
            return False

    def tensors(self, path: str) -> list[TensorInfo]:
        """All columns in the order of the file; those of lists with the width of their first row.

        Raises
        ------
        SourceError
        MissingExtraError
            pyarrow is not installed.
        """
        with RawFile(path) as file, _named_errors(path):
            batches = _Batches(file)
            once = [name for name in batches.schema.names if batches.schema.names.count(name) == 1]
            return [batches.info(name) for name in once]

    def open(self, path: str, tensor: str | None) -> Source:
        """Source of the rows of one column, with the keys of a column ``key``; see :class:`ArrowRows`."""
        return ArrowRows(path, tensor)


class ArrowRows(Source):
    """Rows of a column of lists (of one fixed size, or of any as long as all rows have it).

    For one thread at a time. Memory is that of the columns of one record batch. A column ``key`` of strings
    or whole numbers, plain or in a dictionary, holds the keys.

    Parameters
    ----------
    path : str
    tensor : str, optional
        Name of the column. May be left out where only one holds lists.

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

    def __init__(self, path: str, tensor: str | None = None) -> None:
        with ExitStack() as on_error:
            self._file = on_error.enter_context(RawFile(path))
            with _named_errors(path):
                self._batches = _Batches(self._file)
                names = self._batches.schema.names
                if tensor is None:
                    once = [self._batches.info(name) for name in names if names.count(name) == 1]
                    tensor = only_matrix(path, once).name
                info = self._batches.column(tensor)
                fields = [field for field in self._batches.schema if field.name == _OWN_KEYS]
                self.keyed = bool(fields) and not any(is_list(field.type) for field in fields)
            self.unused_names = () if self.keyed else unused_names(self._batches.schema)
            self.name, self.dtype = tensor, info.dtype
            self._where = f"{path}: column {shortened(repr(tensor))}"
            check_matrix(self._where, info.shape, info.dtype)
            self.rows, self.dim = info.shape
            on_error.pop_all()

    def chunks(self, start: int = 0) -> Iterator[NDArray[Any]]:
        """Yield the rows from `start` on in pieces of about 4 MiB."""
        return (found for found, _ in self._pieces(start, [self.name]))

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[Any], Keys]]:
        """Yield the same with as many keys; raises `SourceError` where there is no column of keys."""
        if not self.keyed:
            raise SourceError(f"{self._where} has no column {_OWN_KEYS!r} beside it: give keys apart, keys=")
        self.check_keys()
        return self._pieces(start, [self.name, _OWN_KEYS])

    def check_keys(self) -> None:
        """Raise `SourceError` where there are two columns of keys, or it holds what can be no keys."""
        if not self.keyed:
            return
        self._batches.column(_OWN_KEYS)
        kind = self._batches.schema.field(_OWN_KEYS).type
        if not can_be_key(kind):
            raise SourceError(
                f"{self._file.path}: column {_OWN_KEYS!r} holds {kind}: expected strings or whole numbers as "
                f"keys; leave it out with keys=False (--no-keys), or give others with --keys"
            )

    def _pieces(self, start: int, names: list[str]) -> Iterator[tuple[NDArray[Any], Any]]:
        step = max(1, _CHUNK_BYTES // (self.dim * np.dtype(self.dtype).itemsize))
        where = f"{self._file.path}: column {_OWN_KEYS!r}"
        with _named_errors(self._file.path):
            for row, batch in self._batches.read(start, names):
                columns = [batch.column(name) for name in names]
                for column in columns:
                    column.validate(full=True)  # places in it are the file's, and lead anywhere
                for first in range(max(0, start - row), len(batch), step):
                    parts = [column.slice(first, step) for column in columns]
                    keys = key_values(where, parts[1], row + first) if len(parts) > 1 else None
                    yield matrix(self._where, parts[0], row + first, self.dim), keys

    def fingerprint(self) -> Fingerprint:
        """Size, time and frames of the file as they were when it was opened."""
        return {
            "kind": "arrow",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._batches.crc32,
            "keys": _OWN_KEYS if self.keyed else None,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._file.close()


class _Batches:
    """The record batches of a file: how many rows each has, and their columns."""

    def __init__(self, file: RawFile) -> None:
        try:
            import pyarrow.ipc
        except ImportError as error:
            raise MissingExtraError(
                f'{file.path}: reading Arrow files needs pip install "qstore[parquet]"'
            ) from error
        self._file, self._ipc = file, pyarrow.ipc
        head = file.read_bytes(0, min(file.size, len(_FILE)))
        if head.startswith(_FEATHER_1):
            raise SourceError(
                f"{file.path} is of Feather's first version: expected the second, which is Arrow's; "
                f"pyarrow.feather.write_feather(pyarrow.feather.read_table(path), new_path)"
            )
        self._is_file = head == _FILE
        self.lengths, self.crc32 = _lengths(file, len(_FILE) if self._is_file else 0)
        reader = self._reader(None)
        if self._is_file and reader.num_record_batches != len(self.lengths):
            raise SourceError(
                f"{file.path} expected {reader.num_record_batches} record batches, found "
                f"{len(self.lengths)}: it is damaged; get it again"
            )
        self.schema = reader.schema
        self.rows = sum(self.lengths)

    def _reader(self, names: list[str] | None) -> Any:
        fields = None if names is None else sorted({self.schema.get_field_index(name) for name in names})
        options = self._ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        open_it = self._ipc.open_file if self._is_file else self._ipc.open_stream
        # Through an object that can reach no other file.
        return open_it(FileBytes(self._file), options=options)

    def read(self, start: int, names: list[str]) -> Iterator[tuple[int, Any]]:
        """The batches that hold rows from `start` on, with the number of its first row."""
        reader, row = self._reader(names), 0
        for number, length in enumerate(self.lengths):
            wanted = row + length > start
            if wanted or not self._is_file:
                batch = reader.get_batch(number) if self._is_file else reader.read_next_batch()
                if len(batch) != length:
                    raise SourceError(
                        f"{self._file.path}: record batch {number} expected {length:,} rows, "
                        f"found {len(batch):,}"
                    )
                if wanted:
                    yield row, batch
            row += length

    def column(self, name: str) -> TensorInfo:
        """Shape and type of a column."""
        names = self.schema.names
        if name not in names:
            raise unknown_tensor(self._file.path, name, names)
        if names.count(name) > 1:
            raise TensorError(
                f"{self._file.path} has {names.count(name)} columns named {name!r}: rename all but one"
            )
        return self.info(name)

    def info(self, name: str) -> TensorInfo:
        """The same of one that is there."""
        import pyarrow

        kind = self.schema.field(name).type
        if not is_list(kind):
            return TensorInfo(name, (self.rows,), str(kind))
        fixed = pyarrow.types.is_fixed_size_list(kind)
        width = kind.list_size if fixed else self._first_width(name)
        return TensorInfo(name, (self.rows, width), value_type(kind.value_type))

    def _first_width(self, name: str) -> int:
        """Width of the first row: a description of lists tells none. 0 where there is no row."""
        for _, batch in self.read(0, [name]):
            column = batch.column(name)
            column.validate(full=True)
            if len(column):
                return len(column[0].values or ())
        return 0


def _lengths(file: RawFile, place: int) -> tuple[list[int], int]:
    """Rows of each record batch, from the frames of all messages, and their CRC-32."""
    lengths: list[int] = []
    crc32 = 0
    while True:
        if place + 8 > file.size:
            raise _cut_short(file, place)
        frame = file.read_bytes(place, 8)
        mark, size = struct.unpack("<4si", frame)
        if mark != _STREAM:
            raise SourceError(
                f"{file.path} expected a message of Arrow at byte {place}, found {frame!r}: it is damaged, "
                f"or older than Arrow 0.15; write it again with pyarrow"
            )
        if size == 0:
            return lengths, crc32
        if not 0 < size <= _LONGEST_METADATA or place + 8 + size > file.size:
            raise _cut_short(file, place)
        metadata = file.read_bytes(place + 8, size)
        crc32 = zlib.crc32(metadata, crc32)
        try:
            kind, body, length = _message(metadata)
        except (struct.error, IndexError) as error:
            raise SourceError(f"{file.path}: the message at byte {place} is damaged; get it again") from error
        if kind == _RECORDS:
            lengths.append(length)
        place += 8 + size + body
        if body < 0 or length < 0 or length >= 1 << 48:
            raise SourceError(f"{file.path}: the message at byte {place} is damaged; get it again")


def _message(metadata: bytes) -> tuple[int, int, int]:
    """Type of a message, bytes of its body, rows of its record batch: fields of FlatBuffers tables."""
    table = struct.unpack_from("<I", metadata)[0]
    kind = metadata[place] if (place := _field(metadata, table, _HEADER_TYPE)) else 0
    body = (
        struct.unpack_from("<q", metadata, place)[0]
        if (place := _field(metadata, table, _BODY_LENGTH))
        else 0
    )
    if kind != _RECORDS or not (place := _field(metadata, table, _HEADER)):
        return kind, body, 0
    records = place + struct.unpack_from("<I", metadata, place)[0]
    place = _field(metadata, records, _LENGTH)
    return kind, body, struct.unpack_from("<q", metadata, place)[0] if place else 0


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 where it is left out."""
    places = table - struct.unpack_from("<i", metadata, table)[0]
    if places < 0:
        raise IndexError
    if 4 + 2 * number >= struct.unpack_from("<H", metadata, places)[0]:
        return 0
    offset: int = struct.unpack_from("<H", metadata, places + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _cut_short(file: RawFile, place: int) -> SourceError:
    return SourceError(
        f"{file.path} ends early: expected a message or the end mark of Arrow at byte {place}, found "
        f"{file.size} bytes; it was cut short while being saved or copied: get it again"
    )


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Turn what pyarrow raises on malformed files into SourceError."""
    try:
        yield
    except (SourceError, MissingExtraError):
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        raise SourceError(f"{path} cannot be read as Arrow: {shortened(str(error))}") from error
