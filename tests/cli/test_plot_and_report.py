"""qstore plot and qstore report."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Run


def test_plot(run: Run, store: Path, npy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run("plot", store, "-o", tmp_path / "all.png")
    assert (result.status, result.out) == (0, f"{tmp_path}/all.png: norms, scales, codes, columns, pca\n")
    assert (tmp_path / "all.png").read_bytes()[:4] == b"\x89PNG"
    words = ("plot", store, "-o", tmp_path / "one.svg", "--kind", "errors")
    assert run(*words).status == 2
    assert run(*words, "--against", npy, "--dark", "-q") == (0, "", "")
    assert run(*words, "--against", npy).status == 2
    assert run(*words, "--against", npy, "--force").status == 0
    assert run("plot", store, "-o", tmp_path / "x.jpg").status == 2
    assert run("plot", store, "-o", tmp_path / "x.png", "--rows", ":5").status == 2


def test_report(run: Run, store: Path, npy: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.html"
    assert run("report", store, "-o", page) == (0, f"{page}\n", "")
    assert "measured at the build" in page.read_text()
    assert run("report", store, "-o", page).status == 2
    assert run("report", store, "-o", page, "--force", "--against", npy, "-q") == (0, "", "")
    assert "every code and scale agrees" in page.read_text()
