"""What a journal tells beside its records: what the build was gone on with, whether it failed on its data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qstore.engine.nonfinite import NonFiniteValues
from qstore.engine.row_errors import ROW_FIGURES
from qstore.format.checksums import crc32
from qstore.keys.packed import packed
from qstore.writing.journal import BlockRecord, Journal

BLOCK = 4
FIRST, SECOND = {"a": 1}, {"a": 2, "b": None}


def record(number: int, rows: int = BLOCK) -> BlockRecord:
    scales = np.arange(rows, dtype=np.float64) + number
    keys = packed([f"w{number}-{row}" for row in range(rows)])
    errors, replaced = np.ones((2, ROW_FIGURES)), NonFiniteValues(1, ((number * BLOCK, 0, "nan"),))
    return BlockRecord(rows, 1000 + number, crc32(scales), scales, keys, errors, replaced)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two blocks, a failure, two more blocks with other parameters, and a failure again."""
    made = tmp_path / "x.journal"
    journal = Journal(made)
    journal.start(FIRST)
    for number in range(2):
        journal.append(record(number))
    journal.mark_synced(2)
    journal.mark_failed()
    journal.go_on_with(SECOND)
    journal.mark_mixed()
    for number in range(2, 4):
        journal.append(record(number))
    journal.mark_failed()
    journal.close()
    return made


def test_the_whole_story(path: Path) -> None:
    journal = Journal(path)
    assert journal.parameters() == SECOND
    assert (journal.failed, journal.mixed, journal.synced, journal.listed) == (True, True, 2, 16)
    assert len(list(journal.records(BLOCK))) == 4
    assert (journal.given, journal.failed, journal.mixed, journal.synced) == (SECOND, True, True, 2)
    journal.close()


@pytest.mark.parametrize(("kept", "story"), [(1, (FIRST, False, False, 0)), (3, (SECOND, False, True, 2))])
def test_the_story_of_what_is_left(path: Path, kept: int, story: tuple[object, ...]) -> None:
    journal = Journal(path)
    journal.parameters()
    for number, found in enumerate(journal.records(BLOCK)):
        if number == kept:
            journal.back(found)
            break
    journal.cut()
    assert (journal.given, journal.failed, journal.mixed, journal.synced) == story
    size = os.fstat(journal.fd).st_size
    journal.go_on_with({"a": 1})
    assert (os.fstat(journal.fd).st_size > size) == (kept == 3)  # nothing is said twice
    journal.close()
    again = Journal(path)
    assert (again.parameters(), again.failed, again.listed) == ({"a": 1}, False, 4 * kept)
    again.close()


def test_a_failure_is_noted_behind_everything(path: Path) -> None:
    """Also where the reading of records was interrupted: finishing a store reads them."""
    journal = Journal(path)
    journal.parameters()
    assert len(list(journal.records(BLOCK))) == 4
    journal.go_on_with(FIRST)
    next(iter(journal.records(BLOCK)))
    journal.mark_failed()
    journal.close()
    again = Journal(path)
    assert (again.parameters(), again.failed, again.listed) == (FIRST, True, 16)
    again.close()


def test_it_is_looked_at_without_a_lock(path: Path) -> None:
    before = path.read_bytes()
    writing, looking = Journal(path), Journal(path, looking=True)
    assert looking.parameters() == SECOND
    with pytest.raises(OSError, match="Bad file descriptor"):
        looking.mark_failed()
    writing.close()
    looking.close()
    assert path.read_bytes() == before
    with pytest.raises(FileNotFoundError):
        Journal(path.with_name("other"), looking=True)


def test_every_truncation_and_flip_tells_a_beginning(path: Path) -> None:
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        for content in (whole[:position], bytes(changed)):
            path.write_bytes(content)
            journal = Journal(path)
            found = journal.parameters()
            if found is not None:
                assert found == (SECOND if journal.listed > 8 else found)
                assert found in (FIRST, SECOND)
                story = [(item.rows, item.codes_crc) for item in journal.records(BLOCK)]
                assert story == [(BLOCK, 1000 + number) for number in range(4)][: len(story)]
                assert journal.given in (FIRST, SECOND)
                assert not (journal.failed and len(story) not in (2, 4))
            journal.close()
