"""Whatever users hand in, what is raised is an error of ours or a standard one, and says what was expected.

Not here: indexes of a store, which NumPy judges (tests/reading), and keys (tests/keys).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handed_in import MATRIX, OPTIONS, handed_in

import qstore
from qstore.sources import RawSource

pytestmark = pytest.mark.filterwarnings(
    "ignore", "error::ResourceWarning", "error::pytest.PytestUnraisableExceptionWarning"
)

CODES, SCALES = qstore.quantize(MATRIX)

# Of ours, Python's and NumPy's messages: each says what it wants, or what it has no use for.
_SAYS = re.compile(
    r"expected|must|\bfound\b|should be|\bno\b|not |cannot|does not|is a directory|stands? twice|exists"
    r"|choose|out of bounds|out of range|too many indices|only integer|\bgive\b|has been closed|only finite"
)


class Scene:
    """Stores, files and fresh paths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made = 0
        qstore.build(MATRIX, directory / "a.h5", keys=["a", "b", "c", "d"])
        np.savez(directory / "m.npz", a=MATRIX, b=MATRIX)
        (directory / "raw").write_bytes(MATRIX.tobytes())
        self.store = qstore.open(directory / "a.h5")

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
    yield made
    made.store.close()
    os.chdir(before)


Call = Callable[[Scene, Any], object]

DATA: dict[str, Call] = {
    "quantize": lambda at, x: qstore.quantize(x),
    "quantize out": lambda at, x: qstore.quantize(MATRIX, out=x),
    "quantize out[0]": lambda at, x: qstore.quantize(MATRIX, out=(x, np.empty(4))),
    "quantize out[1]": lambda at, x: qstore.quantize(MATRIX, out=(np.empty((4, 3), np.uint8), x)),
    "dequantize codes": lambda at, x: qstore.dequantize(x, SCALES),
    "dequantize scales": lambda at, x: qstore.dequantize(CODES, x),
    "dequantize out": lambda at, x: qstore.dequantize(CODES, SCALES, out=x),
    "build": lambda at, x: qstore.build(x, at.path()),
    "build chunk": lambda at, x: qstore.build(iter([x]), at.path()),
    "build later chunk": lambda at, x: qstore.build(iter([MATRIX, x]), at.path()),
    "build codes": lambda at, x: qstore.build((x, SCALES), at.path()),
    "build scales": lambda at, x: qstore.build((CODES, x), at.path()),
    "build_shards": lambda at, x: qstore.build_shards(x, at.path(""), 2),
    "plan": lambda at, x: qstore.plan(x, at.path()),
    "list_tensors": lambda at, x: qstore.list_tensors(x),
    "verify_against": lambda at, x: qstore.verify_against(at.store, x),
    "append": lambda at, x: at.write(lambda writer: writer.append(x)),
    "append_codes codes": lambda at, x: at.write(lambda writer: writer.append_codes(x, SCALES)),
    "append_codes scales": lambda at, x: at.write(lambda writer: writer.append_codes(CODES, x)),
    "take": lambda at, x: at.store.take(x),
    "take out": lambda at, x: at.store.take([0, 1, 2, 3], out=x),
    "take_codes": lambda at, x: at.store.take_codes(x),
    "take_codes out": lambda at, x: at.store.take_codes([0, 1, 2, 3], out=x),
    "take_codes out[0]": lambda at, x: at.store.take_codes([0, 1, 2, 3], out=(x, np.empty(4))),
    "take_codes out[1]": lambda at, x: at.store.take_codes([0, 1], out=(np.empty((2, 3), np.uint8), x)),
    "pool rows": lambda at, x: at.store.pool(x, [0]),
    "pool offsets": lambda at, x: at.store.pool([0, 1], x),
    "pool weights": lambda at, x: at.store.pool([0, 1, 2], [0], x),
    "pool out": lambda at, x: at.store.pool([0, 1, 2, 3], [0, 1, 2, 3], out=x),
    "search": lambda at, x: at.store.search(x),
    "search rows": lambda at, x: at.store.search(MATRIX, 1, rows=x),
    "__matmul__": lambda at, x: at.store.__matmul__(x),
    "__getitems__": lambda at, x: at.store.__getitems__(x),
    "__contains__": lambda at, x: x in at.store,
    "key_of": lambda at, x: at.store.key_of(x),
}

OPTION: dict[str, Call] = {
    "quantize nonfinite": lambda at, x: qstore.quantize(MATRIX, nonfinite=x),
    "dequantize dtype": lambda at, x: qstore.dequantize(CODES, SCALES, dtype=x),
    "build path": lambda at, x: qstore.build(MATRIX, x),
    "build list": lambda at, x: qstore.build([x], at.path()),
    "build tensor": lambda at, x: qstore.build(at.directory / "m.npz", at.path(), tensor=x),
    "build rows": lambda at, x: qstore.build(MATRIX, at.path(), rows=x),
    "build threads": lambda at, x: qstore.build(MATRIX, at.path(), threads=x),
    "build progress": lambda at, x: qstore.build(MATRIX, at.path(), progress=x),
    "build nonfinite": lambda at, x: qstore.build(MATRIX, at.path(), nonfinite=x),
    "build duplicates": lambda at, x: qstore.build(MATRIX, at.path(), duplicates=x),
    "build_all source": lambda at, x: qstore.build_all(x, at.path("")),
    "build_all directory": lambda at, x: qstore.build_all(at.directory / "m.npz", x),
    "build_all tensor": lambda at, x: qstore.build_all(at.directory / "m.npz", at.path(""), x),
    "plan_all": lambda at, x: qstore.plan_all(x, at.path("")),
    "build_shards rows": lambda at, x: qstore.build_shards(MATRIX, at.path(""), x),
    "verify_against store": lambda at, x: qstore.verify_against(x, MATRIX),
    "verify_against rows": lambda at, x: qstore.verify_against(at.store, MATRIX, rows=x),
    "open": lambda at, x: qstore.open(x),
    "open list": lambda at, x: qstore.open([x]),
    "compare": lambda at, x: qstore.compare(at.store, x),
    "compare first": lambda at, x: qstore.compare(x, at.store),
    "concat": lambda at, x: qstore.concat(x, at.path()),
    "concat list": lambda at, x: qstore.concat([x], at.path()),
    "concat path": lambda at, x: qstore.concat([at.directory / "a.h5"], x),
    "concat threads": lambda at, x: qstore.concat([at.directory / "a.h5"], at.path(), threads=x),
    "export": lambda at, x: qstore.export(x, at.path(".npy")),
    "export path": lambda at, x: qstore.export(at.store, x),
    "export dtype": lambda at, x: qstore.export(at.store, at.path(".npy"), dtype=x),
    "export rows": lambda at, x: qstore.export(at.store, at.path(".npy"), rows=x),
    "export format": lambda at, x: qstore.export(at.store, at.path(".npy"), format=x),
    "publish_shards": lambda at, x: qstore.publish_shards(x),
    "publish_shards names": lambda at, x: qstore.publish_shards(at.shards(), x),
    "append_shards": lambda at, x: qstore.append_shards(x, ["a.h5"]),
    "append_shards names": lambda at, x: qstore.append_shards(at.shards(published=True), x),
    "Writer": lambda at, x: qstore.Writer(x, 3).abort(),
    "Writer dim": lambda at, x: qstore.Writer(at.path(), x).abort(),
    "Writer rows": lambda at, x: qstore.Writer(at.path(), 3, x).abort(),
    "Writer tensor": lambda at, x: qstore.Writer(at.path(), 3, tensor=x).abort(),
    "Writer source_dtype": lambda at, x: qstore.Writer(at.path(), 3, source_dtype=x).abort(),
    "Writer parameters": lambda at, x: qstore.Writer(at.path(), 3, parameters=x).abort(),
    "Writer stamp": lambda at, x: qstore.Writer(at.path(), 3, stamp=x).abort(),
    "Writer threads": lambda at, x: qstore.Writer(at.path(), 3, threads=x).abort(),
    "RawSource": lambda at, x: RawSource(x, "float32", 3).close(),
    "RawSource dtype": lambda at, x: RawSource(at.directory / "raw", x, 3).close(),
    "RawSource dim": lambda at, x: RawSource(at.directory / "raw", "float32", x).close(),
    "RawSource offset": lambda at, x: RawSource(at.directory / "raw", "float32", 3, x).close(),
    "RawSource rows": lambda at, x: RawSource(at.directory / "raw", "float32", 3, rows=x).close(),
    "take threads": lambda at, x: at.store.take([0], threads=x),
    "pool mode": lambda at, x: at.store.pool([0, 1], [0], mode=x),
    "pool threads": lambda at, x: at.store.pool([0], [0], threads=x),
    "blocks": lambda at, x: list(at.store.blocks(x)),
    "parts first": lambda at, x: list(at.store.parts(x)),
    "parts last": lambda at, x: list(at.store.parts(0, x)),
    "astype": lambda at, x: at.store.astype(x),
    "verify progress": lambda at, x: at.store.verify(progress=x),
    "stats threads": lambda at, x: at.store.stats(threads=x),
    "search k": lambda at, x: at.store.search(MATRIX, x),
    "search metric": lambda at, x: at.store.search(MATRIX, 1, x),
    "search threads": lambda at, x: at.store.search(MATRIX, 1, threads=x),
}


def bag(at: Scene, offsets: Any, weights: Any = None) -> object:
    """A sum of three rows."""
    import torch

    return qstore.torch.EmbeddingBag(at.store, "sum")(torch.tensor([0, 1, 2]), offsets, weights)


def no_bags(at: Scene, weights: Any) -> object:
    """The same with good offsets."""
    import torch

    return bag(at, torch.tensor([0]), weights)


TORCH: tuple[dict[str, Call], dict[str, Call]] = (
    {
        "torch.take": lambda at, x: qstore.torch.take(at.store, x),
        "torch.to_quantized": lambda at, x: qstore.torch.to_quantized(at.store, x),
        "torch.Embedding()": lambda at, x: qstore.torch.Embedding(at.store)(x),
        "torch.EmbeddingBag()": lambda at, x: qstore.torch.EmbeddingBag(at.store)(x),
        "torch.EmbeddingBag() offsets": bag,
        "torch.EmbeddingBag() weights": no_bags,
    },
    {
        "torch.take store": lambda at, x: qstore.torch.take(x, [0]),
        "torch.take dtype": lambda at, x: qstore.torch.take(at.store, [0], dtype=x),
        "torch.take device": lambda at, x: qstore.torch.take(at.store, [0], device=x),
        "torch.to_quantized store": lambda at, x: qstore.torch.to_quantized(x),
        "torch.Embedding": lambda at, x: qstore.torch.Embedding(x),
        "torch.Embedding padding": lambda at, x: qstore.torch.Embedding(at.store, x),
        "torch.EmbeddingBag mode": lambda at, x: qstore.torch.EmbeddingBag(at.store, x),
    },
)


def lazy_build(at: Scene, rows: Any) -> object:
    """A build of a good array in shards."""
    from dask.array import from_array

    return qstore.dask.build(from_array(MATRIX), at.path(""), shard_rows=rows)


DASK: tuple[dict[str, Call], dict[str, Call]] = (
    {
        "dask.build": lambda at, x: qstore.dask.build(x, at.path("")),
        "dask.search": lambda at, x: qstore.dask.search(at.store, x),
        "dask.search rows": lambda at, x: qstore.dask.search(at.store, MATRIX, 1, rows=x),
    },
    {
        "dask.from_store": lambda at, x: qstore.dask.from_store(x),
        "dask.from_store chunks": lambda at, x: qstore.dask.from_store(at.store, x),
        "dask.from_store dtype": lambda at, x: qstore.dask.from_store(at.store, dtype=x),
        "dask.build shard_rows": lazy_build,
        "dask.search task_rows": lambda at, x: qstore.dask.search(at.store, MATRIX, 1, task_rows=x),
        "dask.stats": lambda at, x: qstore.dask.stats(x),
        "dask.stats task_rows": lambda at, x: qstore.dask.stats(at.store, task_rows=x),
    },
)
PICTURES: tuple[dict[str, Call], dict[str, Call]] = (
    {},
    {
        "plot": lambda at, x: qstore.plot(x, at.path(".png")),
        "report": lambda at, x: qstore.report(x, at.path(".html")),
    },
)
for library, (data, option) in {"torch": TORCH, "dask": DASK, "matplotlib": PICTURES}.items():
    if importlib.util.find_spec(library):
        DATA.update(data)
        OPTION.update(option)


def faults(scene: Scene, call: Call, inputs: dict[str, Callable[[], Any]]) -> list[str]:
    """What a call does with all inputs that it should not."""
    found = []
    for name, make in inputs.items():
        try:
            call(scene, make())
        except (IndexError, TypeError, ValueError, qstore.QStoreError) as error:
            if not _SAYS.search(str(error)):
                found.append(f"{name}: says too little: {type(error).__name__}: {error}")
        except OSError as error:
            if error.filename is None:  # of a path that was given as one
                found.append(f"{name}: {type(error).__name__}: {error}")
        except BaseException as error:
            found.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    return found


@pytest.mark.parametrize("name", DATA)
def test_data(scene: Scene, name: str) -> None:
    inputs = handed_in(scene.directory)
    assert len(inputs) > 85
    assert faults(scene, DATA[name], inputs) == []


@pytest.mark.parametrize("name", OPTION)
def test_options(scene: Scene, name: str) -> None:
    inputs = handed_in(scene.directory)
    assert faults(scene, OPTION[name], {one: inputs[one] for one in OPTIONS if one in inputs}) == []


@pytest.mark.parametrize("name", ["build", "build chunk", "build later chunk", "append", "build_shards"])
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
    """Wherever data is taken, a masked array is refused: what it masks would be taken for values."""
    masked = {name: make for name, make in handed_in(scene.directory).items() if name.startswith("masked")}
    taken = []
    for name, call in DATA.items():
        for what, make in masked.items():
            try:
                call(scene, make())
            except (TypeError, ValueError, IndexError, qstore.QStoreError):
                continue
            taken.append((name, what))
    assert taken == []


def test_every_function_is_here() -> None:
    """A new function or method must be tried too."""
    tried = " ".join([*DATA, *OPTION])
    made_of_these = {"engine_name", "Shard", "TensorInfo"}
    for name in qstore.__all__:
        if name.islower() and name not in made_of_these:
            assert re.search(rf"\b{name}\b", tried) or not importlib.util.find_spec("matplotlib"), name
    not_data = {"close", "rows_of"}  # rows_of: tests/keys
    for name, value in vars(qstore.Store).items():
        if callable(value) and not name.startswith("_") and name not in not_data:
            assert re.search(rf"\b{name}\b", tried), name
