"""Keys on the command line, both ways: ``qstore keys``, and keys beside what other commands print."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run

import qstore

WORDS = ["king", "queen", "a b", 'say "x", y', "line\nfeed", "", None, "𝄞"]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    values = np.arange(16.0).reshape(8, 2)
    qstore.build(values, tmp_path / "words.h5", keys=WORDS, missing_keys="none")
    qstore.build(values, tmp_path / "ids.h5", keys=np.arange(8) * 10 - 20)
    qstore.build(values, tmp_path / "none.h5")
    return tmp_path / "words.h5"


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))


def test_rows_to_keys(run: Run, words: Path) -> None:
    assert run("keys", words, 1).out == "1\tqueen\n"
    assert run("keys", words, -8, "1:3").out == "0\tking\n1\tqueen\n2\ta b\n"
    assert run("keys", words, "4:").out == "4\tline\\nfeed\n5\t\n6\t\n7\t𝄞\n"
    assert json.loads(run("keys", words, "--json").out) == [
        {"row": row, "key": key} for row, key in enumerate(WORDS)
    ]
    assert run("keys", words, "3:3").out == ""
    assert json.loads(run("keys", words, "3:3", "--json").out) == []
    assert run("keys", words.parent / "ids.h5", 0, "-1").out == "0\t-20\n7\t50\n"


def test_keys_to_rows(run: Run, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("keys", words, "--key", "queen", "--key", "king").out == "1\tqueen\n0\tking\n"
    (words.parent / "wanted.txt").write_bytes(b"\xef\xbb\xbfa b\r\nking\n")
    assert run("keys", words, 7, "--key", "queen", "--keys", words.parent / "wanted.txt").out == (
        "7\t𝄞\n1\tqueen\n2\ta b\n0\tking\n"
    )
    stdin(monkeypatch, b"30\n-20")
    assert run("keys", words.parent / "ids.h5", "--keys", "-").out == "5\t30\n0\t-20\n"
    stdin(monkeypatch, b"")
    assert run("keys", words, "--keys", "-").out == ""


def test_what_is_wrong(run: Run, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in (
        (("keys", words.parent / "none.h5"), "have no keys"),
        (("keys", words, 8), "index 8 is out of bounds"),
        (("keys", words, "--key", "king", "--key", "rook"), "'rook'"),
        (("keys", words.parent / "ids.h5", "--key", "king"), "'king' is none"),
        (("keys", words, "--keys", words), "expected keys in UTF-8"),
        (("keys", words, "--keys", words.parent / "nowhere"), "No such file"),
        (("get", words, 0, "--with-keys", "--format", "npy"), "qstore keys"),
        (("get", words), "--keys FILE"),
        (("get", words.parent / "none.h5", 0, "--with-keys"), "have no keys"),
        (("search", words, "--vector", "v.npy", "--others"), "a vector is no row"),
    ):
        result = run(*arguments)
        assert (result.status != 0, result.out) == (True, "")
        assert said in result.err


def test_get_with_keys(run: Run, words: Path) -> None:
    plain = run("get", words, ":").out.splitlines()
    lines = run("get", words, ":", "--with-keys").out.splitlines()
    shown = ["king", "queen", "a b", 'say "x", y', "line\\nfeed", "", "", "𝄞"]
    assert lines == [f"{key}\t{line}" for key, line in zip(shown, plain, strict=True)]
    table = list(csv.reader(io.StringIO(run("get", words, ":", "--with-keys", "--format", "csv").out)))
    assert [row[0] for row in table] == [key or "" for key in WORDS]
    assert [",".join(row[1:]) for row in table] == run("get", words, ":", "--format", "csv").out.splitlines()
    found = json.loads(run("get", words, "1::3", "--key", "king", "--with-keys", "--format", "json").out)
    values: Any = json.loads(run("get", words, ":", "--format", "json").out)
    assert found == [{"row": row, "key": WORDS[row], "values": values[row]} for row in (1, 4, 7, 0)]
    one = json.loads(run("get", words, 1, "--with-keys", "--format", "json").out)
    assert one == {"row": 1, "key": "queen", "values": values[1]}


def test_get_takes_keys_of_a_file(run: Run, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"queen\nking\n")
    assert run("get", words, "--keys", "-") == run("get", words, 1, 0)


def test_search_among_others(run: Run, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = json.loads(run("search", words, "--key", "queen", "--json").out)
    assert any(hit["row"] == 1 for hit in everything)
    others = json.loads(run("search", words, "--key", "queen", "--others", "--json").out)
    assert [hit["row"] for hit in others] == [hit["row"] for hit in everything if hit["row"] != 1]
    assert [hit["rank"] for hit in others] == list(range(1, 8))
    stdin(monkeypatch, b"queen\nking\n")
    several = json.loads(run("search", words, "--keys", "-", "-k", 1, "--others", "--json").out)
    assert [hit["query"] for hit in several] == [0, 1]
    assert several[0] == {**others[0], "query": 0}
