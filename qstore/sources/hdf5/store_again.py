"""A store in whatever way another program has written it: its codes, scales and keys as they are.

h5repack, h5py and others move, chunk and compress what is in a file, or add to it, and ``qstore.open`` takes
none of that. Here the file is read through HDF5, like any other source, and all that is taken from it must
agree with the checksums that the store itself carries.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ...format import layout
from ...format.checksums import crc32
from ..base import Fingerprint, Keys
from ..checks import check_range, shortened
from ..containers.unpacked import MOST_INFLATION
from ..files import RawFile
from ..quantized import QuantizedSource, check_scales
from .safe_file import LONGEST_ROW, check_storage, child_of, element_type_of, named_errors

__all__ = ["StoreAgain"]

_KEY_ROWS = 1 << 16
_KEY_BYTES = 16 << 20
_LONGEST_KEY = 1 << 30


class StoreAgain(QuantizedSource):
    """Codes, scales and keys of a store, whoever has written its file.

    `read_codes` may run in any number of threads; h5py lets them in one at a time.

    Parameters
    ----------
    file : RawFile
    h5 : h5py.File
        Of that file. Both are closed by :meth:`close`, and stay the caller's when this raises.

    Raises
    ------
    SourceError
        Attributes or datasets are missing, or are not those of a store.
    """

    def __init__(self, file: RawFile, h5: Any) -> None:
        self._file, self._h5 = file, h5
        self._where = f"{file.path} says that it is a qstore store, but"
        self._remedy = "restore the file, or build the store again"
        self._version = self._checked_constants()
        self.name = self._text("tensor", layout.NAME_LIMIT)
        self._source_dtype = self._text("source_dtype", layout.DTYPE_LIMIT)
        self._content_id = self._text("content_id", 64)
        self._codes = self._dataset("codes", "uint8", (None, None))
        self.rows, self.dim = self._codes.shape
        if not 1 <= self.dim <= LONGEST_ROW:
            raise self._wrong(f"/codes has {self.dim} columns: expected 1 to {LONGEST_ROW}")
        shapes = layout.shapes(self.rows, self.dim)
        self._scales = self._dataset("scales", "float64", shapes["scales"])
        self._remedy = (
            "restore the file, or take its codes and scales as they are: qstore.build((file['codes'], "
            "file['scales']), OUT) with file = h5py.File(…)"
        )
        self._checksums = self._in_memory("checksums", "uint32", shapes["checksums"])
        self._keys = self._key_datasets()
        self._check_content_id()

    @property
    def recorded_dtype(self) -> str:
        """What the store itself was built from."""
        return self._source_dtype

    # What the file says ---------------------------------------------------------------------------

    def _wrong(self, problem: str) -> SourceError:
        return SourceError(f"{self._where} {problem}; {self._remedy}")

    def _checked_constants(self) -> tuple[int, int]:
        major, minor = self._numbers("version", 2)
        if major != layout.FORMAT_VERSION[0]:
            raise SourceError(
                f"{self._where} it has format version {major}.{minor}: expected "
                f"{layout.FORMAT_VERSION[0]}.x; upgrade qstore"
            )
        formula, (zero_point,) = self._text("formula", layout.NAME_LIMIT), self._numbers("zero_point", 1)
        if (formula, zero_point) != (layout.FORMULA, 128):
            raise self._wrong(
                f"its formula is {shortened(repr(formula))} with zero_point {zero_point}: expected "
                f"{layout.FORMULA!r} with 128"
            )
        return major, minor

    def _text(self, name: str, limit: int) -> str:
        """A text attribute of fixed length, the only kind that is read; empty where it is missing."""
        import h5py

        if not h5py.h5a.exists(self._h5.id, name.encode()):
            return ""
        attribute = h5py.h5a.open(self._h5.id, name.encode())
        kind = attribute.get_type()
        plain = kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
        if not plain or attribute.shape != () or kind.get_size() > limit:
            raise self._wrong(f"its attribute {name!r} is no text of a fixed length of at most {limit} bytes")
        try:
            return bytes(self._h5.attrs[name]).decode()
        except UnicodeDecodeError as error:
            raise self._wrong(f"its attribute {name!r} is no UTF-8") from error

    def _numbers(self, name: str, count: int) -> list[int]:
        """An attribute of so many whole numbers."""
        import h5py

        if not h5py.h5a.exists(self._h5.id, name.encode()):
            raise self._wrong(f"it has no attribute {name!r}")
        attribute = h5py.h5a.open(self._h5.id, name.encode())
        kind, shape = attribute.get_type(), attribute.shape
        plain = kind.get_class() == h5py.h5t.INTEGER and kind.get_size() <= 8
        if not plain or shape not in ([(count,), ()] if count == 1 else [(count,)]):
            raise self._wrong(f"its attribute {name!r} is not {count} whole number{'s' if count > 1 else ''}")
        return [int(number) for number in np.atleast_1d(self._h5.attrs[name])]

    def _dataset(self, name: str, dtype: str, shape: tuple[int | None, ...]) -> Any:
        """A dataset of this type and shape (None: of any length)."""
        import h5py

        node = self._h5.id
        for part in name.split("/"):
            node = child_of(node, self._file.path, name, part)
        if not isinstance(node, h5py.h5d.DatasetID):
            raise self._wrong(f"there is no dataset /{name}")
        found = node.shape
        fits = found is not None and len(found) == len(shape)
        fits = fits and all(one is None or one == other for one, other in zip(shape, found, strict=True))
        if not fits or element_type_of(node) != dtype:
            wanted = tuple("any" if length is None else length for length in shape)
            raise self._wrong(
                f"/{name} has shape {shortened(str(found))} of {element_type_of(node)}: expected "
                f"{wanted} of {dtype}"
            )
        check_storage(f"{self._file.path}: /{name}", node)
        return h5py.Dataset(node)

    def _in_memory(self, name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A dataset read at once, which must be no more than its bytes in the file can hold."""
        dataset = self._dataset(name, dtype, shape)
        if dataset.nbytes > MOST_INFLATION[".gz"] * dataset.id.get_storage_size():
            raise self._wrong(f"not all of /{name} has been written")
        values: NDArray[Any] = dataset[()].astype(np.dtype(dtype), copy=False)
        return values

    def _key_datasets(self) -> dict[str, Any]:
        """Datasets of ``/keys`` by name: those that hold the keys by row, and their checksums."""
        if not self._h5.id.links.exists(b"keys"):
            return {}
        group = child_of(self._h5.id, self._file.path, "keys", "keys")
        kinds = [
            kind
            for kind, names in layout.KEY_NAMES.items()
            if child_of(group, "", "keys", names[0]) is not None
        ]
        if len(kinds) != 1:
            raise self._wrong('/keys must have a dataset "hashes" or one "ids", and not both')
        names = layout.KEY_NAMES[kinds[0]]
        found: dict[str, Any] = {
            "checksums": self._in_memory("keys/checksums", "uint32", (len(names) - 1,)),
        }
        if kinds[0] == "integer":
            return {**found, "ids": self._dataset("keys/ids", "int64", (self.rows,))}
        offsets = self._dataset("keys/offsets", "int64", (self.rows + 1,))
        return {**found, "offsets": offsets, "bytes": self._dataset("keys/bytes", "uint8", (None,))}

    def _check_content_id(self) -> None:
        found = layout.content_id(self.rows, self.dim, self._checksums, self._keys.get("checksums"))
        if found != self._content_id:
            raise self._wrong("its content id does not belong to its checksums")

    # Codes and scales -----------------------------------------------------------------------------

    def read_codes(self, start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """See :meth:`.QuantizedSource.read_codes`.

        Raises
        ------
        SourceError
            Codes or scales of a block differ from its checksum, or cannot be read.
        """
        check_range(self._file.path, start, stop, self.rows)
        step = layout.block_rows(self.dim)
        first, last = start // step * step, min(self.rows, -(-stop // step) * step)
        with named_errors(self._file.path):
            codes: NDArray[np.uint8] = self._codes[first:last]
            scales: NDArray[np.float64] = self._scales[first:last].astype("<f8", copy=False)
        for row in range(first, last, step):
            held, number = slice(row - first, row - first + step), row // step
            if (crc32(codes[held]), crc32(scales[held])) != tuple(self._checksums[number].tolist()):
                raise self._wrong(
                    f"its rows {row} to {min(last, row + step) - 1} differ from their checksum: they were "
                    f"changed"
                )
        check_scales(self._file.path, scales, first)
        return codes[start - first : stop - first], scales[start - first : stop - first]

    def measured(self) -> NDArray[np.float64] | None:
        """See :meth:`.QuantizedSource.measured`; None also where the numbers are damaged."""
        if self._version[1] < 1 or not self._h5.id.links.exists(b"fidelity"):
            return None
        with named_errors(self._file.path):
            numbers = self._in_memory("fidelity", "float64", (layout.FIDELITY_NUMBERS,))
        return numbers if layout.fidelity_intact(numbers) else None

    # Keys -----------------------------------------------------------------------------------------

    def key_pieces(self) -> Iterator[Keys] | None:
        """See :meth:`.Source.key_pieces`; a `SourceError` where they differ from their checksums."""
        if "ids" in self._keys:
            return self._ids()
        return self._texts() if self._keys else None

    def _ids(self) -> Iterator[NDArray[np.int64]]:
        crc = 0
        for start in range(0, max(1, self.rows), _KEY_ROWS):
            with named_errors(self._file.path):
                ids = self._keys["ids"][start : start + _KEY_ROWS].astype("<i8", copy=False)
            crc = zlib.crc32(ids.tobytes(), crc)
            if start + _KEY_ROWS >= self.rows:
                self._check_keys(ids=crc)
            yield ids

    def _texts(self) -> Iterator[list[str]]:
        in_bytes = in_offsets = 0
        for start in range(0, max(1, self.rows), _KEY_ROWS):
            stop = min(start + _KEY_ROWS, self.rows)
            offsets = self._offsets(start, stop)
            in_offsets = zlib.crc32(offsets[: None if stop == self.rows else -1].tobytes(), in_offsets)
            texts: list[str] = []
            for raw, bounds in self._some_bytes(offsets):
                in_bytes = zlib.crc32(raw, in_bytes)
                texts.extend(self._decoded(start + len(texts), raw, bounds))
            if stop == self.rows:
                self._check_keys(offsets=in_offsets, bytes=in_bytes)
            yield texts

    def _offsets(self, start: int, stop: int) -> NDArray[np.int64]:
        with named_errors(self._file.path):
            offsets: NDArray[np.int64] = self._keys["offsets"][start : stop + 1].astype("<i8", copy=False)
            size = len(self._keys["bytes"])
        ordered = (offsets[:-1] <= offsets[1:]).all() and offsets[0] >= 0 and offsets[-1] <= size
        if not ordered or (start == 0 and offsets[0]) or (stop == self.rows and offsets[-1] != size):
            raise self._wrong(f"/keys/offsets is wrong somewhere in rows {start} to {stop}")
        if stop > start and int(np.diff(offsets).max()) > _LONGEST_KEY:
            raise self._wrong(f"a key of the rows {start} to {stop} is longer than {_LONGEST_KEY} bytes")
        return offsets

    def _some_bytes(self, offsets: NDArray[np.int64]) -> Iterator[tuple[bytes, list[int]]]:
        """Some MiB of text at a time, one key at least, with where each key begins and ends in it."""
        first = 0
        while first < len(offsets) - 1:
            last = int(np.searchsorted(offsets, offsets[first] + _KEY_BYTES, "right")) - 1
            bounds = offsets[first : max(last, first + 1) + 1]
            with named_errors(self._file.path):
                raw = self._keys["bytes"][int(bounds[0]) : int(bounds[-1])].tobytes()
            yield raw, (bounds - bounds[0]).tolist()
            first += len(bounds) - 1

    def _decoded(self, row: int, raw: bytes, bounds: list[int]) -> Iterator[str]:
        for number, (begin, end) in enumerate(pairwise(bounds)):
            try:
                yield raw[begin:end].decode()
            except UnicodeDecodeError as error:
                raise self._wrong(f"the key of row {row + number} is no UTF-8") from error

    def _check_keys(self, **found: int) -> None:
        names = layout.KEY_NAMES["integer" if "ids" in self._keys else "text"]
        for name, crc in found.items():
            if crc != int(self._keys["checksums"][names.index(name)]):
                raise self._wrong(f"/keys/{name} differs from its checksum: the keys were changed")

    # The file -------------------------------------------------------------------------------------

    def fingerprint(self) -> Fingerprint:
        """Size and time of the file as they were when it was opened, and what the store is."""
        return {
            "kind": "store",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "content_id": self._content_id,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._h5.close()
        self._file.close()
