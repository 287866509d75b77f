"""Whatever users hand in, what is raised is an error of ours or a standard one, and says what was expected.

Every argument of every public function and method is tried, by its signature: a new one is tried, too.
"""

from __future__ import annotations

import importlib.util
import inspect
import operator
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handed_in import MATRIX, OPTIONS, handed_in

import qstore
from qstore.arrays.arithmetic import answers_itself
from qstore.sources import RawSource

pytestmark = pytest.mark.filterwarnings(
    "ignore", "error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning"
)

CODES, SCALES = qstore.quantize(MATRIX)
PACKAGE = Path(qstore.__file__).parent

# What is wanted, or what is in the way.
_SAYS = re.compile(
    r"expected|must|\bgive\b|should be|choose|\bonly\b|at least|out of bounds|out of range|exists"
    r"|No such file|not in the store|holds .+ found|name (a|one)|Not a directory"
)
# NumPy's and Python's.
_SAYS_NUMPY = re.compile(
    r"expected|must|found|should be|\bno\b|not |can't|cannot|out of bounds|out of range|too many indices|only"
    r"|unsupported|ambiguous|does not|doesn't|inhomogeneous",
    re.IGNORECASE,
)


class Scene:
    """Stores, files and fresh paths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made = 0
        qstore.build(MATRIX, directory / "a.h5", keys=["a", "b", "c", "d"])
        np.savez(directory / "m.npz", a=MATRIX, b=MATRIX)
        (directory / "raw").write_bytes(MATRIX.tobytes())
        qstore.build(MATRIX, directory / "ids.h5", keys=[1, 2, 3, 4])
        qstore.build(MATRIX, directory / "no_keys.h5")
        qstore.build_shards(MATRIX, directory / "shards", 3, keys=["a", "b", "c", "d"])
        self.store = qstore.open(directory / "a.h5")
        self.ids = qstore.open(directory / "ids.h5")
        self.stores = {
            "texts": self.store,
            "ids": self.ids,
            "no keys": qstore.open(directory / "no_keys.h5").astype("float64"),
            "shards": qstore.open(directory / "shards").astype("float16"),
        }

    def close(self) -> None:
        """Close all stores."""
        for store in self.stores.values():
            store.close()

    def path(self, suffix: str = ".h5") -> Path:
        """One where nothing is yet."""
        self._made += 1
        return self.directory / f"{self._made}{suffix}"

    def shards(self, *, published: bool = False) -> Path:
        """A directory with a store in it."""
        place = self.path("")
        place.mkdir()
        shutil.copy(self.directory / "a.h5", place / "a.h5")
        if published:
            qstore.publish_shards(place)
            shutil.copy(self.directory / "no_keys.h5", place / "b.h5")
        return place

    def write(self, call: Callable[[qstore.Writer], object]) -> None:
        """What a writer is told."""
        with qstore.Writer(self.path(), 3) as writer:
            call(writer)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("public")
    before = Path.cwd()
    os.chdir(directory)
    made = Scene(directory)
    drawing = pytest.MonkeyPatch()
    if "plot" in FUNCTIONS:  # drawing takes much time, and is behind all that is judged
        drawing.setattr("qstore.reports.pictures.draw", lambda *given: None)
        drawing.setattr("qstore.reports.pictures.rendered", lambda *given: b"<svg></svg>")
    yield made
    drawing.undo()
    made.close()
    os.chdir(before)


@pytest.fixture(autouse=True)
def nothing_of_other_tests(scene: Scene) -> None:
    """What is handed in as a text names nothing, though it was an output before."""
    for made in scene.directory.glob("abc*"):
        if made.is_dir():
            shutil.rmtree(made)
        else:
            made.unlink()


Call = Callable[[Scene, Any], object]
Arguments = Callable[[Scene], dict[str, Any]]

# Functions and methods with good arguments by name: in the place of each, and of all others that they have,
# everything is given.
FUNCTIONS: dict[str, tuple[Callable[..., object], Arguments]] = {
    "quantize": (qstore.quantize, lambda at: {"x": MATRIX}),
    "dequantize": (qstore.dequantize, lambda at: {"codes": CODES, "scales": SCALES}),
    "build": (qstore.build, lambda at: {"source": MATRIX, "path": at.path()}),
    "build_all": (qstore.build_all, lambda at: {"source": at.directory / "m.npz", "directory": at.path("")}),
    "build_shards": (
        qstore.build_shards,
        lambda at: {"source": MATRIX, "directory": at.path(""), "shard_rows": 2},
    ),
    "plan": (qstore.plan, lambda at: {"source": MATRIX, "path": at.path()}),
    "plan_shards": (
        qstore.plan_shards,
        lambda at: {"source": MATRIX, "directory": at.path(""), "shard_rows": 2},
    ),
    "plan_all": (qstore.plan_all, lambda at: {"source": at.directory / "m.npz", "directory": at.path("")}),
    "list_tensors": (qstore.list_tensors, lambda at: {"obj": MATRIX}),
    "verify_against": (qstore.verify_against, lambda at: {"store": at.store, "source": MATRIX}),
    "open": (qstore.open, lambda at: {"path": at.directory / "a.h5"}),
    "compare": (qstore.compare, lambda at: {"a": at.store, "b": at.ids}),
    "concat": (qstore.concat, lambda at: {"sources": [at.directory / "a.h5"], "path": at.path()}),
    "export": (qstore.export, lambda at: {"store": at.store, "path": at.path(".npy")}),
    "publish_shards": (qstore.publish_shards, lambda at: {"directory": at.shards()}),
    "append_shards": (
        qstore.append_shards,
        lambda at: {"directory": at.shards(published=True), "names": ["b.h5"], "keys": False},
    ),
    "Writer": (
        lambda **given: qstore.Writer(**given).abort(),
        lambda at: {"path": at.path(), "dim": 3},
    ),
    "RawSource": (
        lambda **given: RawSource(**given).close(),
        lambda at: {"path": at.directory / "raw", "dtype": "float32", "dim": 3},
    ),
    "append": (
        lambda at, **given: at.write(lambda writer: writer.append(**given)),
        lambda at: {"at": at, "chunk": MATRIX},
    ),
    "append_codes": (
        lambda at, **given: at.write(lambda writer: writer.append_codes(**given)),
        lambda at: {"at": at, "codes": CODES, "scales": SCALES},
    ),
}
SIGNATURES: dict[str, Callable[..., object]] = {
    "Writer": qstore.Writer,
    "RawSource": RawSource,
    "append": qstore.Writer.append,
    "append_codes": qstore.Writer.append_codes,
}
# What methods of a store need; all are tried, of those that are not here every argument.
NEEDED: dict[str, dict[str, Any]] = {
    "astype": {"dtype": "float16"},
    "get": {"key": "missing"},
    "key_of": {"row": 0},
    "rows_of": {"keys": ["a", "missing"], "default": -1},
    "take": {"rows": [0, 1, 2, 3]},
    "take_async": {"rows": [0, 1, 2, 3]},
    "prefetch": {"rows": [0]},
    "take_codes": {"rows": [0, 1, 2, 3]},
    "pool": {"rows": [0, 1, 2, 3], "offsets": [0, 1, 2, 3]},
    "search": {"queries": MATRIX, "k": 1},
    "close": {},
}
REDUCTIONS = ("sum", "mean", "var", "std", "min", "max")

# Arguments in whose place an array could be meant: they are given everything.
ARRAYS = {
    "x", "out", "codes", "scales", "source", "rows", "offsets", "weights", "queries", "keys", "row", "chunk",
    "names", "sources", "array", "default", "exclude", "key",
}  # fmt: skip

# Except of these, whose `keys` are None or False, and which take names or what others judge.
NO_ARRAYS = ("append_shards", "concat", "plot", "publish_shards", "report")

DATA: dict[str, Call] = {
    "quantize out[0]": lambda at, x: qstore.quantize(MATRIX, out=(x, np.empty(4))),
    "quantize out[1]": lambda at, x: qstore.quantize(MATRIX, out=(np.empty((4, 3), np.uint8), x)),
    "build chunk": lambda at, x: qstore.build(iter([x]), at.path()),
    "build later chunk": lambda at, x: qstore.build(iter([MATRIX, x]), at.path()),
    "build codes": lambda at, x: qstore.build((x, SCALES), at.path()),
    "build scales": lambda at, x: qstore.build((CODES, x), at.path()),
    "build key": lambda at, x: qstore.build(MATRIX, at.path(), keys=["a", "b", "c", x]),
    "build later key": lambda at, x: qstore.build(MATRIX, at.path(), keys=iter([1, 2, 3, x])),
    "take_codes out[0]": lambda at, x: at.store.take_codes([0, 1, 2, 3], out=(x, np.empty(4))),
    "take_codes out[1]": lambda at, x: at.store.take_codes([0, 1], out=(np.empty((2, 3), np.uint8), x)),
    "search exclude of pairs": lambda at, x: at.store.search(MATRIX[:2], 1, exclude=[0, x]),
    "search rows of pairs": lambda at, x: at.store.search(MATRIX, 1, rows=[0, x]),
}
# What one store answers, whatever it is made of.
READS: dict[str, Callable[[qstore.Store, Any], object]] = {
    "store[x]": lambda store, x: store[x],
    "store[x, :]": lambda store, x: store[x, :],
    "store[:, x]": lambda store, x: store[:, x],
    "store[x, x]": lambda store, x: store[x, x],
    "store[0, x]": lambda store, x: store[0, x],
    "store[[0, x]]": lambda store, x: store[[0, x]],
    "store[x:]": lambda store, x: store[x:],
    "store[..., None, x]": lambda store, x: store[..., None, x],
    "x in store": lambda store, x: x in store,
    "rows_of": lambda store, x: store.rows_of(x),
    "rows_of default": lambda store, x: store.rows_of(x, default=-1),
    "rows_of [x]": lambda store, x: store.rows_of([x], default=-1),
    "get": lambda store, x: store.get(x),
    "keys()[x]": lambda store, x: store.keys()[x],
    "x in keys()": lambda store, x: operator.contains(store.keys(), x),
    "array of keys()": lambda store, x: np.asarray(store.keys(), x),
    "key_of": lambda store, x: store.key_of(x),
    "key_of [x]": lambda store, x: store.key_of([0, x]),
    "take": lambda store, x: store.take(x),
    "take clip": lambda store, x: store.take(x, mode="clip"),
    "take columns": lambda store, x: store.take(x, axis=1),
    "take values": lambda store, x: store.take(x, axis=None),
    "__getitems__": lambda store, x: store.__getitems__(x),
    "take_async": lambda store, x: store.take_async(x).result(),
    "prefetch": lambda store, x: store.prefetch(x),
    "take_codes": lambda store, x: store.take_codes(x),
    "pool": lambda store, x: store.pool(x, [0]),
    "search": lambda store, x: store.search(x),
}
# Operators: where NumPy's functions have the last word, the words of errors are theirs.
OPERATORS: dict[str, Callable[[qstore.Store, Any], object]] = {
    "+": lambda store, x: store + x,
    "+ from the right": lambda store, x: x + store,
    "==": lambda store, x: store == x,
    "<": lambda store, x: store < x,
    "@": lambda store, x: store @ x,
    "@ from the right": lambda store, x: x @ store,
    "T @": lambda store, x: store.T @ x,
    "@ T": lambda store, x: x @ store.T,
    "np.add": np.add,
    "np.add out": lambda store, x: np.add(store, 1, out=x),
    "np.add where": lambda store, x: np.add(store, 1, where=x),
    "np.take": lambda store, x: np.take(store, x, axis=0),
    "np.matmul": np.matmul,
    "np.asarray": lambda store, x: np.asarray(store, x),
}

OPTION: dict[str, Call] = {
    "build list": lambda at, x: qstore.build([x], at.path()),
    "open list": lambda at, x: qstore.open([x]),
    "concat list": lambda at, x: qstore.concat([x], at.path()),
    "publish_shards list": lambda at, x: qstore.publish_shards(at.shards(), [x]),
    "verify_against list": lambda at, x: qstore.verify_against([x], MATRIX),
    "verify_against itself": lambda at, x: qstore.verify_against(at.directory / "a.h5", x),
    "compare opened": lambda at, x: qstore.compare(at.store, x),
    "export keys": lambda at, x: qstore.export(at.store, at.path(".txt"), keys=x),
}


if importlib.util.find_spec("torch"):
    import torch

    def embedding(at: Scene, input: Any = (0, 1), **options: Any) -> object:
        """Rows by a module."""
        return qstore.torch.Embedding(at.store, **options)(input)

    def bag(at: Scene, input: Any, offsets: Any, per_sample_weights: Any = None, **options: Any) -> object:
        """Sums of rows by a module."""
        return qstore.torch.EmbeddingBag(at.store, "sum", **options)(input, offsets, per_sample_weights)

    FUNCTIONS.update(
        {
            "torch.take": (qstore.torch.take, lambda at: {"store": at.store, "rows": [0]}),
            "torch.to_quantized": (qstore.torch.to_quantized, lambda at: {"store": at.store}),
            "torch.Embedding": (qstore.torch.Embedding, lambda at: {"store": at.store}),
            "torch.EmbeddingBag": (qstore.torch.EmbeddingBag, lambda at: {"store": at.store}),
        }
    )
    three, first = torch.tensor([0, 1, 2]), torch.tensor([0])
    DATA.update(
        {
            "torch.Embedding()": lambda at, x: embedding(at, x),
            "torch.Embedding.prefetch": lambda at, x: qstore.torch.Embedding(at.store).prefetch(x),
            "torch.EmbeddingBag()": lambda at, x: bag(at, x, first),
            "torch.EmbeddingBag() of lines": lambda at, x: bag(at, x, None),
            "torch.EmbeddingBag() offsets": lambda at, x: bag(at, three, x),
            "torch.EmbeddingBag() weights": lambda at, x: bag(at, three, first, x),
        }
    )
if importlib.util.find_spec("dask"):
    from dask.array import from_array

    FUNCTIONS.update(
        {
            "dask.build": (
                qstore.dask.build,
                lambda at: {"array": from_array(MATRIX), "directory": at.path("")},
            ),
            "dask.from_store": (qstore.dask.from_store, lambda at: {"store": at.store}),
            "dask.search": (qstore.dask.search, lambda at: {"store": at.store, "queries": MATRIX, "k": 1}),
            "dask.stats": (qstore.dask.stats, lambda at: {"store": at.store}),
        }
    )
if importlib.util.find_spec("matplotlib"):
    FUNCTIONS.update(
        {
            "plot": (qstore.plot, lambda at: {"store": at.store, "path": at.path(".png"), "kind": "scales"}),
            "report": (qstore.report, lambda at: {"store": at.store, "path": at.path(".html")}),
        }
    )


def put(function: Callable[..., object], needed: Arguments, name: str) -> Call:
    """A call with good arguments but for one."""

    def call(at: Scene, x: Any) -> object:
        found = function(**{**needed(at), name: x})
        return list(found) if isinstance(found, Iterator) else found

    return call


def method(name: str) -> tuple[Callable[..., object], Arguments]:
    """A method of the scene's store, with what it needs."""
    return (lambda at, **given: getattr(at.store, name)(**given)), lambda at: {
        "at": at,
        **NEEDED.get(name, {}),
    }


for name, value in inspect.getmembers(qstore.Store, callable):
    if not name.startswith("_") and name not in (*REDUCTIONS, "matvec", "rmatvec"):  # which are @
        FUNCTIONS[name], SIGNATURES[name] = method(name), value
for name in REDUCTIONS:
    for option in ("axis", "dtype", "out", "keepdims", "ddof"):
        OPTION[f"{name} {option}"] = put(*method(name), option)
for name, (function, needed) in FUNCTIONS.items():
    for argument in inspect.signature(SIGNATURES.get(name, function)).parameters:
        if argument != "self":
            target = DATA if argument in ARRAYS and name not in NO_ARRAYS else OPTION
            target[f"{name} {argument}"] = put(function, needed, argument)
del DATA["get default"]  # anything, which is handed back


def faults(call: Callable[[Any], object], inputs: dict[str, Callable[[], Any]]) -> list[str]:
    """What a call does with all inputs that it should not."""
    found = []
    for name, make in inputs.items():
        try:
            call(make())
        except (IndexError, TypeError, ValueError, qstore.QStoreError) as error:
            if not (_SAYS if is_ours(error) else _SAYS_NUMPY).search(str(error)):
                found.append(f"{name}: says too little: {type(error).__name__}: {error}")
        except OSError as error:
            if error.filename is None:  # of a path that was given as one
                found.append(f"{name}: {type(error).__name__}: {error}")
        except BaseException as error:
            found.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return found


def is_ours(error: BaseException) -> bool:
    """Whether a module of qstore raised it, and not NumPy below it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE) and (last.line or "").startswith("raise")


def in_scene(scene: Scene, call: Call) -> Callable[[Any], object]:
    """The call for one thing that is handed in."""
    return lambda x: call(scene, x)


@pytest.mark.parametrize("name", DATA)
def test_data(scene: Scene, name: str) -> None:
    inputs = handed_in(scene.directory)
    assert len(inputs) > 85
    assert faults(in_scene(scene, DATA[name]), inputs) == []


@pytest.mark.parametrize("name", OPTION)
def test_options(scene: Scene, name: str) -> None:
    inputs = handed_in(scene.directory)
    some = {one: inputs[one] for one in OPTIONS if one in inputs}
    assert faults(in_scene(scene, OPTION[name]), some) == []


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("kind", ["texts", "ids", "no keys", "shards"])
def test_reads(scene: Scene, kind: str, name: str) -> None:
    store = scene.stores[kind]
    assert faults(lambda x: READS[name](store, x), handed_in(scene.directory)) == []


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(scene: Scene, name: str) -> None:
    """Operands that answer themselves raise what they like, and where NumPy refuses, so does a store."""

    def call(x: Any) -> None:
        try:
            OPERATORS[name](scene.store, x)
        except Exception as error:
            if is_ours(error) or not answers_itself(x, qstore.Store):
                raise

    assert faults(call, handed_in(scene.directory)) == []


@pytest.mark.parametrize(
    "name", ["build source", "build chunk", "build later chunk", "append chunk", "build_shards source"]
)
def test_what_fails_leaves_nothing(scene: Scene, tmp_path: Path, name: str) -> None:
    """No store, no partial file and no journal of a build that was refused."""
    for what, make in handed_in(scene.directory).items():
        before = set(os.listdir(scene.directory))
        try:
            DATA[name](scene, make())
        except (TypeError, ValueError, IndexError):
            left = set(os.listdir(scene.directory)) - before
            assert not [one for one in left if not os.path.isdir(scene.directory / one)], what


def test_masks_are_never_lost(scene: Scene) -> None:
    """Wherever data is taken, a masked array is refused: what it masks would be taken for values.

    Not as keys: where one is masked, a row has none. The default of `get` is whatever users want back.
    """
    masked = {name: make for name, make in handed_in(scene.directory).items() if name.startswith("masked")}
    taken = []
    for name, call in DATA.items():
        for what, make in masked.items() if not name.endswith(("keys", "get default")) else ():
            try:
                call(scene, make())
            except (TypeError, ValueError, IndexError, qstore.QStoreError):
                continue
            taken.append((name, what))
    assert taken == []


def test_every_function_is_here() -> None:
    """A new function or method must be tried, too."""
    not_tried = {"engine_name", "plot", "report"} if "plot" not in FUNCTIONS else {"engine_name"}
    assert {name for name in qstore.__all__ if name.islower()} - FUNCTIONS.keys() == not_tried
    # `abort` takes nothing, and the builds alone use the others.
    inner = {
        "append_coded_rows",
        "append_rows",
        "begin_again",
        "check_keys",
        "check_rows",
        "expect_keys",
        "keep_measured",
        "abort",
    }
    methods = {name for name, _ in inspect.getmembers(qstore.Writer, callable) if not name.startswith("_")}
    assert methods - FUNCTIONS.keys() == inner
