"""The public way to write a store: takes rows in chunk by chunk, gathers blocks, publishes at the end."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .analysis.advice import build_warnings
from .engine.arguments import as_count, as_matrix, as_quantized, check_nonfinite
from .engine.coding import Coding
from .engine.nonfinite import NonFiniteValues
from .engine.quantization import element_type
from .engine.row_errors import ROW_FIGURES
from .errors import ClosedError, OutputError, ResumeError, SourceError
from .format import layout
from .keys.equal_keys import check_duplicates
from .keys.packed import KeyBlock, KeyKind, joined, packed, said
from .keys.stream import KeyStream
from .keys.supply import MissingKeys, check_missing_keys
from .system.options import flag, shown, whole_number
from .system.threads import thread_count
from .writing.agreement import first_other_block, first_other_keys
from .writing.encoder import Encoder, ReadCodes, ReadRows, record_of
from .writing.journal import BlockRecord
from .writing.origin import Origin
from .writing.output_paths import partial_path
from .writing.unfinished_store import UnfinishedStore

__all__ = ["Writer"]


class Writer:
    """Writes a store chunk by chunk, in flat memory.

    Nothing exists at the final name until the store is complete: rows go to ``NAME.partial``, scales
    and checksums to ``NAME.journal``, and leaving the ``with`` block publishes. Leaving it by an
    exception publishes nothing; what was written is removed, or kept to be resumed (see `keep`).
    The file does not depend on the sizes of the chunks, on threads, or on whether `rows` was given.

    Parameters
    ----------
    path : path-like
        The store to make.
    dim : int
        Number of columns, at least 1.
    rows : int, optional
        Number of rows, if known: the disk space is then reserved at once, and any other number of
        rows is an error.
    overwrite : bool
        Replace an existing file, once the new one is complete.
    resume : bool
        Go on with what an interrupted writer left behind. :attr:`rows` tells how many rows are in
        already: skip them. What a writer left behind that failed on its data (`SourceError`) is in nobody's
        way: with other parameters the writer begins again, and says so.
    keep : bool, optional
        Leave what is done behind if this writer is interrupted, to be resumed; by default as `resume`.
    nonfinite : {"error", "zero"}
        What to do about NaN and infinities: stop, or store 0.
    threads : int, optional
        Threads that quantize and write; the number of processors by default.
    tensor : str
        Name of the tensor, recorded in the file.
    source_dtype : str, optional
        Element type recorded in the file; by default that of the first chunk.
    parameters : dict, optional
        JSON-able values an interrupted build must share to be resumed, beside `dim`, `tensor`,
        `source_dtype` and `nonfinite`.
    stamp : int, optional
        Time of the source's last change. An interrupted build of another stamp can be resumed, but
        :attr:`stale` is set: :meth:`check_rows` then tells whether the source is still the same.
    sync_bytes : int
        Bytes written between two syncs to disk: at most so much is done again after a power cut.
    duplicates : {"error", "first"}
        What to do where two rows have the same key: publish nothing, or let it stand for the first of them.
    missing_keys : {"error", "none"}
        What to do where the key of a row is None, among texts: stop, or let the row have none.
    step : float, optional
        Rows hold whole numbers that fit 8 bits: store them as they are, to be read as
        ``(value - zero_point) * step``, without any rounding. What does not fit is a SourceError.
    zero_point : int
        With `step`: values may be ``zero_point - 128`` to ``zero_point + 127``.

    Attributes
    ----------
    rows : int
        Rows that are in.
    warnings : tuple of str
        What deserves a look, in words: known once the writer is closed.

    Raises
    ------
    ExistsError, BusyError, OutputError
        The output exists, is being written by another process, or cannot be written.
    ResumeError
        What was left behind is of another build.

    Notes
    -----
    One thread may use a writer at a time.

    Examples
    --------
    >>> import numpy as np, qstore, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "words.h5")
    >>> with qstore.Writer(path, dim=2) as writer:
    ...     writer.append([[1.0, -0.5], [0.0, 0.0]])
    ...     writer.append(np.array([[2.0, 1.0]]))
    >>> qstore.open(path).codes
    array([[255,  65],
           [128, 128],
           [255, 192]], dtype=uint8)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        dim: int,
        rows: int | None = None,
        *,
        overwrite: bool = False,
        resume: bool = False,
        keep: bool | None = None,
        nonfinite: Literal["error", "zero"] = "error",
        threads: int | None = None,
        tensor: str = "",
        source_dtype: str | None = None,
        parameters: dict[str, Any] | None = None,
        stamp: int | None = None,
        sync_bytes: int = 256 << 20,
        duplicates: Literal["error", "first"] = "error",
        missing_keys: MissingKeys = "error",
        step: float | None = None,
        zero_point: int = 0,
    ) -> None:
        self._open = False
        coding = Coding(step, zero_point)
        self.path = Path(os.path.abspath(path))
        self.dim = as_count("dim", dim)
        if self.dim > layout.MOST_COLUMNS:
            raise SourceError(f"dim is {self.dim}, expected at most {layout.MOST_COLUMNS}")
        check_duplicates(duplicates)
        self._may_lack_keys = check_missing_keys(missing_keys)
        check_nonfinite(nonfinite)
        _check_parameters(parameters, stamp)
        self._expected = None if rows is None else as_count("rows", rows, least=0)
        resume = flag("resume", resume)
        self._keep = resume if keep is None else flag("keep", keep)
        told = {**coding.parameters(), **(parameters or {})}
        origin = Origin.of(self.dim, tensor, source_dtype, nonfinite, missing_keys, told, stamp)
        self._block_rows = layout.block_rows(self.dim)
        self._encoder = Encoder(self.dim, self._block_rows, nonfinite, thread_count(threads), coding)
        self._measuring = coding.rounds
        self.warnings: tuple[str, ...] = ()
        self._unfinished = UnfinishedStore(
            self.path,
            self.dim,
            origin,
            self._expected,
            overwrite=overwrite,
            resume=resume,
            sync_bytes=whole_number("sync_bytes", sync_bytes),
            duplicates=duplicates,
        )
        self._open = True
        self.stale = self._unfinished.stale
        self.rows = self._unfinished.rows
        self._begin_block()
        self._restore_pending()

    def _begin_block(self) -> None:
        self._pending = 0
        self._pending_keys: list[KeyBlock] = []
        self._pending_codes = self._encoder.block()
        self._pending_scales = np.empty(self._block_rows, np.float64)
        self._pending_errors = np.empty((layout.sampled_rows(self.dim), ROW_FIGURES))
        self._pending_measured = self._measuring
        self._pending_nonfinite = NonFiniteValues()

    def _restore_pending(self) -> None:
        rest, self._unfinished.rest = self._unfinished.rest, None
        if rest is not None:
            codes, scales, keys, errors, self._pending_nonfinite = rest
            self._pending_keys = [] if keys is None else [keys]
            self._pending = len(codes)
            self._pending_measured = errors is not None
            if errors is not None:
                self._pending_errors[: len(errors)] = errors
            self._pending_codes[: self._pending] = codes
            self._pending_scales[: self._pending] = scales

    def check_rows(self, read: ReadRows) -> None:
        """Compare the rows that were resumed with what a source has for them, block by block.

        For those who resume on their own: :func:`qstore.build` does it where the source may have changed.

        Parameters
        ----------
        read : callable
            ``read(first, last)`` gives those rows of the source, numbered from 0, as an array of shape
            (last - first, dim).

        Where they differ, a build that failed because of its data goes on from there.

        Raises
        ------
        ResumeError
            The first block that differs, of a build that was interrupted.
        """
        held = slice(self._pending)
        number = first_other_block(
            self._encoder,
            read,
            self._unfinished.checksums,
            self._pending_codes[held],
            self._pending_scales[held],
            self._block_rows,
        )
        if number is not None:
            self._go_back(number, "the source has changed")

    def check_keys(self, keys: KeyStream) -> None:
        """Take the keys of the rows that were resumed from a stream, and compare them, block by block.

        Parameters
        ----------
        keys : KeyStream
            Of :mod:`qstore.keys.packed`: keys of all rows, from the first one on. It then stands behind those
            that were resumed, as :meth:`append_rows` wants it.

        Where they differ, a build that failed because of its data goes on from there.

        Raises
        ------
        ResumeError
            The first block that differs, of a build that was interrupted.
        """
        found = array("I", self._unfinished.key_checksums)
        if self._pending_keys:
            found.append(joined(self._pending_keys).crc32())
        number = first_other_keys(keys, self.key_kind, found, self.rows, self._block_rows)
        if number is not None:
            self._go_back(number, "the keys have changed")

    def _go_back(self, blocks: int, reason: str) -> None:
        """Drop the rows behind so many blocks: they are others now."""
        if not self._unfinished.failed:
            first = blocks * self._block_rows
            last = min(first + self._block_rows, self.rows) - 1
            raise ResumeError(
                f"{reason} since {partial_path(self.path)} was begun: rows {first} to {last} differ; start "
                f"again (--restart, resume=False)"
            )
        self._keep_only(blocks, f"{reason} since the build that failed")

    def begin_again(self, reason: str) -> None:
        """Drop all rows that were resumed, and say why.

        Parameters
        ----------
        reason : str
            In words, for those who read the log.
        """
        self._keep_only(0, reason)

    def _keep_only(self, blocks: int, reason: str) -> None:
        self._unfinished.go_back(blocks, reason)
        self.rows = self._unfinished.rows
        self._begin_block()

    # Taking rows in -------------------------------------------------------------------------------

    def append(self, chunk: ArrayLike, keys: Any = None) -> None:
        """Quantize and add rows.

        Parameters
        ----------
        chunk : array_like, shape (n, dim)
            Any n, any element type that can be quantized; the same type in every chunk. It may be
            changed again once this returns.
        keys : sequence of str, or array_like of int, length n, optional
            A key for each row: texts or whole numbers of 64 bits. With every chunk or with none. None among
            texts: the row has none (see `missing_keys`).

        Raises
        ------
        SourceError
            Wrong shape or type; more rows than were announced; fewer or more keys than rows.
        NonFiniteError
            NaN or infinity. No row of the chunk's unfinished block is added then.
        """
        self._check_open()
        values = as_matrix(chunk)
        if values.shape[1] != self.dim:
            raise SourceError(f"chunk has shape {values.shape}, expected (n, {self.dim})")
        name = str(element_type(values.dtype))
        expected = self._unfinished.expect_source_dtype(lambda: name)
        if name != expected:
            raise SourceError(f"chunk has dtype {name}, expected {expected} as before; convert with astype")
        stream = self._stream(keys, len(values))
        self.append_rows(lambda first, last: values[first:last], 0, len(values), keys=stream)

    def append_codes(self, codes: ArrayLike, scales: ArrayLike, keys: Any = None) -> None:
        """Add rows that are quantized already, without a second rounding.

        Parameters
        ----------
        codes : array_like of uint8, shape (n, dim)
            Any of 0 to 255, zero point 128; or of int8, whose zero point is 0.
        scales : array_like of float64, shape (n,) or (n, 1)
            Finite and not negative.
        keys : sequence of str, or array_like of int, length n, optional
            As for :meth:`append`.
        """
        self._check_open()
        given_codes, given_scales = as_quantized(codes, scales, self.dim)
        self._check_room(len(given_codes))
        stream = self._stream(keys, len(given_codes))
        self.expect_keys(stream)
        self._unfinished.expect_source_dtype(lambda: "quantized")
        self._take_codes(given_codes, given_scales, stream)

    def _take_codes(
        self, codes: NDArray[np.uint8], scales: NDArray[np.float64], keys: KeyStream | None
    ) -> None:
        done = 0
        while done < len(codes):
            count = min(self._block_rows - self._pending, len(codes) - done)
            held = slice(self._pending, self._pending + count)
            self._pending_codes[held] = codes[done : done + count]
            self._pending_scales[held] = scales[done : done + count]
            self._pending_measured = False
            self._took(count, keys)
            done += count

    def append_coded_rows(
        self,
        read: ReadCodes,
        first: int,
        last: int,
        on_rows: Callable[[int], object] | None = None,
        keys: KeyStream | None = None,
    ) -> None:
        """Add rows that are quantized already, of a source that gives any of its rows, using all threads.

        As :meth:`append_codes` of them in one chunk, but only a few blocks are in memory at a time.

        Parameters
        ----------
        read : callable
            ``read(first, last)`` gives codes of those rows, shape (last - first, dim), and their scales, as
            :meth:`append_codes` takes them. They are written as they come: nobody may change them any more.
            Several threads call it at the same time.
        first, last, on_rows, keys
            As for :meth:`append_rows`.

        Raises
        ------
        SourceError
            More rows than were announced, codes or scales that :meth:`append_codes` does not take, or another
            kind of keys than before.
        """
        self._check_open()
        self._check_room(last - first)
        self.expect_keys(keys)
        if last > first:
            self._unfinished.expect_source_dtype(lambda: "quantized")
        report = on_rows or (lambda count: None)
        top = min(last, first + (-self._pending) % self._block_rows)
        bottom = max(top, last - (last - top) % self._block_rows)
        self._take_codes(*as_quantized(*read(first, top), self.dim), keys)
        report(top - first)
        for codes, record in self._encoder.coded_blocks(read, top, bottom):
            self._add_block(codes, record, keys, report)
        self._take_codes(*as_quantized(*read(bottom, last), self.dim), keys)
        report(last - bottom)

    def _add_block(
        self,
        codes: NDArray[np.uint8],
        record: BlockRecord,
        keys: KeyStream | None,
        report: Callable[[int], object],
        written: Callable[[], object] | None = None,
    ) -> None:
        block = None if keys is None else self._checked(keys.take(record.rows))
        self._unfinished.add(codes, record._replace(keys=block), written)
        self.rows += record.rows
        report(record.rows)

    def append_rows(
        self,
        read: ReadRows,
        first: int,
        last: int,
        on_rows: Callable[[int], object] | None = None,
        keys: KeyStream | None = None,
    ) -> None:
        """Quantize and add rows of a source that gives any of its rows, using all threads.

        As :meth:`append` of them in one chunk, but only a few blocks are in memory at a time.

        Parameters
        ----------
        read : callable
            ``read(first, last)`` gives those rows as an array of shape (last - first, dim), of the same type
            each time. Several threads call it at the same time.
        first, last : int
            Which rows: from `first` to before `last`.
        on_rows : callable, optional
            Called with the number of rows each time some are in.
        keys : KeyStream, optional
            Of :mod:`qstore.keys.packed`: a key for each of the rows is taken from it.

        Raises
        ------
        SourceError
            More rows than were announced, or another type or kind of keys than before.
        NonFiniteError
            NaN or infinity. The blocks before it are in then.

        Examples
        --------
        >>> import numpy as np, os, qstore, tempfile
        >>> matrix = np.ones((1000, 8), np.float32)
        >>> with qstore.Writer(os.path.join(tempfile.mkdtemp(), "ones.h5"), dim=8) as writer:
        ...     writer.append_rows(lambda first, last: matrix[first:last], 0, 1000)
        ...     writer.rows
        1000
        """
        self._check_open()
        self._check_room(last - first)
        self.expect_keys(keys)
        if last > first:
            self._unfinished.expect_source_dtype(lambda: str(element_type(read(first, first + 1).dtype)))
        report = on_rows or (lambda count: None)
        top = min(last, first + (-self._pending) % self._block_rows)
        bottom = max(top, last - (last - top) % self._block_rows)
        report(self._fill_pending(read, first, top, keys))
        for codes, record in self._encoder.blocks(read, top, bottom, self.rows):
            self._add_block(codes, record, keys, report, partial(self._encoder.reuse, codes))
        report(self._fill_pending(read, bottom, last, keys))

    def _stream(self, keys: Any, rows: int) -> KeyStream | None:
        """The keys of one chunk of so many rows."""
        if keys is None:
            return None
        block = packed(keys, self.rows)
        if block.rows != rows:
            raise SourceError(f"{block.rows:,} keys were given for {rows:,} rows, expected one for each")
        return KeyStream([block])

    @property
    def nonfinite(self) -> NonFiniteValues:
        """Values of the rows that are in that were NaN or infinite, and are stored as 0.

        Those are counted, too, that an interrupted writer took in which this one goes on from.
        """
        return self._unfinished.findings.nonfinite + self._pending_nonfinite

    @property
    def key_kind(self) -> KeyKind | None:
        """What the keys of the rows are; None where they have none."""
        return self._unfinished.key_kind

    @property
    def unkeyed_rows(self) -> int:
        """How many rows have no key, where the others have one; told when the writer is closed."""
        return self._unfinished.unkeyed_rows

    def expect_keys(self, keys: KeyStream | None) -> None:
        """Say of what kind the keys of the rows to come are: that of those before, or none as they.

        Parameters
        ----------
        keys : KeyStream or None
            Of :mod:`qstore.keys.packed`. Nothing is taken from it.

        Raises
        ------
        SourceError
            The rows before have keys of another kind, or none.
        """
        kind: KeyKind | None = None if keys is None else keys.kind()
        found = self._unfinished.key_kind
        if self.rows and kind != found:
            raise SourceError(
                f"{said(kind)} were given, expected {said(found)}, as the {self.rows:,} rows before have"
            )
        self._unfinished.key_kind = kind

    def keep_measured(self, numbers: NDArray[np.float64] | None) -> None:
        """Take over errors that were measured when all of these codes were made.

        Parameters
        ----------
        numbers : ndarray of float64 or None
            As a store keeps them; None where nobody measured.
        """
        self._unfinished.measured = numbers

    def _fill_pending(self, read: ReadRows, first: int, last: int, keys: KeyStream | None) -> int:
        count = last - first
        if count:
            held = slice(self._pending, self._pending + count)
            codes, scales = self._pending_codes[held], self._pending_scales[held]
            self._pending_nonfinite += self._encoder.quantize(
                read, first, codes, scales, self.rows, self._pending_errors
            )
            self._took(count, keys)
        return count

    def _took(self, count: int, keys: KeyStream | None) -> None:
        if keys is not None:
            self._pending_keys.append(self._checked(keys.take(count)))
        self._pending += count
        self.rows += count
        if self._pending == self._block_rows:
            self._flush_pending()

    def _checked(self, keys: KeyBlock) -> KeyBlock:
        """The keys of the next rows; SourceError where one has none that should."""
        if not self._may_lack_keys:
            for row in np.flatnonzero(keys.unkeyed()).tolist():
                raise SourceError(
                    f"row {self.rows + row} has no key, expected one for each row: give it one, or leave it "
                    f'without with missing_keys="none" (--missing-keys none)'
                )
        return keys

    def _flush_pending(self) -> None:
        room, scales = self._pending_codes, self._pending_scales[: self._pending]
        codes = room[: self._pending]
        keys = joined(self._pending_keys) if self._pending_keys else None
        errors = self._pending_errors[: self._pending] if self._pending_measured else None
        record = record_of(codes, scales)._replace(
            keys=keys, errors=errors, nonfinite=self._pending_nonfinite
        )
        self._begin_block()  # the arrays of the last one are written when it suits the page cache
        self._unfinished.add(codes, record, partial(self._encoder.reuse, room))

    # Finishing ------------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish the file and publish it under its final name.

        Raises
        ------
        SourceError
            Fewer rows came than were announced; nothing is published.
        ExistsError, OutputError
            Nothing is published; where it is kept, a later writer goes on from here.
        """
        if not self._open:
            return
        try:
            if self._expected is not None and self.rows != self._expected:
                raise SourceError(
                    f"{self.rows:,} rows were given, expected {self._expected:,}: nothing is published"
                )
            if self._pending:
                self._flush_pending()
            self._unfinished.finish(self.rows)
        except BaseException as error:
            self._give_up(error)
            raise
        self.warnings = build_warnings(self._unfinished.findings)
        self._release(remove=False)

    def abort(self) -> None:
        """Publish nothing. What was written is removed, or kept to be resumed."""
        self._give_up(None)

    def _give_up(self, error: BaseException | None) -> None:
        if not self._open:
            return
        if self._keep:
            with contextlib.suppress(OutputError):  # whatever made the build fail is the error to raise
                self._unfinished.flush()
                if isinstance(error, SourceError):
                    self._unfinished.mark_failed()
        self._release(remove=not (self._keep and self._unfinished.checksums))

    def _release(self, remove: bool) -> None:
        self._open = False
        self._encoder.close()  # no block may be under way when the file is closed
        self._unfinished.release(remove)

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"the writer of {self.path} is closed")

    def _check_room(self, more: int) -> None:
        if self._expected is not None and self.rows + more > self._expected:
            raise SourceError(f"{self.rows + more:,} rows were given, expected {self._expected:,}")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._give_up(error)

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            warnings.warn(
                f"the writer of {self.path} was neither closed nor aborted", ResourceWarning, stacklevel=2
            )
            self.abort()

    def __repr__(self) -> str:
        return (
            f"<qstore.Writer {self.path}: {self.rows} rows of {self.dim}{'' if self._open else ', closed'}>"
        )


def _check_parameters(parameters: Any, stamp: Any) -> None:
    """TypeError unless a journal can hold them."""
    if stamp is not None and not isinstance(stamp, int):
        raise TypeError(f"stamp is {shown(stamp)}, expected a whole number")
    if parameters is not None and not isinstance(parameters, dict):
        raise TypeError(f"parameters is {shown(parameters)}, expected a dict")
    try:
        json.dumps(parameters)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"parameters cannot be kept, expected values that JSON has: {error}") from None
