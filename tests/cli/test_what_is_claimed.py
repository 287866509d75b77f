"""verify, info, report and compare say what was checked and measured, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qstore
from qstore.cli import main

VALUES = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
WORDS = [f"w{row}" for row in range(300)]


@pytest.fixture
def npy(tmp_path: Path) -> str:
    np.save(tmp_path / "in.npy", VALUES)
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
    qstore.build(tmp_path / "in.npy", tmp_path / "plain.h5")
    qstore.build(tmp_path / "in.npy", tmp_path / "keyed.h5", keys=WORDS)
    return str(tmp_path / "in.npy")


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    capsys.readouterr()
    assert main(list(map(str, arguments))) == status
    return capsys.readouterr().out


def test_keys_are_only_claimed_where_they_were_compared(
    npy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = f"every code and scale of 300 rows agrees with {npy}"
    assert plain in shown(capsys, "verify", tmp_path / "plain.h5", "--against", npy)
    assert plain in shown(capsys, "verify", tmp_path / "keyed.h5", "--against", npy)
    keys = "--keys", tmp_path / "words.txt"
    text = shown(capsys, "verify", tmp_path / "keyed.h5", "--against", npy, *keys)
    assert f"every code, scale and key of 300 rows agrees with {npy}" in text


def test_keys_of_the_source_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.h5"
    source.write_text("2 2\na 1 2\nb 3 4\n")
    qstore.build(source, out)
    assert "every code, scale and key of 2 rows" in shown(capsys, "verify", out, "--against", source)
    text = shown(capsys, "verify", out, "--against", source, "--no-keys")
    assert "every code and scale of 2 rows" in text
    source.write_text("2 2\na 1 2\nc 3 4\n")
    text = shown(capsys, "verify", out, "--against", source, status=1)
    assert "1 row differs: row 1" in text
    assert "agrees with" not in text
    assert qstore.verify_against(qstore.open(out), source).keys_compared


def test_a_difference_is_no_agreement(npy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(npy, VALUES + 1)
    text = shown(capsys, "verify", tmp_path / "plain.h5", "--against", npy, status=1)
    assert "every code" not in text
    np.save(npy, VALUES[:299])
    assert "every code" not in shown(capsys, "verify", tmp_path / "plain.h5", "--against", npy, status=1)


def test_how_many_rows_were_measured(npy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qstore.build(VALUES.repeat(10, axis=0).repeat(8, axis=1), tmp_path / "many.h5")
    text = shown(capsys, "info", tmp_path / "many.h5")
    assert "128 of 3,000 rows, at the build" in text
    assert "of 99 % of the rows at most 0." in text


def test_rows_of_zeros_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qstore.build(np.zeros((3, 4)), tmp_path / "zeros.h5")
    text = shown(capsys, "info", tmp_path / "zeros.h5")
    assert "none: all of these rows are zeros" in text
    assert "nan" not in text
    qstore.build([[0.0, 0.0], [1.0, 0.3]], tmp_path / "some.h5")
    assert "(1 rows of zeros aside)" in shown(capsys, "info", tmp_path / "some.h5")


def test_equal_stores(npy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, keyed = tmp_path / "plain.h5", tmp_path / "keyed.h5"
    assert shown(capsys, "compare", plain, plain) == "equal: 300 rows\n"
    assert shown(capsys, "compare", keyed, keyed) == "equal: 300 rows\n"
    assert "equal:" not in shown(capsys, "compare", plain, keyed, status=1)


def test_the_page_says_the_same(npy: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    holes = VALUES.copy()
    holes[7, 3] = np.nan
    qstore.build(holes, tmp_path / "holes.h5", nonfinite="zero")
    with qstore.open(tmp_path / "holes.h5") as store:
        qstore.report(store, tmp_path / "holes.html", source=holes)
        qstore.report(store, tmp_path / "alone.html")
    text = (tmp_path / "holes.html").read_text()
    assert "every code and scale agrees; NaN and infinities were compared as 0: 1 value, the first in" in text
    assert "all 300 rows" in (tmp_path / "alone.html").read_text()
