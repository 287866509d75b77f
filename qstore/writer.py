"""The one path by which a store is written: stream, journal, finish, publish."""

from __future__ import annotations

import contextlib
import os
import warnings
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import durable, kernels, layout
from .errors import ClosedError, ExistsError, OutputError, ResumeError, SourceError
from .journal import BlockRecord, Journal, crc32
from .quantization import element_type
from .threads import processors

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["ReadRows", "Writer", "check_output", "journal_path", "partial_path"]

ReadRows = Callable[[int, int], NDArray[Any]]
"""Gives the rows from a first to before a last one as a 2-D array; called from several threads."""

# Source values quantized in one call: with float32, 1 MiB, so that what was just read is still in cache.
_PIECE_VALUES = 1 << 18


def partial_path(path: Path) -> Path:
    """Where a store is built until it is complete."""
    return path.with_name(path.name + ".partial")


def journal_path(path: Path) -> Path:
    """Where the progress of a build is kept until the store is published."""
    return path.with_name(path.name + ".journal")


def check_output(path: Path, overwrite: bool) -> None:
    """Raise unless a store may be published at `path`."""
    if path.is_dir():
        raise ExistsError(21, f"{path} is a directory; name a file in it", str(path))
    if not overwrite and os.path.lexists(path):
        raise ExistsError(
            17,
            f"{path} exists; pass overwrite=True (--force) to replace it or choose another name",
            str(path),
        )
    if not path.parent.is_dir():
        raise OutputError(
            2, f"cannot write {path}: there is no directory {path.parent}; create it first", str(path)
        )


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
        already: skip them.
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
        JSON-able values an interrupted build must share to be resumed.
    stamp : int, optional
        Time of the source's last change. An interrupted build of another stamp can be resumed, but
        :attr:`stale` is set: :meth:`check_rows` then tells whether the source is still the same.
    sync_bytes : int
        Bytes written between two syncs to disk: at most so much is done again after a power cut.

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
    ) -> None:
        self.path = Path(os.path.abspath(path))
        self.dim = _positive("dim", dim)
        if self.dim > layout.MOST_COLUMNS:
            raise SourceError(f"dim is {self.dim}, expected at most {layout.MOST_COLUMNS}")
        self.rows = 0
        self._expected = None if rows is None else _positive("rows", rows, least=0)
        self._overwrite = overwrite
        self._keep = resume if keep is None else keep
        self._nonfinite: Literal["error", "zero"] = nonfinite
        self._threads = threads or processors()
        self._tensor = _checked_text("tensor", tensor, layout.NAME_LIMIT)
        self._source_dtype = source_dtype and _checked_text("source_dtype", source_dtype, layout.DTYPE_LIMIT)
        self._sync_bytes = sync_bytes
        self._block_rows = layout.block_rows(self.dim)
        self._checksums = array("I")  # two a block: 8 bytes, where tuples would take 125
        self._pending_codes = np.empty((self._block_rows, self.dim), np.uint8)
        self._pending_scales = np.empty(self._block_rows, np.float64)
        self._pending = 0
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        self._syncing_blocks = 0
        self._pool: ThreadPoolExecutor | None = None
        check_output(self.path, overwrite)
        with durable.output_errors(self.path):
            self._fd = durable.lock_file(partial_path(self.path))
        self._open = self._fresh = True
        self.stale = False
        self._stamp = stamp
        self._parameters = {"dim": self.dim, "tensor": tensor, **(parameters or {})}
        try:
            with durable.output_errors(self.path):
                self._journal = Journal(journal_path(self.path))
                self._begin(resume)
        except BaseException:
            self._release(remove=self._fresh)
            raise

    # Beginning and going on -----------------------------------------------------------------------

    def _begin(self, resume: bool) -> None:
        # A journal beside a file that is new is a stale one: that of a build which has been published.
        found = self._journal.parameters() if resume and os.fstat(self._fd).st_size else None
        if found is None:
            os.ftruncate(self._fd, 0)
            self._start_journal()
        else:
            self._fresh = False
            self._adopt(found)
        if self._expected is not None:
            durable.allocate(self._fd, self._compose(self._expected, "0" * 32).size)

    def _start_journal(self) -> None:
        self._journal.start({**self._parameters, "source_dtype": self._source_dtype, "stamp": self._stamp})

    def _note_source_dtype(self, name: str) -> None:
        if self._source_dtype is None:
            self._source_dtype = name
            with durable.output_errors(self.path):
                self._start_journal()

    def _adopt(self, found: dict[str, Any]) -> None:
        self.stale = found.pop("stamp", None) != self._stamp
        recorded = found.pop("source_dtype", None)
        self._source_dtype = self._source_dtype or recorded
        wanted = self._parameters
        differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
        if recorded != self._source_dtype:
            found["source_dtype"], wanted["source_dtype"] = recorded, self._source_dtype
            differing.append("source_dtype")
        if differing:
            raise ResumeError(
                f"{partial_path(self.path)} was begun with other parameters: "
                + ", ".join(f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}" for name in differing)
                + "; restore them, or start again (--restart, resume=False)"
            )
        self._take_superblock()
        for record in self._journal.records(self._block_rows):
            codes = self._stored(self.rows, record.rows)
            if codes is None or crc32(codes) != record.codes_crc:
                self._journal.back(record)
                break
            if record.rows < self._block_rows:
                self._journal.back(record)
                self._restore_pending(codes, record.scales)
                self.rows += record.rows
                break
            self._checksums.extend((record.codes_crc, record.scales_crc))
            self.rows += record.rows
        self._journal.cut()
        self.stale |= self._journal.mixed
        if self.stale and not self._journal.mixed:
            self._journal.mark_mixed()
        self._write_again(self._journal.synced)

    def _take_superblock(self) -> None:
        """A complete superblock must not vouch for rows that are about to be written again."""
        if any(durable.read_exactly(self._fd, layout.SUPERBLOCK_SIZE, 0)):
            durable.write_all(self._fd, bytes(layout.SUPERBLOCK_SIZE), 0)
            durable.sync_data(self._fd)

    def _write_again(self, block: int) -> None:
        """Write the blocks from this one on once more.

        They can be read, but if a sync of the interrupted build failed, Linux has dropped them without
        writing them, and no later sync would.
        """
        for number in range(block, len(self._checksums) // 2):
            codes = self._stored(number * self._block_rows, self._block_rows)
            if codes is not None:
                durable.write_all(self._fd, codes.data, layout.CODES_OFFSET + number * codes.size)

    def _stored(self, first: int, rows: int) -> NDArray[np.uint8] | None:
        raw = durable.read_exactly(self._fd, rows * self.dim, layout.CODES_OFFSET + first * self.dim)
        return np.frombuffer(raw, np.uint8).reshape(rows, self.dim) if len(raw) == rows * self.dim else None

    def _restore_pending(self, codes: NDArray[np.uint8], scales: NDArray[np.float64]) -> None:
        self._pending = len(codes)
        self._pending_codes[: self._pending] = codes
        self._pending_scales[: self._pending] = scales

    def check_rows(self, read: ReadRows, on_rows: Callable[[int], object] | None = None) -> None:
        """Compare the rows that were resumed with what `read` gives, numbered from 0, block by block.

        Raises
        ------
        ResumeError
            The first block that differs.
        """
        report = on_rows or (lambda count: None)
        codes, scales = np.empty_like(self._pending_codes), np.empty_like(self._pending_scales)
        found = array("I", self._checksums)
        if self._pending:
            held = slice(self._pending)
            found.extend((crc32(self._pending_codes[held]), crc32(self._pending_scales[held])))
        for number, checksums in enumerate(zip(found[::2], found[1::2], strict=True)):
            first = number * self._block_rows
            count = min(self._block_rows, self.rows - first)
            self._quantize(read, first, codes[:count], scales[:count], first)
            if (crc32(codes[:count]), crc32(scales[:count])) != checksums:
                raise ResumeError(
                    f"the source has changed since {partial_path(self.path)} was begun: rows {first} to "
                    f"{first + count - 1} differ; start again (--restart, resume=False)"
                )
            report(count)

    # Taking rows in -------------------------------------------------------------------------------

    def append(self, chunk: ArrayLike) -> None:
        """Quantize and add rows.

        Parameters
        ----------
        chunk : array_like, shape (n, dim)
            Any n, any element type that can be quantized; the same type in every chunk. It may be
            changed again once this returns.

        Raises
        ------
        SourceError
            Wrong shape or type; more rows than were announced.
        NonFiniteError
            NaN or infinity. No row of the chunk's unfinished block is added then.
        """
        self._check_open()
        values = kernels.as_matrix(chunk)
        name = str(element_type(values.dtype))
        if values.shape[1] != self.dim:
            raise SourceError(f"chunk has shape {values.shape}, expected (n, {self.dim})")
        self._note_source_dtype(name)
        if name != self._source_dtype:
            raise SourceError(
                f"chunk has dtype {name}, expected {self._source_dtype} as before; convert with astype"
            )
        self.append_rows(lambda first, last: values[first:last], 0, len(values))

    def append_codes(self, codes: ArrayLike, scales: ArrayLike) -> None:
        """Add rows that are quantized already, without a second rounding.

        Parameters
        ----------
        codes : array_like of uint8, shape (n, dim)
            Any of 0 to 255, zero point 128.
        scales : array_like of float64, shape (n,)
            Finite and not negative.
        """
        self._check_open()
        given_codes, given_scales = kernels.as_quantized(codes, scales, self.dim)
        self._check_room(len(given_codes))
        self._note_source_dtype("quantized")
        done = 0
        while done < len(given_codes):
            count = min(self._block_rows - self._pending, len(given_codes) - done)
            held = slice(self._pending, self._pending + count)
            self._pending_codes[held] = given_codes[done : done + count]
            self._pending_scales[held] = given_scales[done : done + count]
            self._took(count)
            done += count

    def append_rows(
        self, read: ReadRows, first: int, last: int, on_rows: Callable[[int], object] | None = None
    ) -> None:
        """Quantize and add the rows `first` to before `last` that `read` gives, using all threads.

        `on_rows` is called with the number of rows each time some are in.
        """
        self._check_open()
        self._check_room(last - first)
        report = on_rows or (lambda count: None)
        top = min(last, first + (-self._pending) % self._block_rows)
        bottom = max(top, last - (last - top) % self._block_rows)
        report(self._fill_pending(read, first, top))
        for record in self._encode_blocks(read, top, bottom):
            self._record(record)
            self.rows += record.rows
            report(record.rows)
        report(self._fill_pending(read, bottom, last))

    def _fill_pending(self, read: ReadRows, first: int, last: int) -> int:
        count = last - first
        if count:
            held = slice(self._pending, self._pending + count)
            self._quantize(read, first, self._pending_codes[held], self._pending_scales[held], self.rows)
            self._took(count)
        return count

    def _quantize(
        self, read: ReadRows, first: int, codes: NDArray[np.uint8], scales: NDArray[np.float64], row: int
    ) -> None:
        step = max(1, _PIECE_VALUES // self.dim)
        for start in range(0, len(codes), step):
            stop = min(start + step, len(codes))
            values = read(first + start, first + stop)
            if values.shape != (stop - start, self.dim):
                raise SourceError(
                    f"the source gave shape {values.shape}, expected {(stop - start, self.dim)}"
                )
            kernels.quantize_into(values, codes[start:stop], scales[start:stop], self._nonfinite, row + start)

    def _took(self, count: int) -> None:
        self._pending += count
        self.rows += count
        if self._pending == self._block_rows:
            self._flush_pending()

    def _flush_pending(self) -> None:
        rows, self._pending = self._pending, 0
        self._record(self._store(self._pending_codes[:rows], self._pending_scales[:rows], self.rows - rows))

    def _encode_blocks(self, read: ReadRows, first: int, last: int) -> Iterator[BlockRecord]:
        """Quantize and write whole blocks; yield their records in order."""
        shift = self.rows - first

        def encode(start: int) -> BlockRecord:
            codes = np.empty((self._block_rows, self.dim), np.uint8)
            scales = np.empty(self._block_rows, np.float64)
            self._quantize(read, start, codes, scales, start + shift)
            return self._store(codes, scales, start + shift)

        starts = iter(range(first, last, self._block_rows))
        if self._threads == 1 or last - first <= self._block_rows:
            yield from map(encode, starts)
            return
        pool = self._workers()
        # Two blocks a thread under way keep all busy while the oldest is waited for.
        running = deque(pool.submit(encode, start) for start in islice(starts, 2 * self._threads))
        try:
            while running:
                record = running.popleft().result()
                running.extend(pool.submit(encode, start) for start in islice(starts, 1))
                yield record
        finally:
            self._wait_for(running)

    @staticmethod
    def _wait_for(running: Iterable[Future[BlockRecord]]) -> None:
        """Let no block that is still under way be written over rows that come later."""
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                future.exception()

    def _store(self, codes: NDArray[np.uint8], scales: NDArray[np.float64], row: int) -> BlockRecord:
        with durable.output_errors(self.path):
            durable.write_all(self._fd, codes.data, layout.CODES_OFFSET + row * self.dim)
        return BlockRecord(len(codes), crc32(codes), crc32(scales), scales)

    def _record(self, record: BlockRecord) -> None:
        with durable.output_errors(self.path):
            self._journal.append(record)
            self._checksums.extend((record.codes_crc, record.scales_crc))
            self._unsynced += record.rows * self.dim
            if self._unsynced >= self._sync_bytes:
                self._sync_behind()

    def _workers(self) -> ThreadPoolExecutor:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # 5 ms, not at import

            self._pool = ThreadPoolExecutor(self._threads + 1, "qstore-writer")
        return self._pool

    def _sync_behind(self) -> None:
        """Sync in the background, one sync at a time, so that the build never waits for the disk here."""
        if self._syncing is not None:
            if not self._syncing.done():
                return
            self._end_sync(self._syncing)
        self._unsynced = 0
        self._syncing_blocks = len(self._checksums) // 2
        self._syncing = self._workers().submit(self._sync)

    def _end_sync(self, syncing: Future[None]) -> None:
        syncing.result()
        self._journal.mark_synced(self._syncing_blocks)

    def _sync(self) -> None:
        durable.sync_data(self._fd)
        self._journal.sync()

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
                    f"{self.rows} rows were given, expected {self._expected}: nothing is published"
                )
            with durable.output_errors(self.path):
                self._finish()
        except BaseException:
            self.abort()
            raise
        with durable.output_errors(self.path):
            self._release(remove=False)

    def _finish(self) -> None:
        if self._pending:
            self._flush_pending()
        if self._syncing is not None:
            self._syncing.result()
        # From here on all rows are safe: whatever fails below, a resumed writer only finishes again.
        self._sync()
        self._journal.mark_synced(len(self._checksums) // 2)
        checksums = np.array(self._checksums, dtype="<u4").reshape(-1, 2)
        composition = self._compose(self.rows, layout.content_id(self.rows, self.dim, checksums))
        self._write_scales(composition.extents["scales"].offset)
        durable.write_all(self._fd, checksums.tobytes(), composition.extents["checksums"].offset)
        *body, superblock = composition.segments
        # Blocks behind a failed one, or an earlier end, may have left something in the alignment gaps.
        for offset, data in [*body, *((gap.offset, bytes(gap.size)) for gap in composition.gaps())]:
            durable.write_all(self._fd, data, offset)
        os.ftruncate(self._fd, composition.size)
        os.fsync(self._fd)
        durable.write_all(self._fd, superblock[1], superblock[0])
        os.fsync(self._fd)
        check_output(self.path, self._overwrite)
        durable.publish(partial_path(self.path), self.path)
        with contextlib.suppress(OSError):  # the store is there: a journal beside it is ignored
            durable.free_path(journal_path(self.path))

    def _compose(self, rows: int, content_id: str) -> layout.Composition:
        attributes = {
            "content_id": content_id,
            "tensor": self._tensor,
            "source_dtype": self._source_dtype or "",
        }
        return layout.compose(rows, self.dim, attributes)

    def _write_scales(self, offset: int) -> None:
        rows = 0
        for record in self._journal.records(self._block_rows):
            durable.write_all(self._fd, record.scales.data, offset)
            offset += record.scales.nbytes
            rows += record.rows
        if rows != self.rows:
            raise OutputError(5, f"{journal_path(self.path)} was damaged while it was in use", str(self.path))

    def abort(self) -> None:
        """Publish nothing. What was written is removed, or kept to be resumed."""
        if self._open:
            self._release(remove=not (self._keep and self._checksums))

    def _release(self, remove: bool) -> None:
        self._open = False
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if remove:
            with contextlib.suppress(OSError):  # whatever made the build fail is the error to raise
                self._remove()
        if hasattr(self, "_journal"):
            self._journal.close()
        os.close(self._fd)

    def _remove(self) -> None:
        # Both locks are still held, and the journal goes first: no other writer can have begun here.
        if hasattr(self, "_journal"):
            durable.free_path(journal_path(self.path))
        if durable.same_file(self._fd, partial_path(self.path)):
            durable.free_path(partial_path(self.path))

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"the writer of {self.path} is closed")

    def _check_room(self, more: int) -> None:
        if self._expected is not None and self.rows + more > self._expected:
            raise SourceError(f"{self.rows + more} rows were given, expected {self._expected}")

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

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


def _positive(name: str, value: int, least: int = 1) -> int:
    if not isinstance(value, (int, np.integer)) or value < least:
        raise SourceError(f"{name} is {value!r}, expected an integer of at least {least}")
    return int(value)


def _checked_text(name: str, text: str, limit: int) -> str:
    if len(text.encode()) > limit or "\0" in text:
        raise SourceError(f"{name} must have at most {limit} bytes of UTF-8 and no NUL, found {text[:80]!r}…")
    return text
