"""Members of a zip archive, found by its central directory and read in place.

Parsed here and not by `zipfile`: that reads a directory of any size, shares one file position among
threads, and takes names that stand twice. Field names are those of PKWARE's APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import SourceError
from ..checks import shortened
from ..files import RawFile

__all__ = ["DEFLATED", "MAGIC", "STORED", "Archive", "Member", "first_name"]

MAGIC = b"PK\x03\x04"
STORED, DEFLATED = 0, 8

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64_PLACE = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LONGEST_COMMENT = 0xFFFF
# A checkpoint of 100,000 tensors has a directory of about 8 MB.
_LONGEST_DIRECTORY = 64 << 20
_MOST_MEMBERS = 1 << 18
_ENCRYPTED = 0x2041  # bits 0, 6 and 13
_UTF8 = 0x800


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the central directory.

    Attributes
    ----------
    name : str
    method : int
        :data:`STORED`, :data:`DEFLATED` or another one of the format's.
    size, packed : int
        Bytes of the content, and those it takes in the file.
    crc32 : int
        Of the content.
    header : int
        Position of the local header.
    """

    name: str
    method: int
    size: int
    packed: int
    crc32: int
    header: int


class Archive:
    """The members of a zip file by name. Only the directory is read; every place in it is checked.

    Parameters
    ----------
    file : RawFile
        Stays the caller's.

    Raises
    ------
    SourceError
        There is no whole directory at the end of the file, it is too large, encrypted or spread over
        several files, or a name stands twice in it.
    """

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._start, size, count = _find_directory(file)
        directory = file.read_bytes(self._start, size)
        self.members: dict[str, Member] = {}
        for member in _entries(file.path, directory, count):
            if member.name in self.members:
                raise SourceError(
                    f"{file.path}: the name {shortened(repr(member.name))} stands twice in the zip archive"
                )
            self.members[member.name] = member

    def through(self, file: RawFile) -> Archive:
        """The same archive, unchanged since, read through another open file of it."""
        other = copy.copy(self)
        other._file = file
        return other

    def offset_of(self, member: Member) -> int:
        """Position of the first byte of a member's content.

        Raises
        ------
        SourceError
            The local header is not where and what the directory says, or the content does not end
            before the directory.
        """
        where = f"{self._file.path}: member {shortened(repr(member.name))}"
        if member.header + _LOCAL.size > self._start:
            raise SourceError(
                f"{where} expected a local header before byte {self._start}, found one at {member.header}"
            )
        fields = _LOCAL.unpack(self._file.read_bytes(member.header, _LOCAL.size))
        magic, flags, method, name_size, extra_size = fields[0], fields[2], fields[3], fields[9], fields[10]
        name = self._file.read_bytes(member.header + _LOCAL.size, name_size)
        if magic != MAGIC or method != member.method or _text(name, flags) != member.name:
            raise SourceError(
                f"{where} expected its local header at byte {member.header}, found another: "
                f"the archive is damaged; get it again"
            )
        start: int = member.header + _LOCAL.size + name_size + extra_size
        if start + member.packed > self._start:
            raise SourceError(
                f"{where} expected {member.packed} bytes from byte {start} on, "
                f"found {self._start - start} before the directory: the archive is damaged; get it again"
            )
        return start


def first_name(head: bytes) -> str:
    """Name of the member that a zip file starts with; "" where `head` is not the start of one."""
    if len(head) < _LOCAL.size or not head.startswith(MAGIC):
        return ""
    fields = _LOCAL.unpack_from(head)
    return head[_LOCAL.size : _LOCAL.size + fields[9]].decode("utf-8", "replace")


def _find_directory(file: RawFile) -> tuple[int, int, int]:
    """Position, size and number of entries of the central directory."""
    span = min(file.size, _END.size + _LONGEST_COMMENT)
    tail = file.read_bytes(file.size - span, span)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > span:
        raise _no_archive(file.path)
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, place)
    end = file.size - span + place
    if place + _END.size + comment != span:
        raise _no_archive(file.path)
    found = _find_directory64(file, end)
    if found is not None:
        end, disk, first_disk, here, count, size, start = found
    if disk or first_disk or here != count:
        raise SourceError(f"{file.path} is one part of a zip archive in several files: expected a whole one")
    if count > _MOST_MEMBERS or size > _LONGEST_DIRECTORY:
        raise SourceError(
            f"{file.path}: expected a zip directory of at most {_MOST_MEMBERS} members and "
            f"{_LONGEST_DIRECTORY} bytes, found {count} and {size}"
        )
    if start + size != end:
        raise SourceError(
            f"{file.path} expected its zip directory to end at byte {end}, found {start} + {size}: "
            f"the archive is damaged or has bytes in front; get it again"
        )
    return start, size, count


def _find_directory64(file: RawFile, end: int) -> tuple[int, int, int, int, int, int, int] | None:
    """The same from the records for large archives, where they stand before the end record."""
    place = end - _END64_PLACE.size
    if place < 0:
        return None
    magic, disk, record, _ = _END64_PLACE.unpack(file.read_bytes(place, _END64_PLACE.size))
    if magic != b"PK\x06\x07":
        return None
    if disk or record + _END64.size > place:
        raise _no_archive(file.path)
    fields = _END64.unpack(file.read_bytes(record, _END64.size))
    if fields[0] != b"PK\x06\x06":
        raise _no_archive(file.path)
    _, _, _, _, this_disk, first_disk, here, count, size, start = fields
    return record, this_disk, first_disk, here, count, size, start


def _no_archive(path: str) -> SourceError:
    return SourceError(
        f"{path} is no whole zip archive: expected a central directory at its end, found none; "
        f"it was cut short while being saved or copied: get it again"
    )


def _entries(path: str, directory: bytes, count: int) -> Iterator[Member]:
    place = 0
    for number in range(count):
        if place + _CENTRAL.size > len(directory):
            raise _bad_entry(path, number)
        (magic, _, _, flags, method, _, _, crc32, packed, size, name_size, extra_size, comment_size, disk) = (
            _CENTRAL.unpack_from(directory, place)[:14]
        )
        header: int = _CENTRAL.unpack_from(directory, place)[16]
        extra = place + _CENTRAL.size + name_size
        name = _text(directory[place + _CENTRAL.size : extra], flags)
        place = extra + extra_size + comment_size
        if magic != b"PK\x01\x02" or place > len(directory):
            raise _bad_entry(path, number)
        if flags & _ENCRYPTED:
            raise SourceError(f"{path}: member {shortened(repr(name))} is encrypted: save it without")
        if 0xFFFFFFFF in (size, packed, header):
            size, packed, header = _large(directory[extra : extra + extra_size], size, packed, header)
        if disk not in (0, 0xFFFF) or (method == STORED and size != packed):
            raise _bad_entry(path, number)
        yield Member(name, method, size, packed, crc32, header)
    if place != len(directory):
        raise _bad_entry(path, count)


def _large(extra: bytes, *values: int) -> tuple[int, int, int]:
    """Replace the values that do not fit into 32 bits by those of the "zip64" extra field."""
    longer: Iterator[int] = iter(())
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            field = extra[place + 4 : place + 4 + size]
            longer = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            break
        place += 4 + size
    size, packed, header = (next(longer, value) if value == 0xFFFFFFFF else value for value in values)
    return size, packed, header


def _text(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _UTF8 else "cp437", "replace")


def _bad_entry(path: str, number: int) -> SourceError:
    return SourceError(
        f"{path}: entry {number} of the zip directory is malformed: expected a central header; get it again"
    )
