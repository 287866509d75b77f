"""The plan of the house: wings import only from wings below them, in no circle; the page about it is true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qstore"
PAGE = ROOT / "docs" / "architecture.md"

# From the ground up. A wing may import itself and what stands before it; those of one line do not know each
# other. The order of the wings stands here, and docs/architecture.md shows it.
ORDER = (
    ("errors",),
    ("system",),
    ("engine",),
    ("format",),
    ("sources",),
    ("keys",),
    ("writing", "reading"),
    ("analysis", "arrays", "remote"),
    ("opening", "writer", "environment"),
    ("store",),
    ("building",),
    ("exporting", "torch", "dask"),
    ("reports",),
    ("cli",),
)
FLOOR = {wing: number for number, wings in enumerate(ORDER) for wing in wings}

# Modules beside the wings: the front doors.
ROOT_FILES = {"__init__", "__main__", "environment", "errors", "opening", "store", "writer"}

# In a sentence, or as a command.
NAMED_FILE = re.compile(
    r"(?<![\w/])((?:qstore|tests|tools|docs|findings)/[\w./*-]*[\w*/]|\.ci/run|pyproject\.toml)(?![\w/])"
)

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(name: str) -> Iterator[str]:
    """Every module of qstore that this one imports, anywhere in it."""
    path = MODULES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in MODULES or base in MODULES:
                    yield inner if inner in MODULES else base


GRAPH = {name: set(imported(name)) - {name, "qstore"} for name in MODULES}


def wing_of(module: str) -> str:
    return module.split(".")[1]


def test_every_wing_has_its_place() -> None:
    assert len(FLOOR) == sum(map(len, ORDER))
    assert {wing_of(name) for name in MODULES if "." in name} - {"__main__"} == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("qstore", "qstore.__main__")])
def test_imports_go_down(name: str) -> None:
    here = wing_of(name)
    upwards = {
        other for other in GRAPH[name] if wing_of(other) != here and FLOOR[wing_of(other)] >= FLOOR[here]
    }
    assert not upwards, f"{name} imports {sorted(upwards)}: see ORDER in this file"


def test_no_circles() -> None:
    """Modules are taken away as long as there is one that imports none of those left; none may be left."""
    left = {name: set(others) for name, others in GRAPH.items() if name != "qstore"}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"these import each other in circles: {sorted(left)}"


def test_few_files_beside_the_wings() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_FILES
    assert len(ROOT_FILES) <= 10


@pytest.mark.parametrize(
    "wing", [path.parent for path in sorted(PACKAGE.glob("*/__init__.py"))], ids=lambda p: p.name
)
def test_every_wing_says_what_lives_there(wing: Path) -> None:
    text = ast.get_docstring(ast.parse((wing / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert 3 <= len(text.splitlines()) <= 12
    # Which wings it may use: the others it does use are named, or meant by "below".
    used = {wing_of(other) for name in GRAPH if wing_of(f"{name}.") == wing.name for other in GRAPH[name]}
    promised = text.partition("May use:")[2]
    assert promised, "its docstring has no 'May use:'"
    if "below" not in promised:
        assert used - {wing.name} <= set(re.findall(r"\w+", promised))


def without_words(code: str) -> str:
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\])*"', "", code, flags=re.S)


def test_kernels_call_each_other_in_no_circle() -> None:
    texts = {path.name: without_words(path.read_text("utf-8")) for path in (PACKAGE / "_kernels").glob("*.c")}
    defined = {
        function: name
        for name, text in texts.items()
        for function in re.findall(
            r"^(?!static|typedef)(?:\w+[\s*]+)+?(\w+)\([^;{}]*\)\s*\{", text, flags=re.M
        )
    }
    left = {
        name: {
            home for function, home in defined.items() if home != name and re.search(rf"\b{function}\(", text)
        }
        for name, text in texts.items()
    }
    assert left["pool.c"] >= {"pool_vnni.c", "pool_pairs.c", "pool_float64.c"}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert not left, f"these call each other in circles: {sorted(left)}"


def test_the_page_shows_the_order_and_names_what_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    picture = re.search(r"```text\n(.*?)```", text, flags=re.S)
    assert picture is not None
    shown = [re.findall(r"\w+", line[:32]) for line in picture[1].splitlines() if line.strip()]
    assert [set(line) for line in shown] == [set(wings) for wings in reversed(ORDER)]
    assert len(NAMED_FILE.findall(text)) > 40


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(PAGE.parent.glob("*.md"))], ids=lambda page: page.name
)
def test_files_that_pages_name_are_there(page: Path) -> None:
    for name in NAMED_FILE.findall(page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(name)), f"{page.name} names {name}, which is not there"
