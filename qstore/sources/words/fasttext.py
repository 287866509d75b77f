"""fastText's `.bin` models: words, and the vectors that `get_word_vector` gives for them.

Layout: https://github.com/facebookresearch/fastText, `FastText::saveModel`, `Dictionary::save` and
`DenseMatrix::save`. All numbers are little-endian. A word's vector is the mean of its row and of the rows of
its n-grams, which lie behind those of the words, where a hash of their bytes says; ``</s>`` has none.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError
from ..base import Fingerprint, Keys, RowSource, TensorInfo
from ..checks import check_matrix, check_range, shortened
from ..containers.contiguous import ContiguousRows
from ..files import RawFile
from ..tensor_choice import unknown_tensor
from ..text_encoding import UTF8, TextEncoding

__all__ = ["FastTextFormat", "FastTextRows"]

_MAGIC = struct.pack("<i", 793712314)
_VERSIONS = (11, 12)
_SUPERVISED = 3
# dim ws epoch minCount neg wordNgrams loss model bucket minn maxn lrUpdateRate t
_ARGUMENTS = struct.Struct("<12id")
# words and labels, words, labels, tokens, pruned
_COUNTS = struct.Struct("<3i2q")
_MATRIX = struct.Struct("<2q")
_WORDS, _INPUT = "words", "input"
_END_OF_SENTENCE = b"</s>"
_LONGEST_NGRAM = 64
_LONGEST_WORD = 1 << 16
_MARK = 256
"""Words between places in the dictionary that are remembered."""
_PIECE = 1 << 20
_BLOCK_BYTES = 8 << 20
_BLOCK_WORDS = 4096
_BLOCK_TEXT = 1 << 16
_FNV_START, _FNV_PRIME = 2166136261, 16777619


@dataclass(frozen=True)
class _Model:
    """What the head of a model says, and where things are."""

    dim: int
    bucket: int
    shortest: int
    longest: int
    words: int
    marks: NDArray[np.int64]
    input_rows: int
    input_offset: int
    head_crc32: int


class FastTextFormat:
    """One model; ``words`` are its words' vectors, ``input`` the rows of words and n-grams, as they are."""

    name = "fastText"
    suffixes: tuple[str, ...] = (".ftz",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a model, quantized or not."""
        return head.startswith(_MAGIC)

    def tensors(self, path: str) -> list[TensorInfo]:
        """The vectors of words, and the matrix they are made of. The dictionary is read.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            model = _read_model(file)
        return [
            TensorInfo(_WORDS, (model.words, model.dim), "float32"),
            TensorInfo(_INPUT, (model.input_rows, model.dim), "float32"),
        ]

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the words' vectors with their words, or of the matrix ``input``.

        Raises
        ------
        SourceError
            The file is malformed, cut short, or a quantized model.
        TensorError
            A name that is not there.
        """
        with ExitStack() as on_error:
            file = on_error.enter_context(RawFile(path))
            model = _read_model(file)
            if tensor not in (None, _WORDS, _INPUT):
                raise unknown_tensor(path, str(tensor), [_WORDS, _INPUT])
            source: RowSource = FastTextRows(file, model) if tensor != _INPUT else _input(file, model)
            on_error.pop_all()
        return source


class FastTextRows(RowSource):
    """Vectors of words as fastText gives them, to the bit: sums in float32, in its order.

    `read` may run in any number of threads; it holds the rows of some thousand n-grams.

    Parameters
    ----------
    file : RawFile
        Closed by :meth:`close`.
    model : _Model
    """

    name = _WORDS
    dtype = "float32"
    keyed = True

    def __init__(self, file: RawFile, model: _Model) -> None:
        self._file, self._model, self._encoding = file, model, UTF8
        self.rows, self.dim = model.words, model.dim
        check_matrix(file.path, (self.rows, self.dim), self.dtype)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` as a fresh array; see :meth:`.RowSource.read`."""
        check_range(self._file.path, start, stop, self.rows)
        values = np.empty((stop - start, self.dim), np.float32)
        for row, words in self._blocks(start, stop):
            values[row - start : row - start + len(words)] = self._vectors(row, words)
        return values

    def key_pieces(self) -> Iterator[Keys]:
        """The words, some thousand at a time."""
        return (self._decoded(row, words) for row, words in self._blocks(0, self.rows))

    def keyed_chunks(self, start: int = 0) -> Iterator[tuple[NDArray[np.float32], Keys]]:
        """Yield the rows from `start` on with their words."""
        return (
            (self._vectors(row, words), self._decoded(row, words))
            for row, words in self._blocks(start, self.rows)
        )

    def decode_keys(self, encoding: TextEncoding) -> None:
        """Take the words for text in this encoding."""
        self._encoding = encoding

    def _decoded(self, row: int, words: list[bytes]) -> Keys:
        try:
            return [self._encoding.decode(word) for word in words]
        except UnicodeError as error:
            bad = self._encoding.first_bad(words)
            raise SourceError(
                f"{self._file.path}: the word of row {row + bad} is no {self._encoding}: "
                f"{shortened(repr(words[bad]))}; words were cut inside a character, or are of another "
                f"encoding: {self._encoding.hint()}"
            ) from error

    def _blocks(self, start: int, stop: int) -> Iterator[tuple[int, list[bytes]]]:
        """Words in order, with the row of the first of them."""
        mark = start // _MARK
        words: list[bytes] = []
        size, first = 0, start
        for row, (word, _) in enumerate(_entries(self._file, int(self._model.marks[mark])), mark * _MARK):
            if row < start:
                continue
            if row == stop:
                break
            if words and (len(words) == _BLOCK_WORDS or size + len(word) > _BLOCK_TEXT):
                yield first, words
                first, words, size = row, [], 0
            words.append(word)
            size += len(word)
        if words:
            yield first, words

    def _vectors(self, first: int, words: list[bytes]) -> NDArray[np.float32]:
        counts, ids = _subwords(words, self._model)
        values = np.zeros((len(words), self.dim), np.float32)
        ends = np.cumsum(counts)
        # Own rows are read together.
        own = self._file.read_array(self._place(first), (len(words), self.dim), np.dtype("<f4"))
        values += own
        most = max(1, _BLOCK_BYTES // (4 * self.dim))
        begin = 0
        while begin < len(words):
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + most, "right")))
            self._add(values[begin:end], counts[begin:end], ids[before : int(ends[end - 1])])
            begin = end
        values *= (1.0 / (counts + 1)).astype(np.float32)[:, None]
        return values

    def _add(self, values: NDArray[np.float32], counts: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
        """Add to each row those of so many n-grams, one after the other: order is what floats depend on."""
        unique, inverse = np.unique(ids, return_inverse=True)
        rows = np.empty((len(unique), self.dim), "<f4")
        for number, row in enumerate(unique.tolist()):
            self._file.read_into(rows[number].view(np.uint8).data, self._place(self._model.words + row))
        begins = np.cumsum(counts) - counts
        for number in range(int(counts.max(initial=0))):
            which = np.flatnonzero(counts > number)
            values[which] += rows[inverse[begins[which] + number]]

    def _place(self, row: int) -> int:
        return self._model.input_offset + row * self.dim * 4

    def fingerprint(self) -> Fingerprint:
        """Size, time and head of the file as they were when it was opened."""
        return {
            "kind": "fasttext",
            "size": self._file.size,
            "mtime_ns": self._file.mtime_ns,
            "dtype": self.dtype,
            "shape": [self.rows, self.dim],
            "tensor": self.name,
            "header_crc32": self._model.head_crc32,
            "key_encoding": self._encoding.name,
            "key_errors": self._encoding.errors,
        }

    def check_unchanged(self) -> None:
        """Compare the file's size and time of change with those it was opened with."""
        self._file.check_unchanged()

    def close(self) -> None:
        """Give the file back. May be called twice, but not beside a running read."""
        self._file.close()


def _input(file: RawFile, model: _Model) -> ContiguousRows:
    return ContiguousRows(
        file,
        kind="fasttext",
        name=_INPUT,
        offset=model.input_offset,
        shape=(model.input_rows, model.dim),
        dtype=np.dtype("<f4"),
        header_crc32=model.head_crc32,
    )


def _read_model(file: RawFile) -> _Model:
    head = file.read_bytes(0, 8 + _ARGUMENTS.size + _COUNTS.size)
    version = int.from_bytes(head[4:8], "little")
    if not head.startswith(_MAGIC) or version not in _VERSIONS:
        raise SourceError(
            f"{file.path} expected a fastText model of version 11 or 12, found version {version}: load it "
            f"with fasttext and save it again"
        )
    dim, _, _, _, _, _, _, kind, bucket, shortest, longest, _, _ = _ARGUMENTS.unpack_from(head, 8)
    entries, words, labels, _, pruned = _COUNTS.unpack_from(head, 8 + _ARGUMENTS.size)
    if version == 11 and kind == _SUPERVISED:  # these were made without n-grams, whatever they say
        longest = 0
    if min(words, labels, bucket) < 0 or words + labels != entries or dim < 1 or longest > _LONGEST_NGRAM:
        raise _damaged(
            file, f"{entries} entries, {words} words, {labels} labels, {dim} columns, n-grams up to {longest}"
        )
    marks, end = _read_dictionary(file, len(head), words, labels)
    place = end + 8 * max(0, pruned)
    quantized = file.read_bytes(place, 1) != b"\0"
    if quantized or pruned >= 0:
        raise SourceError(
            f"{file.path} is a quantized fastText model (.ftz): expected the whole one (.bin); get that, or "
            f"build from chunks of model.get_word_vector(word) with keys=model.words"
        )
    input_rows, columns = _MATRIX.unpack(file.read_bytes(place + 1, _MATRIX.size))
    used = words + (bucket if longest > 0 else 0)
    if columns != dim or input_rows < used:
        raise _damaged(
            file, f"a matrix of {input_rows} × {columns}, expected at least {used:,} rows of {dim} columns"
        )
    offset = place + 1 + _MATRIX.size
    if offset + input_rows * dim * 4 > file.size:
        raise SourceError(
            f"{file.path} ends early: {input_rows} × {dim} float32 expected {offset + input_rows * dim * 4} "
            f"bytes, found {file.size}; get it again"
        )
    return _Model(dim, bucket, shortest, longest, words, marks, input_rows, offset, zlib.crc32(head))


def _damaged(file: RawFile, found: str) -> SourceError:
    return SourceError(f"{file.path} is no whole fastText model: found {found}; get it again")


def _read_dictionary(file: RawFile, place: int, words: int, labels: int) -> tuple[NDArray[np.int64], int]:
    """Where each 256th word stands, and where the dictionary ends."""
    if place + 10 * (words + labels) > file.size:
        raise _damaged(file, f"{words} words and {labels} labels in {file.size} bytes")
    marks = np.empty(words // _MARK + 1, np.int64)
    marks[0] = end = place
    number = 0
    entries = _entries(file, place)
    while number < words + labels:
        word, kind = next(entries)
        if number % _MARK == 0 and number <= words:
            marks[number // _MARK] = end
        if kind != (number >= words):
            raise _damaged(file, f"entry {number} of type {kind}, and {words} words before the labels")
        end += len(word) + 10
        number += 1
    if words % _MARK == 0:
        marks[words // _MARK] = end if not labels else marks[words // _MARK]
    return marks, end


def _entries(file: RawFile, place: int) -> Iterator[tuple[bytes, int]]:
    """Words from a place in the dictionary on, each with its type: 0 for a word, 1 for a label."""
    held, begin = b"", 0
    while True:
        end = held.find(b"\0", begin)
        if end < 0 or end + 10 > len(held):
            if len(held) - begin > _LONGEST_WORD:
                raise _damaged(file, f"a word of more than {_LONGEST_WORD} bytes")
            more = min(_PIECE, file.size - place)
            if not more:
                raise _damaged(file, "no end of the dictionary: it was cut short")
            held, begin, place = held[begin:] + file.read_bytes(place, more), 0, place + more
            continue
        if end - begin > _LONGEST_WORD:
            raise _damaged(file, f"a word of {end - begin} bytes")
        yield held[begin:end], held[end + 9]
        begin = end + 10


def _subwords(words: list[bytes], model: _Model) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of n-grams of each word, and the buckets of all of them in fastText's order.

    An n-gram is `shortest` to `longest` characters of ``<word>``; single brackets are none.
    """
    none = np.zeros(len(words), np.int64), np.empty(0, np.int64)
    if model.longest < 1 or not model.bucket:
        return none
    texts = [b"" if word == _END_OF_SENTENCE else b"<" + word + b">" for word in words]
    lengths = np.array([len(text) for text in texts])
    stops = np.repeat(np.cumsum(lengths), lengths)  # of each byte: where its word ends
    data = np.frombuffer(b"".join(texts) + b"\0", np.uint8)
    leads = (data & 0xC0) != 0x80
    leads[-1] = True
    starts = np.flatnonzero(leads[:-1])
    if not len(starts):
        return none
    whose = np.repeat(np.arange(len(words)), lengths)[starts]
    ends_of_words = stops[starts]
    begins_of_words = ends_of_words - lengths[whose]
    hashes = np.full(len(starts), _FNV_START, np.uint32)
    # The bytes count as signed: the hash takes them with their sign.
    signed = data.view(np.int8).astype(np.uint32)
    found = np.full((len(starts), model.longest), -1, np.int64)
    places = starts.copy()
    active = np.arange(len(starts))
    for length in range(1, model.longest + 1):
        moving = active
        while len(moving):  # one character: its first byte, and those that go on with it
            at = places[moving]
            hashes[moving] = (hashes[moving] ^ signed[at]) * np.uint32(_FNV_PRIME)
            places[moving] = at + 1
            inside = (places[moving] < ends_of_words[moving]) & ~leads[places[moving]]
            moving = moving[inside]
        if length >= model.shortest:
            kept = active
            if length == 1:
                edge = (starts[active] == begins_of_words[active]) | (places[active] == ends_of_words[active])
                kept = active[~edge]
            found[kept, length - 1] = hashes[kept] % np.uint32(model.bucket)
        active = active[places[active] < ends_of_words[active]]
        if not len(active):
            break
    there = found >= 0
    counts = np.bincount(whose, there.sum(axis=1), minlength=len(words)).astype(np.int64)
    return counts, found[there]
