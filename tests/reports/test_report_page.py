"""What the report says beside its figures: how many rows, which keys, of what and by what it was made."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import qstore
from qstore.building.verify_against import Noted, compared_with
from qstore.cli import main
from qstore.engine.row_errors import ROW_FIGURES
from qstore.reports.provenance import keys_words, made_by, source_words
from qstore.reports.row_sample import errors_of, sample_errors, sample_rows
from qstore.sources import RawSource

MakeStore = Callable[..., qstore.Store]

pytest.importorskip("matplotlib", reason="reports have pictures")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the words of a page are looked at: drawing takes seconds."""
    from qstore.reports import pictures

    monkeypatch.setattr(pictures, "available", lambda facts: [])


def facts_of(page: Path) -> dict[str, Any]:
    """The table cells of a page by their headings, and its JSON as "JSON"."""
    text = page.read_text()
    cells = re.findall(r"<tr><th>([^<]*)</th><td>([^<]*)</td></tr>", text)
    found: dict[str, Any] = {html.unescape(name): html.unescape(cell) for name, cell in cells}
    found["JSON"] = json.loads(text.partition('id="facts">')[2].partition("</script>")[0])
    return found


def figures_of(page: Path) -> dict[str, tuple[str, str]]:
    """Label and caption of each picture."""
    figure = r'<figure id="([^"]*)">\s*<svg role="img" aria-label="([^"]*)".*?<figcaption>(.*?)</figcaption>'
    found = re.findall(figure, page.read_text(), flags=re.S)
    return {name: (html.unescape(label), html.unescape(caption)) for name, label, caption in found}


# How many rows ---------------------------------------------------------------------------------------


def test_pictures_say_how_many_rows_they_show(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path
) -> None:
    store = make_store(matrix)
    qstore.report(store, "page.html", source=matrix)
    found = figures_of(folder / "page.html")
    for kind in ("errors", "error-cdf", "pca"):
        assert "1,500 of 3,001 rows, evenly spaced" in found[kind][1]
    assert "the lines are those of all rows" in found["error-cdf"][1]
    text = (folder / "page.html").read_text()
    assert text.count(">1,500 of 3,001 rows<") == 2  # legends of both pictures of errors
    few = make_store(matrix[:40], "few.h5")
    qstore.report(few, "few.html", source=matrix[:40])
    assert "All 40 rows in" in figures_of(folder / "few.html")["pca"][1]


def test_a_picture_alone_says_that_its_lines_are_of_a_sample(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path
) -> None:
    store = make_store(matrix)
    qstore.plot(store, "x.svg", kind="error-cdf", source=matrix)
    text = (folder / "x.svg").read_text()
    assert "99 % of these 1,500 of 3,001 rows: at most " in text
    few = make_store(matrix[20:60], "few.h5")
    qstore.plot(few, "few.svg", kind="error-cdf", source=matrix[20:60])
    assert "99 %: at most " in (folder / "few.svg").read_text()


def test_lines_of_the_picture_are_the_figures_of_the_table(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path
) -> None:
    """Half of the rows, those that are not in the sample, have an error that is ten times as large."""
    matrix[1::2, 0] = 10 * np.abs(matrix[1::2]).max(axis=1)
    store = make_store(matrix)
    qstore.report(store, "page.html", source=matrix)
    found = facts_of(folder / "page.html")["JSON"]["against"]["fidelity"]["relative_error_percentiles"]
    assert f"99 %: at most {100 * found['99']:.4g} %" in (folder / "page.html").read_text()
    assert (
        f"99 % of the rows at most {100 * found['99']:.4g} %"
        in figures_of(folder / "page.html")["error-cdf"][0]
    )


def test_rows_without_an_error_are_rows(make_store: MakeStore, folder: Path) -> None:
    """Three quarters of the rows are exact: half of the rows have none, not half of the others."""
    values = np.tile(np.array([127, 1, 2], np.float32), (400, 1))
    values[::4, 1] = 1.5
    qstore.report(make_store(values), "page.html", source=values)
    assert "50 % of the rows at most 0 %" in figures_of(folder / "page.html")["error-cdf"][0]


# Words for pictures ----------------------------------------------------------------------------------


def test_every_picture_is_told_in_words(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path
) -> None:
    store = make_store(matrix)
    qstore.report(store, "page.html", source=matrix)
    labels = {kind: label for kind, (label, _) in figures_of(folder / "page.html").items()}
    assert list(labels) == ["norms", "scales", "codes", "columns", "errors", "error-cdf", "pca"]
    assert len(set(labels.values())) == 7
    assert all(re.search(r"\d", label) and label.endswith(".") for label in labels.values())
    assert labels["codes"] == "Histogram of the codes: 255 of 256 are in use."
    norms = np.sort(np.linalg.norm(store.astype("float64")[:], axis=1))
    assert f"half of them up to {norms[1500]:.4g}, " in labels["norms"]


@pytest.mark.parametrize("values", [np.zeros((0, 3)), np.zeros((4, 3)), np.ones((1, 1))])
def test_words_for_pictures_of_little(
    make_store: MakeStore, folder: Path, values: NDArray[np.float64]
) -> None:
    qstore.report(make_store(values), "page.html", source=values)
    found = figures_of(folder / "page.html")
    assert len(found) == 7
    assert "nan" not in str(found)


def test_letters_are_large_enough_for_a_telephone(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    """A page 360 points wide has 312 beside its margins; all pictures at once stand two in a row."""
    from matplotlib.text import Text

    from qstore.reports import pictures

    store = make_store(matrix, keys=[f"word-{row}" for row in range(len(matrix))])
    facts = pictures.gather_facts(store, sample_errors(store, matrix))
    for kinds, least in ((["pca"], 9), (["columns"], 9), (["error-cdf"], 9), ([*pictures.KINDS], 4.9)):
        figure = pictures.draw(facts, kinds, pictures.LIGHT)
        shown = [text for text in figure.findobj(Text) if text.get_text()]
        smallest = min(text.get_fontsize() for text in shown)
        assert smallest * 312 / (72 * figure.get_figwidth()) >= least


# Keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "integer"])
@pytest.mark.usefixtures("no_pictures")
def test_rows_are_named_with_their_keys(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path, kind: str
) -> None:
    matrix[8] = matrix[7]
    keys: Any = [f"<{row}>" for row in range(3001)] if kind == "text" else np.arange(3001) * 7919
    store = make_store(matrix, keys=keys)
    qstore.report(store, "page.html", source=matrix)
    found = facts_of(folder / "page.html")
    worst = found["JSON"]["against"]["fidelity"]["worst_rows"][0][0]
    names = {
        row: f'{row} "<{row}>"' if kind == "text" else f"{row} (key {7919 * row})" for row in (7, 8, worst)
    }
    assert found["worst rows"].startswith(f"{names[worst]}, ")
    assert found["repeated rows"] == f"1 (row {names[8]} as {names[7]})"
    qstore.report(store, "alone.html")
    sampled = facts_of(folder / "alone.html")
    assert store.fidelity is not None
    first = store.fidelity.worst_rows[0][0]
    assert re.match(rf'{first} ("<{first}>"|\(key {7919 * first}\)), ', sampled["worst rows"])


def test_verify_names_worst_rows_with_their_keys(
    matrix: NDArray[np.float32], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("m.npy", matrix)
    qstore.build("m.npy", "named.h5", keys=[f"word {row}" for row in range(3001)])
    assert main(["verify", "named.h5", "--against", "m.npy"]) == 0
    assert re.search(r'^worst rows +(\d+) "word \1", \d', capsys.readouterr().out, flags=re.M)


# Of what, by what ------------------------------------------------------------------------------------


def forms_of(matrix: NDArray[np.float32]) -> dict[str, Any]:
    """Ways to give the source, beside its words on the command line."""
    np.save("m.npy", matrix)
    np.save("a.npy", matrix[:1000])
    np.save("b.npy", matrix[1000:])
    matrix.tofile("plain values")
    return {
        "none": (None, []),
        "file": ("m.npy", ["--against", "m.npy"]),
        "path": (Path("m.npy"), ["--against", "m.npy"]),
        "files": (["a.npy", "b.npy"], ["--against", "a.npy", "b.npy"]),
        "raw": (lambda: RawSource("plain values", "float32", 48), ["--against", "plain values"]),
        "array": (matrix, None),
        "chunks": (lambda: iter([matrix[:7], matrix[7:]]), None),
    }


@pytest.mark.parametrize("form", ["none", "file", "path", "files", "raw", "array", "chunks"])
@pytest.mark.usefixtures("no_pictures")
def test_the_page_names_source_version_and_a_command_that_makes_it(
    make_store: MakeStore, matrix: NDArray[np.float32], folder: Path, form: str
) -> None:
    store = make_store(matrix)
    source, words = forms_of(matrix)[form]
    qstore.report(store, "page.html", source=source() if callable(source) else source)
    found = facts_of(folder / "page.html")
    assert found["qstore"] == qstore.__version__
    assert found["JSON"]["made"]["qstore"] == qstore.__version__
    if form == "none":
        assert "source" not in found
    else:
        in_memory = {"array": "ndarray in memory, shape (3001, 48)", "chunks": "list_iterator in memory"}
        assert found["source"] == in_memory.get(form, ", ".join((words or [])[1:]))
        assert found["result"] == "every code and scale agrees"
    if words is None:
        assert "command" not in found
        return
    command = shlex.split(found["command"])
    assert command[: 5 + len(words)] == ["qstore", "report", "store.h5", "-o", "page.html", *words]
    made = (folder / "page.html").read_bytes()
    (folder / "page.html").unlink()
    assert main([*command[1:], "-q"]) == 0
    assert (folder / "page.html").read_bytes() == made


def test_tensor_rows_and_keys_are_in_the_command(make_store: MakeStore, matrix: NDArray[np.float32]) -> None:
    store = make_store(matrix)

    def command(
        tensor: str | None,
        rows: Any,
        keys: Any = None,
        encoding: str | None = None,
        missing: Any = "error",
        coding: Any = (None, 0),
        scaling: Any = (),
        join: bool = False,
    ) -> str:
        source = source_words("a b.npz", tensor, rows, coding[0], coding[1], join, *scaling)
        words = keys_words(keys, encoding, missing)
        return str(dict(made_by(store, Path("/x/page.html"), "a b.npz", source, words)).get("command"))

    begin = "qstore report store.h5 -o page.html --against 'a b.npz'"
    assert command("x", slice(5, None)) == f"{begin} --tensor x --rows 5:"
    assert command(None, (0, 0)) == f"{begin} --rows 0:0"
    assert command(None, slice(None, -1)) == f"{begin} --rows :-1"
    assert command(None, None, False) == f"{begin} --no-keys"
    assert command(None, None, Path("k.txt"), "latin-1") == f"{begin} --keys k.txt --key-encoding latin-1"
    assert command(None, None, "k.txt", None, "none") == f"{begin} --keys k.txt --missing-keys none"
    assert command(None, None, coding=(0.5, 3)) == f"{begin} --step 0.5 --zero-point 3"
    assert command(None, None, coding=(1.0, 0)) == f"{begin} --step 1.0"
    assert command("x", None, scaling=("x.s", False)) == f"{begin} --tensor x --scale x.s"
    assert command("x*", None, join=True) == f"{begin} --tensor 'x*' --join"
    assert command(None, None, scaling=(None, True)) == f"{begin} --as-stored"
    assert command(None, None, ["a", "b"]) == "None"
    raw = RawSource(store.path, "uint8", 1, rows=5)
    raw.close()
    assert dict(made_by(store, Path("page.html"), raw, source_words(raw, None, None, None, 0), [])) == {
        "qstore": qstore.__version__,
        "source": store.path,
    }


@pytest.mark.usefixtures("no_pictures")
def test_plain_values_on_the_command_line(matrix: NDArray[np.float32], folder: Path) -> None:
    qstore.build(matrix, "store.h5")
    matrix.tofile("values.bin")
    words = ["report", "store.h5", "-o", "page.html", "--against", "values.bin", "--raw", "float32:48"]
    assert main([*words, "-q"]) == 0
    assert facts_of(folder / "page.html")["result"] == "every code and scale agrees"


@pytest.mark.usefixtures("no_pictures")
def test_names_come_back_from_the_json(make_store: MakeStore, folder: Path) -> None:
    name = '</script><b>"&amp;'
    with qstore.Writer("store.h5", 2, tensor=name) as writer:
        writer.append([[1.0, 2.0]])
    with qstore.open("store.h5") as store:
        qstore.report(store, "page.html")
    found = facts_of(folder / "page.html")
    assert (found["JSON"]["store"]["tensor"], found["tensor"]) == (name, name)
    assert "<b>" not in (folder / "page.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_store_whose_name_is_no_text(folder: Path) -> None:
    qstore.build([[1.0, 2.0]], b"st\xffre.h5".decode(errors="surrogateescape"))
    with qstore.open(b"st\xffre.h5".decode(errors="surrogateescape")) as store:
        qstore.report(store, "page.html")
    assert "<h1>st\\udcffre.h5</h1>" in (folder / "page.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_sizes_of_several_files(matrix: NDArray[np.float32], folder: Path) -> None:
    qstore.build_shards(matrix, "shards", 1000)
    parts = sorted((folder / "shards").glob("*.h5"))
    total = f"{sum(part.stat().st_size for part in parts):,} bytes; {4 * matrix.size:,} as float32"
    for place in ("shards", [str(part) for part in parts]):
        with qstore.open(place) as store:
            qstore.report(store, "page.html", overwrite=True)
        found = facts_of(folder / "page.html")
        assert found["size"] == total
        assert ("command" in found) == (place == "shards")


@pytest.mark.usefixtures("no_pictures")
def test_a_store_behind_a_url(matrix: NDArray[np.float32], folder: Path) -> None:
    pytest.importorskip("aiohttp")
    import sys

    sys.path.append(str(Path(__file__).parents[2] / "tools"))
    from range_server import serving

    qstore.build(matrix, "store.h5")
    with serving() as server:
        server.objects["store.h5"] = Path("store.h5").read_bytes()
        with qstore.open(server.url("store.h5") + "?signature=secret") as store:
            qstore.report(store, "page.html", source=matrix)
    found = facts_of(folder / "page.html")
    assert found["size"].startswith(f"{3001 * 56:,} bytes of codes and scales; ")
    assert "secret" not in (folder / "page.html").read_text()
    assert sorted(os.listdir()) == ["page.html", "store.h5"]


@pytest.mark.parametrize("form", ["array", "chunks"])
def test_one_pass_gives_the_errors_of_the_sample(
    make_store: MakeStore, matrix: NDArray[np.float32], form: str
) -> None:
    store = make_store(matrix)
    sample = sample_rows(store, 100)
    noted, unlike = Noted(sample), Noted(sample)
    chunks: Any = matrix if form == "array" else iter([matrix[:7], matrix[7:2000], matrix[2000:]])
    report, _ = compared_with(store, chunks, noted=noted)
    found, expected = errors_of(store, sample, noted.figures()), sample_errors(store, matrix, most=100)
    assert report == qstore.verify_against(store, matrix)
    for name in ("rows", "rms", "expected", "relative"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    other, _ = compared_with(store, matrix[:, :7], noted=unlike)
    assert (other.ok, unlike.figures().shape) == (False, (0, ROW_FIGURES))


@pytest.mark.usefixtures("no_pictures")
def test_steps_and_missing_keys_are_compared(folder: Path) -> None:
    np.save("whole.npy", np.arange(-6, 6, dtype=np.int8).reshape(6, 2))
    (folder / "keys.txt").write_text("a\nb\nc\n")
    options = ["--step", "0.5", "--keys", "keys.txt", "--missing-keys", "none"]
    assert main(["build", "whole.npy", "-o", "store.h5", *options, "-q"]) == 0
    assert main(["report", "store.h5", "-o", "page.html", "--against", "whole.npy", *options, "-q"]) == 0
    found = facts_of(folder / "page.html")
    assert found["result"] == "every code, scale and key agrees"
    command = shlex.split(found["command"])
    made = (folder / "page.html").read_bytes()
    (folder / "page.html").unlink()
    assert main([*command[1:], "-q"]) == 0
    assert (folder / "page.html").read_bytes() == made
    assert main(["report", "store.h5", "-o", "page.html", "--step", "1", "-q", "--force"]) == 2
