"""How commands print: sizes, tables, characters that an encoding lacks."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from qstore.cli import main
from qstore.cli.printing import byte_size, print_table

# ls and info -----------------------------------------------------------------------------------------


def test_an_encoding_that_lacks_a_character(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_only)
    assert main(["info", str(store)]) == 0
    ascii_only.seek(0)
    assert "200 \\xd7 16" in ascii_only.read()


# Small parts -----------------------------------------------------------------------------------------


def test_sizes_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert [byte_size(n) for n in (0, 1000, 999_949, 999_950, 10**9, 5 * 10**15)] == [
        "0 B",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "1.0 GB",
        "5,000.0 TB",
    ]
    print_table([])
    print_table([("a", "b"), ("long", 3)])
    assert capsys.readouterr().out == "a     b\nlong  3\n"
