"""Pictures and the report: what they draw, that they need nothing else, and a browser that opens the page."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.reports import row_sample
from qstore.reports.row_sample import plane_of, sample_errors, sample_rows

MakeStore = Callable[..., qstore.Store]

# A few evenly spaced rows ---------------------------------------------------------------------------


def test_sampled_rows_are_evenly_spaced(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(np.ones((103, 3)))
    assert sample_rows(store, 1000).tolist() == list(range(103))
    assert sample_rows(store, 10).tolist() == [row * 103 // 10 for row in range(10)]
    monkeypatch.setattr(row_sample, "_MOST_VALUES", 15)
    assert sample_rows(store, 10).size == 5
    assert sample_rows(make_store(np.ones((0, 3)), "empty.h5"), 10).size == 0


@pytest.mark.parametrize("form", ["array", "chunks"])
def test_sampled_errors(make_store: MakeStore, matrix: NDArray[np.float32], form: str) -> None:
    store = make_store(matrix)
    source: Any = matrix if form == "array" else iter([matrix[:7], matrix[7:2000], matrix[2000:]])
    found = sample_errors(store, source, most=100)
    values = store.astype("float64")[:]
    rms = np.sqrt(((values - matrix.astype(np.float64)) ** 2).mean(axis=1))[found.rows]
    np.testing.assert_allclose(found.rms, rms, rtol=1e-12)
    np.testing.assert_allclose(found.expected, store.scales[found.rows] / np.sqrt(12), rtol=1e-15)


def test_errors_of_other_sources(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(matrix)
    with pytest.raises(qstore.SourceError, match="it was not built from it"):
        sample_errors(store, matrix[1:])
    with pytest.raises(qstore.SourceError, match="ends before row"):
        sample_errors(store, iter([matrix[:1000]]))
    with pytest.raises(qstore.SourceError, match="quantized itself"):
        sample_errors(store, (store.codes[:], store.scales[:]))


@pytest.mark.parametrize("shape", [(200, 5), (30, 400), (1, 7), (50, 1), (9, 9)])
def test_the_main_plane(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(1).standard_normal(shape) * np.linspace(3, 1, shape[1]) * 1e200
    places, shares = plane_of(values)
    centred = (values - values.mean(axis=0)) / 1e200
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    expected = np.zeros((shape[0], 2))
    wanted = min(2, sizes.size)
    expected[:, :wanted] = left[:, :wanted] * sizes[:wanted]
    np.testing.assert_allclose(np.abs(places / 1e200), np.abs(expected), atol=1e-6)
    assert (places[np.abs(places).argmax(axis=0), [0, 1]] >= 0).all()
    if sizes.any():
        np.testing.assert_allclose(shares[:wanted], (sizes**2 / (sizes**2).sum())[:wanted], atol=1e-9)


# Pictures -------------------------------------------------------------------------------------------


@pytest.fixture
def pictures() -> Any:
    pytest.importorskip("matplotlib")
    from qstore.reports import pictures

    return pictures


@pytest.fixture(scope="module")
def named_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with keys, a row of zeros, repeated rows and an outlier column."""
    values = np.random.default_rng(7).standard_normal((3001, 48)).astype(np.float32)
    values[5] = 0
    values[[17, 18]] = values[[20, 21]]
    values[:, 9] = 30
    path = tmp_path_factory.mktemp("named") / "named.h5"
    qstore.build(values, path, keys=[f"wörd $x_{row}$ <{row}>" for row in range(3001)])
    return path


@pytest.fixture
def named(named_file: Path) -> Iterator[qstore.Store]:
    with qstore.open(named_file) as store:
        yield store


@pytest.fixture(scope="module")
def report_page(named_file: Path) -> Path:
    """Its report, with all that a report can have."""
    pytest.importorskip("matplotlib")
    path = named_file.with_name("page.html")
    with qstore.open(named_file) as store:
        qstore.report(store, path, source=store[:])
    return path


def test_every_picture(pictures: Any, named: qstore.Store, tmp_path: Path) -> None:
    values = named[:]
    for ending in ("png", "svg"):
        kinds = qstore.plot(named, tmp_path / f"all.{ending}", source=values)
        assert kinds == tuple(pictures.KINDS)
    first = (tmp_path / "all.svg").read_bytes()
    for words in (
        b"Norms of the rows",
        b"scale / \xe2\x88\x9a12",
        b"steps of the others",
        b"w\xc3\xb6rd $x_",
    ):
        assert words in first
    qstore.plot(named, tmp_path / "all.svg", source=values, overwrite=True)
    assert (tmp_path / "all.svg").read_bytes() == first


def test_pyplot_and_its_state_are_left_alone(pictures: Any, named: qstore.Store, tmp_path: Path) -> None:
    code = (
        "import sys, qstore; store = qstore.open(sys.argv[1]); qstore.plot(store, sys.argv[2]); "
        "qstore.report(store, sys.argv[3]); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    arguments = [named.path, tmp_path / "x.png", tmp_path / "x.html"]
    subprocess.run([sys.executable, "-W", "error", "-c", code, *map(str, arguments)], check=True)


def test_dark_and_light(pictures: Any, named: qstore.Store, tmp_path: Path) -> None:
    qstore.plot(named, tmp_path / "light.svg", kind="norms")
    qstore.plot(named, tmp_path / "dark.svg", kind="norms", dark=True)
    light, dark = (tmp_path / "light.svg").read_text(), (tmp_path / "dark.svg").read_text()
    assert pictures.LIGHT.ink in light
    assert pictures.DARK.ink not in light
    assert pictures.DARK.ink in dark
    for theme in (pictures.LIGHT, pictures.DARK):
        assert contrast(theme.ink, theme.background) > 7
        assert contrast(theme.main, theme.background) > 3
        assert contrast(theme.accent, theme.background) > 3


def contrast(one: str, other: str) -> float:
    """As the Web Content Accessibility Guidelines measure it."""

    def luminance(color: str) -> float:
        parts = np.array([int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((0, 3)), np.zeros((4, 3)), np.ones((1, 1)), np.full((3, 2), 1e300), np.eye(2) * 1e-310],
    ids=["no rows", "zeros", "one value", "huge", "tiny"],
)
def test_pictures_of_little(
    pictures: Any, make_store: MakeStore, tmp_path: Path, matrix: NDArray[np.float64]
) -> None:
    store = make_store(matrix)
    qstore.plot(store, tmp_path / "little.svg", source=matrix)
    assert (tmp_path / "little.svg").stat().st_size > 1000


def test_labels_do_not_lie_over_each_other(pictures: Any, named: qstore.Store) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = pictures.draw(pictures.gather_facts(named), ["pca"], pictures.LIGHT)
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) >= 5
    assert not [1 for place, box in enumerate(boxes) for other in boxes[:place] if box.overlaps(other)]


def test_nothing_lies_over_anything(pictures: Any, named: qstore.Store) -> None:
    """Titles, axis labels and numbers of all panels: none over another."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = pictures.draw(
        pictures.gather_facts(named, sample_errors(named, named[:])), list(pictures.KINDS), pictures.LIGHT
    )
    FigureCanvasAgg(figure).draw()
    texts = []
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    shown = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    crossing = [
        (text, other)
        for place, (text, box) in enumerate(boxes)
        for other, another in boxes[:place]
        if box.overlaps(another)
    ]
    assert len(boxes) > 50
    assert crossing == []


def test_what_plot_refuses(pictures: Any, named: qstore.Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.png, \.svg"):
        qstore.plot(named, tmp_path / "x.pdf")
    with pytest.raises(ValueError, match="there is no picture 'cdf': expected one of norms"):
        qstore.plot(named, tmp_path / "x.png", kind="cdf")
    with pytest.raises(ValueError, match="needs the source"):
        qstore.plot(named, tmp_path / "x.png", kind=["norms", "errors"])
    (tmp_path / "there.png").write_bytes(b"old")
    with pytest.raises(qstore.ExistsError, match="overwrite=True"):
        qstore.plot(named, tmp_path / "there.png")
    with pytest.raises(qstore.OutputError):
        qstore.plot(named, tmp_path / "no folder" / "x.png", kind="norms")
    assert os.listdir(tmp_path) == ["there.png"]


def test_a_missing_library_is_named(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    store = make_store(np.ones((2, 2)))
    for write in (qstore.plot, qstore.report):
        with pytest.raises(qstore.MissingExtraError, match=r'pip install "qstore\[plot\]"'):
            write(store, tmp_path / "x.svg")
    assert os.listdir(tmp_path) == ["store.h5"]


# The report -----------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.json = ""
        self._in_facts = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._in_facts = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_facts = False

    def handle_data(self, data: str) -> None:
        self.json += data if self._in_facts else ""


def test_the_report_is_one_page_that_fetches_nothing(pictures: Any, report_page: Path) -> None:
    text = report_page.read_text()
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert names.count("svg") == len(pictures.KINDS)
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(names)
    assert [dict(found) for tag, found in page.tags if tag == "script"] == [
        {"type": "application/json", "id": "facts"}
    ]
    for tag, found in page.tags:
        for name in ("href", "xlink:href", "src", "srcset", "action", "data"):
            assert (found.get(name) or "#").startswith("#"), (tag, found)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert "<13>" not in text  # keys are escaped
    assert 'class="warning"' in text


def test_figures_of_the_report_are_exact(pictures: Any, named: qstore.Store, tmp_path: Path) -> None:
    source = named.astype("float64")[:] * (1 + 1e-3 * np.random.default_rng(1).standard_normal(named.shape))
    qstore.report(named, tmp_path / "page.html", source=source)
    found = json.loads(Page((tmp_path / "page.html").read_text()).json)
    errors = named.astype("float64")[:].astype(np.longdouble) - source
    norms = np.sqrt((source.astype(np.longdouble) ** 2).sum(axis=1))
    filled = norms > 0
    relative = np.sqrt((errors**2).sum(axis=1))[filled] / norms[filled]
    fidelity = found["against"]["fidelity"]
    assert fidelity["rms_error"] == pytest.approx(float(np.sqrt((errors**2).mean())), rel=1e-12)
    assert fidelity["max_error"] == pytest.approx(float(np.abs(errors).max()), rel=1e-12)
    assert fidelity["relative_error_mean"] == pytest.approx(float(relative.mean()), rel=1e-12)
    assert fidelity["relative_error_max"] == pytest.approx(float(relative.max()), rel=1e-12)
    assert fidelity["snr_db"] == pytest.approx(
        float(10 * np.log10((source.astype(np.longdouble) ** 2).sum() / (errors**2).sum())), rel=1e-12
    )
    assert found["store"]["content id"] == named.content_id
    assert found["stats"]["rows"] == 3001
    built = dataclasses.asdict(named.fidelity) if named.fidelity else {}
    assert found["fidelity"]["rms_error"] == built["rms_error"]


def test_reports_of_stores_without_a_source(pictures: Any, make_store: MakeStore, tmp_path: Path) -> None:
    codes, scales = qstore.quantize(np.random.default_rng(1).standard_normal((50, 4)))
    store = make_store((codes, scales), "coded.h5")
    qstore.report(store, tmp_path / "coded.html", source=(codes, scales))
    assert "every code and scale agrees" in (tmp_path / "coded.html").read_text()
    qstore.report(store, tmp_path / "alone.html")
    assert "Errors" not in (tmp_path / "alone.html").read_text()
    qstore.report(make_store(np.zeros((0, 2)), "empty.h5"), tmp_path / "empty.html")
    with pytest.raises(qstore.ExistsError):
        qstore.report(store, tmp_path / "alone.html")


def chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        if os.environ.get("QSTORE_CI"):
            pytest.fail("chromium is missing, and QSTORE_CI=1 lets nothing be skipped")
        pytest.skip("no browser is installed")
    return found


PROBE = """
<script>
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("figure")].map(one => one.getBoundingClientRect());
  const overlap = boxes.some((a, i) => boxes.slice(0, i).some(b =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
  document.body.dataset.result = JSON.stringify({
    fetched: performance.getEntriesByType("resource").length, overlap,
    wide: document.documentElement.scrollWidth > innerWidth,
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector("svg text")).fill,
    drawn: boxes.filter(box => box.width > 200 && box.height > 100).length });
});
</script>
"""


def opened(page: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
    """What a real browser makes of the page, and every path that it asked the server for."""
    content, asked = page.read_bytes() + PROBE.encode(), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == "/page.html" else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content if self.path == "/page.html" else b"")

        def log_message(self, *arguments: object) -> None:
            """Not to stderr."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [
                *(
                    chromium(),
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-quic",
                    "--no-first-run",
                ),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                *(f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--dump-dom", *options),
                f"http://127.0.0.1:{server.server_port}/page.html",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    result = re.search(r'data-result="([^"]*)"', done.stdout)
    assert result is not None, done.stdout[-2000:]
    return json.loads(html.unescape(result[1])), asked


@pytest.mark.parametrize("window", ["1300,900", "500,900"])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_opens_the_report(pictures: Any, report_page: Path, window: str, dark: bool) -> None:
    chromium()
    scheme = (
        ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    )
    found, asked = opened(report_page, f"--window-size={window}", *scheme)
    assert found["fetched"] == 0
    assert [path for path in asked if path != "/favicon.ico"] == ["/page.html"]
    assert (found["overlap"], found["wide"], found["drawn"]) == (False, False, len(pictures.KINDS))
    theme = pictures.DARK if dark else pictures.LIGHT
    assert (found["ground"], found["ink"]) == (rgb(theme.background), rgb(theme.ink))


def rgb(color: str) -> str:
    return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"
