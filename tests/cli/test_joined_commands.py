"""--join: several tensors of a checkpoint as one matrix, in the commands that take tensors."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import Run

import qstore

sys.path.append(str(Path(__file__).parents[2] / "tools"))

from fixtures.ngram_tables import PATTERN, Table, write

COUNT = 12
TENSOR = ("--tensor", "t.shard_*", "--join")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(COUNT):
            file[f"t.shard_{number}"] = np.full((5, 3), number + 1, np.float16)
        file["bias"] = np.zeros(3)
        file["other.weight"] = np.ones((4, 2))
    return path


def test_ls_lists_each_and_all_as_one(run: Run, checkpoint: Path) -> None:
    out = run("ls", checkpoint).out
    assert re.search(r"^t\.shard_11 +5 × 3 +float16 +30 B$", out, re.MULTILINE)
    assert re.search(r"^t\.shard_\* +60 × 3 \(12 tensors, --join\) +float16 +360 B$", out, re.MULTILINE)
    listed = json.loads(run("ls", checkpoint, "--json").out)
    assert len(listed) == COUNT + 3
    whole = {"name": "t.shard_*", "shape": [60, 3], "dtype": "float16", "bytes": 360, "members": COUNT}
    assert listed[-1] == {"path": str(checkpoint), **whole}
    assert all("members" not in one for one in listed[:-1])


def test_build_and_verify(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    store = tmp_path / "t.h5"
    planned = json.loads(run("build", checkpoint, *TENSOR, "-o", store, "--dry-run", "--json").out)
    assert (planned["rows"], planned["tensor"]) == (60, "t.shard_*")
    assert not store.exists()
    result = run("build", checkpoint, *TENSOR, "-o", store)
    assert result.status == 0
    assert re.search(r"tensor +t\.shard_\*\nmatrix +60 × 3 float16", result.out)
    with qstore.open(store) as opened:
        assert opened[:, 0].tolist() == [number + 1 for number in range(COUNT) for _ in range(5)]
    assert run("verify", store, "--against", checkpoint, *TENSOR, "-q").status == 0
    assert run("verify", store, "--against", checkpoint, "-q").status == 0
    assert run("verify", store, "--against", checkpoint, "--tensor", "t.shard_?", "--join", "-q").status == 1


def test_build_of_shards(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    words = ("build", checkpoint, *TENSOR, "-o", f"{tmp_path}/t/", "--shard-rows", 7, "--rows", "3:50")
    assert json.loads(run(*words, "--dry-run", "--json").out)["shards"] == 7
    assert run(*words).status == 0
    with qstore.open(tmp_path / "t") as opened:
        assert opened.shape == (47, 3)
    assert run("verify", tmp_path / "t", "--against", checkpoint, *TENSOR, "--rows", "3:50", "-q").status == 0


def test_report_says_the_command(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run("build", checkpoint, *TENSOR, "-o", tmp_path / "t.h5", "-q")
    page = tmp_path / "t.html"
    assert run("report", tmp_path / "t.h5", "-o", page, "--against", checkpoint, *TENSOR, "-q").status == 0
    assert "--tensor &#x27;t.shard_*&#x27; --join" in page.read_text()
    picture = ("plot", tmp_path / "t.h5", "-o", tmp_path / "t.png", "--kind", "errors")
    assert run(*picture, "--against", checkpoint, *TENSOR, "-q").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("build", "SRC", "-o", "x.h5", "--join"), "--join goes with --tensor PATTERN"),
        (("build", "SRC", "-o", "x/", *TENSOR), "--join makes one store: name a file as OUT"),
        (("build", "SRC", "SRC", "-o", "x.h5", *TENSOR), "expected one file or checkpoint"),
        (
            ("build", "SRC", "-o", "x.h5", "--tensor", "*", "--join"),
            "both match, and differ in more than numbers",
        ),
        (("build", "SRC", "-o", "x.h5", "--tensor", "t.shard_[2-9]", "--join"), "begins with 't.shard_2'"),
        (
            ("build", "SRC", "-o", "x.h5", "--tensor", "t.shard_*"),
            "a pattern needs --join (one store of all)",
        ),
        (
            ("verify", "SRC", "--join"),
            "--tensor, --join, --scale, --as-stored and --rows say what of SRC to compare",
        ),
    ],
)
def test_what_cannot_be_joined_ends_with_2(
    run: Run, checkpoint: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    before = sorted(tmp_path.iterdir())
    places = {"SRC": str(checkpoint), "x.h5": str(tmp_path / "x.h5"), "x/": f"{tmp_path}/x/"}
    result = run(*(places.get(word, word) for word in words))
    assert result.status == 2
    assert said in result.err
    assert sorted(tmp_path.iterdir()) == before


def test_quantized_pieces_are_one_matrix_with_their_scales(run: Run, tmp_path: Path) -> None:
    """Named by the listing; built, compared and told in a report without a word about scales."""
    write(tmp_path / "made", Table("packed", 4 * 6, 32, 12), files=2)
    listed = json.loads(run("ls", tmp_path / "made", "--json").out)
    (family,) = [one for one in listed if one.get("members")]
    (one, *_) = [one for one in listed if one["name"] == PATTERN.replace("*", "0")]
    assert (family["name"], family["shape"], family["bytes"]) == (PATTERN, [24, 32], 12 * one["bytes"])
    assert family["convention"] == one["convention"] != ""
    store = tmp_path / "t.h5"
    words = ("--tensor", PATTERN, "--join")
    built = json.loads(run("build", tmp_path / "made", *words, "-o", store, "--json").out)
    assert (built["rows"], built["convention"]) == (24, family["convention"])
    assert run("verify", store, "--against", tmp_path / "made", "-q").status == 0
    assert run("build", tmp_path / "made", *words, "--as-stored", "-o", tmp_path / "s.h5").status == 2
