"""Commands where keys are missing, stand twice, or are asked for in a store that has others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import qstore
from qstore.cli import main


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command in this process, in a folder with m.npy of 8 rows, and vocab.txt of 6 tokens."""
    monkeypatch.chdir(tmp_path)
    np.save("m.npy", np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32))
    Path("vocab.txt").write_text("".join(f"t{number}\n" for number in range(6)))

    def command(*words: object) -> Result:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Result(status, *capsys.readouterr())

    return command


def test_a_word_asked_of_a_store_of_numbers(run: Run) -> None:
    qstore.build("m.npy", "n.h5", keys=np.arange(8) * 10)
    for word in ("queen", "1e1", "1_0", " 10", "5.0", "", "٣", "9" * 5000):
        for words in (("get", "n.h5", "--key", word), ("search", "n.h5", "--key", word)):
            found = run(*words)
            assert (found.status, found.out) == (2, "")
            assert f"the keys of this store are whole numbers, and {word!r:.80} is none" in found.err
            assert "literal" not in found.err
    found = run("get", "n.h5", "--key", 2**63 + 5)
    assert (found.status, found.err) == (
        2,
        "qstore: error: this key is not in the store: 9223372036854775813\n",
    )
    assert run("get", "n.h5", "--key", "+30", "--key", "010") == run("get", "n.h5", 3, 1)
    qstore.build("m.npy", "t.h5", keys=[str(number) for number in range(8)])
    assert run("get", "t.h5", "--key", "3") == run("get", "t.h5", 3)


def test_more_rows_than_tokens(run: Run) -> None:
    words = ("build", "m.npy", "--keys", "vocab.txt", "-o", "s.h5")
    for more in ((), ("--dry-run",)):
        found = run(*words, *more)
        assert found.status == 2
        assert "--missing-keys none" in found.err
        assert "--rows 0:6" in found.err
    assert run(*words, "--missing-keys", "none", "--dry-run", "-q").status == 0
    assert "keys    6, texts; 2 rows have none\n" in run(*words, "--missing-keys", "none").out
    assert "keys             6, texts; 2 rows have none\n" in run("info", "s.h5").out
    assert json.loads(run("info", "s.h5", "--json").out)["unkeyed_rows"] == 2
    verified = run("verify", "s.h5", "--against", "m.npy", "--keys", "vocab.txt", "--missing-keys", "none")
    assert (verified.status, "6 of them are found by their keys: 2 have none\n" in verified.out) == (0, True)
    assert run("verify", "s.h5", "--against", "m.npy", "--keys", "vocab.txt").status == 2
    assert run("verify", "s.h5", "--missing-keys", "none").status == 2
    assert run("get", "s.h5", "--key", "t5") == run("get", "s.h5", 5)
    lines = run("search", "s.h5", "--row", 7, "-k", 8).out.splitlines()
    assert len({line.rindex(" ") for line in lines}) <= 2  # the scores stand in one column
    assert [line.split()[1:-1] for line in lines if line.split()[1] in "67"] == [["7"], ["6"]]
    assert ["5", "t5"] in [line.split()[1:-1] for line in lines]
    hits = json.loads(run("search", "s.h5", "--row", 7, "-k", 8, "--json").out)
    assert {hit["row"]: hit["key"] for hit in hits} == {
        **{row: f"t{row}" for row in range(6)},
        6: None,
        7: None,
    }
    assert run(*words, "--rows", "0:6", "--force", "-q").status == 0
    assert "keys             6, texts\n" in run("info", "s.h5").out


def test_shards_of_a_padded_table(run: Run) -> None:
    words = ("build", "m.npy", "--keys", "vocab.txt", "-o", "x", "--shard-rows", 3, "--missing-keys", "none")
    assert "6, texts; 2 rows have none" in run(*words).out
    assert "at most 8, texts" in run("info", "x").out
    assert json.loads(run("info", "x", "--json").out)["unkeyed_rows"] is None
    assert "6 of them are found by their keys: 2 have none" in run("verify", "x").out


def test_the_same_key_in_two_shards(run: Run) -> None:
    Path("keys.txt").write_text("".join(f"{key}\n" for key in "abacdefg"))
    words = ("build", "m.npy", "--keys", "keys.txt", "-o", "x", "--shard-rows", 2)
    found = run(*words)
    assert (found.status, found.out) == (2, "")
    assert "rows 0 and 2 have the same key, 'a'" in found.err
    assert run("verify", "x").status == 2  # its shards are no stores of their own
    again = run(*words, "--duplicates", "first")
    assert (again.status, "8 rows had been done before" in again.out) == (0, True)
    verified = run("verify", "x")
    assert verified.status == 0
    assert (
        "7 of them are found by their keys: 1 has that of an earlier row, such as row 2, 'a' like row 0"
        in (verified.out)
    )
    report = json.loads(run("verify", "x", "--json").out)["store"]
    assert (report["repeated_rows"], report["repeated_example"]) == (1, ["a", 2, 0])
    qstore.build("m.npy", "s.h5", keys=list("abacdefg"), duplicates="first")
    assert "such as row 2, 'a' like row 0" in run("verify", "s.h5").out
    qstore.build("m.npy", "good.h5", keys=list("abicdefg"))
    assert run("verify", "good.h5").out.endswith(", and each row is found by its key\n")


def test_concat_and_append_never_drop_keys(run: Run) -> None:
    Path("x").mkdir()
    qstore.build("m.npy", "x/a.h5", keys=list("abcdefgh"))
    qstore.build("m.npy", "x/b.h5")
    qstore.build("m.npy", "x/c.h5", keys=list("ijklmnoa"))
    found = run("concat", "x/a.h5", "x/b.h5", "-o", "out.h5")
    assert (found.status, "--no-keys" in found.err) == (2, True)
    assert "keys    (none)\n" in run("concat", "x/a.h5", "x/b.h5", "-o", "out.h5", "--no-keys").out
    assert "keys    texts\n" in run("concat", "x/a.h5", "-o", "one.h5").out
    for names in ((), ("a.h5", "b.h5")):
        found = run("append", "x", *names)
        assert (found.status, "--no-keys" in found.err) == (2, True)
    assert run("append", "x", "a.h5", "b.h5", "--no-keys").status == 0
    assert run("append", "x", "c.h5").status == 2
    assert run("append", "x", "c.h5", "--no-keys").status == 0
    Path("x/qstore.json").unlink()
    assert run("append", "x", "a.h5").status == 0
    found = run("append", "x", "c.h5")
    assert (found.status, "rows 0 and 15 have the same key, 'a'" in found.err) == (2, True)
    assert run("append", "x", "c.h5", "--duplicates", "first").status == 0
