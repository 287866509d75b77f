"""The journal gives back exactly the records it holds, and nothing behind the first damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qstore.format.checksums import crc32
from qstore.writing.journal import BlockRecord, Journal

BLOCK = 4


def record(number: int, rows: int = BLOCK) -> BlockRecord:
    scales = np.arange(rows, dtype=np.float64) + number
    return BlockRecord(rows, 1000 + number, crc32(scales), scales)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three whole blocks and a short one."""
    made = tmp_path / "x.journal"
    journal = Journal(made)
    journal.start({"dim": 3, "source": {"size": 5}})
    for number in range(3):
        journal.append(record(number))
    journal.append(record(3, rows=2))
    journal.close()
    return made


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path)
    yield opened
    opened.close()


def test_gives_back_what_was_put_in(journal: Journal) -> None:
    assert journal.parameters() == {"dim": 3, "source": {"size": 5}}
    found = list(journal.records(BLOCK))
    assert [item.rows for item in found] == [4, 4, 4, 2]
    assert [item.codes_crc for item in found] == [1000, 1001, 1002, 1003]
    np.testing.assert_array_equal(found[2].scales, record(2).scales)


def test_goes_on_behind_the_last_record(journal: Journal, path: Path) -> None:
    journal.parameters()
    *_, last = journal.records(BLOCK)
    journal.back(last)
    journal.cut()
    journal.append(record(3))
    journal.append(record(4, rows=1))
    assert [item.rows for item in journal.records(BLOCK)] == [4, 4, 4, 4, 1]


def test_every_truncation_gives_a_prefix(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        if journal.parameters() is not None:
            found = [item.codes_crc for item in journal.records(BLOCK)]
            assert found == [1000, 1001, 1002, 1003][: len(found)]
            assert len(found) < 4
        journal.close()


def test_every_flipped_bit_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        journal = Journal(path)
        parameters = journal.parameters()
        if parameters is not None:
            assert parameters == {"dim": 3, "source": {"size": 5}}
            found = list(journal.records(BLOCK))
            assert len(found) < 4
            for number, item in enumerate(found):
                assert item.codes_crc == 1000 + number
                np.testing.assert_array_equal(item.scales, record(number).scales)
        journal.close()


def test_a_record_larger_than_a_block_is_refused(path: Path) -> None:
    journal = Journal(path)
    journal.parameters()
    assert list(journal.records(BLOCK - 1)) == []
    journal.close()


@pytest.mark.parametrize("content", [b"", b"no journal at all, but long enough to be one", bytes(64)])
def test_something_else_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    journal = Journal(path)
    assert journal.parameters() is None
    journal.close()
    journal.close()
