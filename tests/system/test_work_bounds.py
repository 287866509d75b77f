"""The bounds on work that other tests rely on do fail."""

from __future__ import annotations

import contextlib

import pytest
from work_bounds import little_work


def endless() -> None:
    while True:
        len("")


def test_a_loop_without_an_end_is_stopped() -> None:
    with pytest.raises(AssertionError, match="more than 100 calls"), little_work(calls=100):
        endless()


def test_calls_count_even_where_their_error_is_caught() -> None:
    with pytest.raises(AssertionError), little_work(calls=100), contextlib.suppress(Exception):
        endless()


def test_bytes_read_count() -> None:
    with pytest.raises(AssertionError), little_work(bytes_read=100_000), open("/dev/zero", "rb") as file:
        file.read(200_000)


def test_a_little_work_is_fine() -> None:
    with little_work():
        assert sorted(range(100), key=str)[:2] == [0, 1]
