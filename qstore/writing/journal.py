"""Progress of one build: its parameters, then one record a block with the block's checksums and scales.

The journal lies beside the unfinished file and is removed once that is published. It serves twice:
as the place where scales wait until the number of rows is known (so that memory stays flat), and as
the list of blocks an interrupted build need not do again.

Layout, little-endian: ``HEADER`` frame with JSON text, then ``BLOCK`` frames. A frame is 24 bytes
(tag, two checksums, count, checksum of these) followed by its payload. Nothing after the first frame
that fails its checksums counts. Each frame's checksum begins with that of the header, so that frames of
another build are none of this one's. The keys of a block's rows stand in a frame of their own in front of
it, and count with it; so do the figures of its first rows, and what NaN and infinities in it were replaced.

Other frames tell the story of the build. ``SYNC``: so many blocks have surely reached the disk. ``MIXED``:
sources with different times of change have been read. ``FAILED``: the build has ended because of its data.
``PARAMETERS``: it has been gone on with, with these.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine.nonfinite import NonFiniteValues
from ..engine.row_errors import ROW_FIGURES
from ..keys.packed import KeyBlock, KeyKind, unpacked
from ..system.durable_files import lock_file, open_regular, read_exactly, sync_data, write_all

__all__ = ["BlockRecord", "Journal"]

_FRAME = struct.Struct("<4sIIQI")
_HEADER, _BLOCK, _ERRORS, _NONFINITE = b"qsJ1", b"blk1", b"err2", b"nan1"
_SYNC, _MIXED, _FAILED, _PARAMETERS = b"syn1", b"mix1", b"bad1", b"par1"
_KEY_TAGS: dict[KeyKind, bytes] = {"text": b"ktx1", "integer": b"kid1"}
_KEY_KINDS = {tag: kind for kind, tag in _KEY_TAGS.items()}
_HEADER_LIMIT = 1 << 24

_Frame = tuple[bytes, int, int, int]
"""Tag, both checksums, count."""


class BlockRecord(NamedTuple):
    """One block of rows.

    Attributes
    ----------
    rows, codes_crc, scales_crc : int
        What its place in the file must hold.
    scales : ndarray of float64, shape (rows,)
    keys : KeyBlock or None
        None where rows have no keys.
    errors : ndarray of float64, shape (m, 9), or None
        What :func:`.row_errors.row_errors` found of its first rows; None where the rows came quantized.
    nonfinite : NonFiniteValues
        What was replaced by 0; rows are numbered as in the store.
    """

    rows: int
    codes_crc: int
    scales_crc: int
    scales: NDArray[np.float64]
    keys: KeyBlock | None = None
    errors: NDArray[np.float64] | None = None
    nonfinite: NonFiniteValues = NonFiniteValues()

    @property
    def size(self) -> int:
        """Bytes it takes in a journal."""
        keys = 0 if self.keys is None else _FRAME.size + self.keys.lengths.nbytes + len(self.keys.data)
        errors = 0 if self.errors is None else _FRAME.size + self.errors.nbytes
        nonfinite = _FRAME.size + len(self.nonfinite.encoded()) if self.nonfinite.count else 0
        return keys + errors + nonfinite + _FRAME.size + 8 * self.rows


class Journal:
    """The journal file of one build. One thread uses it at a time.

    Parameters
    ----------
    path : Path
        Opened read-write, created if missing, and locked: once a build has renamed its unfinished file,
        another one may begin, whose journal the first must not remove.
    looking : bool
        Only look at what is there: opened for reading, not locked; it must be there.

    Attributes
    ----------
    synced : int
        Blocks that had reached the disk when the frames read so far were written.
    mixed : bool
        Rows were read from a source that has another time of change than the parameters say.
    given : dict
        The parameters it was begun or last gone on with.
    failed : bool
        The build has ended because of its data, and has not been gone on with.
    listed : int
        Rows of the blocks that :meth:`parameters` has passed.
    """

    def __init__(self, path: Path, *, looking: bool = False) -> None:
        self.path = path
        self.fd = open_regular(path, follow=False) if looking else lock_file(path)
        self.listed = 0
        self._seed = 0
        self._first = 0
        self._end = 0
        self._header: dict[str, Any] = {}
        self._begin_story()

    def _begin_story(self) -> None:
        self.synced, self.mixed, self.failed = 0, False, False
        self.given = self._header

    def start(self, parameters: dict[str, Any]) -> None:
        """Forget everything and begin with these parameters."""
        os.ftruncate(self.fd, 0)
        text = json.dumps(parameters, sort_keys=True).encode()
        self._end = self._seed = 0
        self._header = json.loads(text)
        self._begin_story()
        self._append(_HEADER, zlib.crc32(text), 0, len(text), text)
        self._seed = zlib.crc32(text)
        self._first = self._end

    def append(self, record: BlockRecord) -> None:
        """Add the next block."""
        if record.keys is not None:
            payload = record.keys.payload()
            self._append(_KEY_TAGS[record.keys.kind], zlib.crc32(payload), 0, len(payload), payload)
        if record.errors is not None:
            payload = record.errors.astype("<f8", copy=False).tobytes()
            self._append(_ERRORS, zlib.crc32(payload), 0, len(payload), payload)
        if record.nonfinite.count:
            payload = record.nonfinite.encoded()
            self._append(_NONFINITE, zlib.crc32(payload), 0, len(payload), payload)
        scales = record.scales.astype("<f8", copy=False).tobytes()
        self._append(_BLOCK, record.codes_crc, record.scales_crc, record.rows, scales)

    def mark_synced(self, blocks: int) -> None:
        """Note that so many blocks have reached the disk."""
        self._append(_SYNC, 0, 0, blocks, b"")

    def mark_mixed(self) -> None:
        """Note that what follows comes from a source with another time of change."""
        if not self.mixed:
            self._append(_MIXED, 0, 0, 0, b"")
        self.mixed = True

    def mark_failed(self) -> None:
        """Note that the build ends because of its data."""
        self._end = os.fstat(self.fd).st_size  # the reading of records may have been interrupted
        self._append(_FAILED, 0, 0, 0, b"")
        self.failed = True

    def go_on_with(self, parameters: dict[str, Any]) -> None:
        """Note with which parameters the build goes on."""
        text = json.dumps(parameters, sort_keys=True).encode()
        if self.failed or json.loads(text) != self.given:
            self._append(_PARAMETERS, zlib.crc32(text), 0, len(text), text)
        self.failed, self.given = False, json.loads(text)

    def _append(self, tag: bytes, first_crc: int, second_crc: int, count: int, payload: bytes) -> None:
        head = _FRAME.pack(tag, first_crc, second_crc, count, 0)[:-4]
        frame = head + struct.pack("<I", zlib.crc32(head, self._seed)) + payload
        write_all(self.fd, frame, self._end)
        self._end += len(frame)

    def _frame(self, offset: int) -> _Frame | None:
        raw = read_exactly(self.fd, _FRAME.size, offset)
        if len(raw) < _FRAME.size or zlib.crc32(raw[:-4], self._seed) != int.from_bytes(raw[-4:], "little"):
            return None
        tag, first_crc, second_crc, count, _ = _FRAME.unpack(raw)
        return tag, first_crc, second_crc, count

    def parameters(self) -> dict[str, Any] | None:
        """The parameters the build was last gone on with; None where the journal is empty or damaged."""
        frame = self._frame(0)
        text = b"" if frame is None or frame[0] != _HEADER else self._text(frame, 0)
        if frame is None or not text:
            return None
        self._first = self._end = _FRAME.size + len(text)
        self._seed = frame[1]
        self._header = json.loads(text)
        self._begin_story()
        self._skim()
        return self.given

    def _text(self, frame: _Frame, position: int) -> bytes:
        """The JSON text of a frame; empty where it is damaged."""
        return (self._payload(position, frame[3], frame[1]) or b"") if frame[3] <= _HEADER_LIMIT else b""

    def _skim(self) -> None:
        """Read the story of the build without its blocks, which are only counted."""
        self.listed, end, size = 0, self._first, os.fstat(self.fd).st_size
        while end < size and (frame := self._frame(end)) is not None:
            if frame[0] == _BLOCK:
                self.listed += frame[3]
                end += _FRAME.size + 8 * frame[3]
            elif frame[0] in (*_KEY_KINDS, _ERRORS, _NONFINITE):
                end += _FRAME.size + frame[3]
            elif (told := self._heed(frame, end)) is not None:
                end += told
            else:
                return

    def _heed(self, frame: _Frame, position: int) -> int | None:
        """Take in a frame of the story, and give its size; None where it is none, or damaged."""
        if frame[0] == _PARAMETERS:
            text = self._text(frame, position)
            if not text:
                return None
            self.failed, self.given = False, json.loads(text)
            return _FRAME.size + len(text)
        if frame[0] not in (_SYNC, _MIXED, _FAILED):
            return None
        self.mixed |= frame[0] == _MIXED
        self.failed |= frame[0] == _FAILED
        self.synced = frame[3] if frame[0] == _SYNC else self.synced
        return _FRAME.size

    def records(self, block_rows: int) -> Iterator[BlockRecord]:
        """Yield the intact records from the first on; a short one is the last.

        After each, the journal's end is behind that record: stopping the iteration early and calling
        :meth:`cut` drops the rest. What the journal tells beside the records is then that of what is left.
        """
        self._end = self._first
        self._begin_story()
        short = False
        while (frame := self._frame(self._end)) is not None:
            told = self._heed(frame, self._end)
            if told is not None:
                self._end += told
                continue
            record = None if short else self._record(frame, block_rows)
            if record is None:
                return
            self._end += record.size
            short = record.rows < block_rows
            yield record

    def _record(self, frame: _Frame | None, block_rows: int) -> BlockRecord | None:
        """The record at the end, which begins with this frame; None where it is not intact."""
        position, payloads = self._end, dict[bytes, bytes]()
        while frame is not None and frame[0] in (*_KEY_KINDS, _ERRORS, _NONFINITE):
            found = self._payload(position, frame[3], frame[1])
            if found is None:
                return None
            payloads[frame[0]] = found
            position += _FRAME.size + len(found)
            frame = self._frame(position)
        if frame is None or frame[0] != _BLOCK or not 0 < frame[3] <= block_rows:
            return None
        _, codes_crc, scales_crc, rows = frame
        scales = self._payload(position, 8 * rows, scales_crc)
        parts = _unpacked(rows, payloads)
        if scales is None or parts is None:
            return None
        return BlockRecord(rows, codes_crc, scales_crc, np.frombuffer(scales, "<f8"), *parts)

    def _payload(self, position: int, size: int, crc: int) -> bytes | None:
        """What the frame at `position` carries; None where it is damaged."""
        if size > os.fstat(self.fd).st_size:
            return None
        payload = read_exactly(self.fd, size, position + _FRAME.size)
        return payload if len(payload) == size and zlib.crc32(payload) == crc else None

    def back(self, record: BlockRecord) -> None:
        """Move the end in front of `record`, the one read last."""
        self._end -= record.size

    def cut(self) -> None:
        """Drop everything behind the current end."""
        os.ftruncate(self.fd, self._end)

    def sync(self) -> None:
        """Make the records durable."""
        sync_data(self.fd)

    def close(self) -> None:
        """Close the file and keep it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _unpacked(
    rows: int, payloads: dict[bytes, bytes]
) -> tuple[KeyBlock | None, NDArray[np.float64] | None, NonFiniteValues] | None:
    """What stands in front of a block, by its tags; None where it is not what a build writes."""
    keys = [unpacked(_KEY_KINDS[tag], rows, raw) for tag, raw in payloads.items() if tag in _KEY_KINDS]
    raw, nonfinite = payloads.get(_ERRORS), NonFiniteValues.decoded(payloads.get(_NONFINITE, b"[0, []]"))
    if keys == [None] or len(keys) > 1 or nonfinite is None or len(raw or b"") % (8 * ROW_FIGURES):
        return None
    errors = None if raw is None else np.frombuffer(raw, "<f8").reshape(-1, ROW_FIGURES)
    return (keys or [None])[0], errors, nonfinite
