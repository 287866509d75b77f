"""Other libraries that keep matrices or embeddings, each behind the interface of readers.py.

All but numpy are optional: ``pip install "qstore[bench]"``. What is missing is skipped by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore

from .options import Options
from .readers import Reader, Rows
from .scene import Scene

__all__ = ["DISTRIBUTIONS", "code_readers", "library", "peer_readers", "versions", "write_safetensors_header"]

DISTRIBUTIONS = {
    "torch": "torch",
    "faiss": "faiss-cpu",
    "usearch": "usearch",
    "h5py": "h5py",
    "zarr": "zarr",
    "lance": "pylance",
    "safetensors": "safetensors",
    "pyarrow": "pyarrow",
    "engramdb": "engramdb-python",
}

# An 8-bit code of a range that reaches from -largest to +largest is off by half a step of 2/255, and a row
# of all columns' ranges (faiss) by a whole one.
_EIGHT_BIT_ERROR = 1.1 / 127


def library(name: str) -> Any:
    """Import a peer. All go through here, so that none is needed; ImportError names what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        distribution = DISTRIBUTIONS.get(name.partition(".")[0], name)
        raise ImportError(f"pip install {distribution} ({error})") from None


def versions() -> dict[str, str | None]:
    """Versions of all peers; None for what is missing."""
    found: dict[str, str | None] = {}
    for distribution in DISTRIBUTIONS.values():
        try:
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = None
    return found


def peer_readers(scene: Scene, options: Options) -> tuple[list[Reader], dict[str, str]]:
    """Readers of all libraries that are wanted and there, and why the others are not."""
    readers, skipped = [], {}
    for name, make in _MAKERS.items():
        if not options.wants(name):
            continue
        try:
            readers.append(make(scene))
        except ImportError as error:
            skipped[name] = str(error)
    return readers, skipped


def code_readers(scene: Scene, options: Options) -> tuple[list[Reader], dict[str, str]]:
    """Readers of the codes of the scene's store: by NumPy, as they are and as values, and by engramdb."""
    with qstore.open(scene.store_path) as store:
        facts = store._mapping.facts
        store.codes.tofile(scene.path("shard_000.bin"))
    codes, scales = (
        np.memmap(scene.store_path, dtype, "r", facts.extents[name].offset, shape)
        for name, dtype, shape in (
            ("codes", np.uint8, (scene.rows, scene.dim)),
            ("scales", np.float64, (scene.rows,)),
        )
    )
    readers = [
        Reader("numpy memmap of the codes", lambda rows: codes[rows], values=codes),
        Reader(
            "numpy memmap of the codes, made to values",
            lambda rows: _values(codes[rows], scales[rows], np.empty((len(rows), scene.dim), np.float32)),
            _taken(codes, scales),
            error=_EIGHT_BIT_ERROR,
        ),
    ]
    if not options.wants("engramdb"):
        return readers, {}
    try:
        engram = library("engramdb").Store(str(scene.folder), 1, scene.rows, scene.dim)
    except ImportError as error:
        return readers, {"engramdb": str(error)}

    def fetch(rows: Rows, out: Any = None) -> NDArray[Any]:
        codes: NDArray[Any] = np.frombuffer(engram.fetch(rows), np.uint8).reshape(len(rows), scene.dim)
        return codes

    return [*readers, Reader("engramdb Store.fetch of the codes", fetch, fetch, values=codes)], {}


def _values(codes: NDArray[np.uint8], scales: NDArray[np.float64], out: NDArray[Any]) -> NDArray[Any]:
    codes ^= 128  # as int8 this is code - 128
    values: NDArray[Any] = np.multiply(codes.view(np.int8), scales[:, None], out=out, casting="same_kind")
    return values


def _taken(codes: Any, scales: Any) -> Callable[[Rows, NDArray[Any]], NDArray[Any]]:
    held: dict[int, tuple[NDArray[np.uint8], NDArray[np.float64]]] = {}

    def into(rows: Rows, out: NDArray[Any]) -> NDArray[Any]:
        if len(rows) not in held:
            held[len(rows)] = np.empty((len(rows), codes.shape[1]), np.uint8), np.empty(len(rows))
        some, factors = held[len(rows)]
        np.take(codes, rows, axis=0, out=some, mode="clip")
        np.take(scales, rows, out=factors, mode="clip")
        return _values(some, factors, out)

    return into


def _loop(read: Callable[[int], Any]) -> Callable[[list[int]], Any]:
    def one_by_one(numbers: list[int]) -> Any:
        row = None
        for number in numbers:
            row = read(number)
        return row

    return one_by_one


def _torch(scene: Scene) -> Reader:
    torch = library("torch")
    warnings.filterwarnings("ignore", message="torch.quantize_per_tensor", category=UserWarning)
    values = torch.from_numpy(scene.values)
    scales = values.abs().amax(1).double() / 127
    weight = torch.quantize_per_channel(values, scales, torch.full_like(scales, 128), 0, torch.quint8)
    embedding = torch.ao.nn.quantized.Embedding(scene.rows, scene.dim)
    embedding.set_weight(weight)

    def take(rows: Rows) -> NDArray[Any]:
        result: NDArray[Any] = embedding(torch.from_numpy(rows)).numpy()
        return result

    return Reader(
        "torch quantized Embedding",
        take,
        one_by_one=_loop(lambda number: embedding(torch.tensor([number])).numpy()[0]),
        error=_EIGHT_BIT_ERROR,
    )


def _faiss(scene: Scene) -> Reader:
    faiss = library("faiss")
    index = faiss.IndexScalarQuantizer(scene.dim, faiss.ScalarQuantizer.QT_8bit)
    index.train(scene.values)
    index.add(scene.values)
    path = str(scene.path("index.faiss"))
    faiss.write_index(index, path)
    mapped = faiss.read_index(path, getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP))
    return Reader(
        "faiss SQ8",
        mapped.reconstruct_batch,
        block=lambda start, stop: mapped.reconstruct_n(start, stop - start),
        one_by_one=_loop(mapped.reconstruct),
        error=_EIGHT_BIT_ERROR,
    )


def _usearch(scene: Scene) -> Reader:
    index_type = library("usearch.index").Index
    options = {"ndim": scene.dim, "metric": "cos", "dtype": "i8", "connectivity": 2}
    index = index_type(**options, expansion_add=1, expansion_search=1)
    index.add(np.arange(scene.rows), scene.values)
    path = str(scene.path("index.usearch"))
    index.save(path)
    mapped = index_type.restore(path, view=True)
    # It keeps directions only; lengths are the caller's business.
    lengths = np.linalg.norm(scene.values, axis=1) / 127

    def take(rows: Rows) -> NDArray[Any]:
        directions: NDArray[Any] = np.asarray(mapped.get(rows), np.float32)
        directions *= lengths[rows, None]
        return directions

    return Reader(
        "usearch i8",
        take,
        one_by_one=_loop(lambda number: mapped.get(number) * lengths[number]),
        error=8 * _EIGHT_BIT_ERROR,
    )


def _h5py(scene: Scene) -> Reader:
    h5py = library("h5py")
    with h5py.File(scene.path("float32.h5"), "w") as file:
        file["values"] = scene.values
    dataset = h5py.File(scene.path("float32.h5"), "r")["values"]

    def take(rows: Rows) -> NDArray[Any]:
        # h5py refuses unsorted and repeated rows.
        numbers, places = np.unique(rows, return_inverse=True)
        result: NDArray[Any] = dataset[numbers][places]
        return result

    return Reader("h5py float32", take, block=_slices(dataset), one_by_one=_loop(dataset.__getitem__))


def _slices(dataset: Any) -> Callable[[int, int], Any]:
    return lambda start, stop: dataset[start:stop]


def _zarr(scene: Scene) -> Reader:
    zarr = library("zarr")
    chunks = (min(256, scene.rows), scene.dim)
    array = zarr.create_array(
        scene.path("float32.zarr"), shape=scene.values.shape, chunks=chunks, dtype="f4", compressors=None
    )
    array[:] = scene.values
    return Reader(
        "zarr float32, chunks of 256",
        array.oindex.__getitem__,
        block=_slices(array),
        one_by_one=_loop(array.__getitem__),
    )


def _lance(scene: Scene) -> Reader:
    lance, arrow = library("lance"), library("pyarrow")
    column = arrow.FixedSizeListArray.from_arrays(arrow.array(scene.values.reshape(-1)), scene.dim)
    dataset = lance.write_dataset(arrow.table({"values": column}), str(scene.path("float32.lance")))

    def take(rows: Any) -> NDArray[Any]:
        column = dataset.take(rows)["values"].combine_chunks()
        result: NDArray[Any] = column.flatten().to_numpy().reshape(-1, scene.dim)
        return result

    return Reader(
        "lance float32",
        lambda rows: take(rows.tolist()),
        block=lambda start, stop: take(range(start, stop)),
        one_by_one=_loop(lambda number: take([number])[0]),
    )


def write_safetensors_header(file: Any, rows: int, dim: int) -> None:
    """What comes before the data of one float32 tensor named "values"."""
    about = {"dtype": "F32", "shape": [rows, dim], "data_offsets": [0, 4 * rows * dim]}
    header = json.dumps({"values": about}).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)


def _safetensors(scene: Scene) -> Reader:
    safetensors = library("safetensors")
    path = scene.path("float32.safetensors")
    with open(path, "wb") as file:
        write_safetensors_header(file, scene.rows, scene.dim)
        scene.values.tofile(file)
    part = safetensors.safe_open(path, "np").get_slice("values")

    def take(rows: Rows) -> NDArray[Any]:
        # It reads slices only.
        return np.concatenate([part[number : number + 1] for number in rows.tolist()])

    return Reader(
        "safetensors float32",
        take,
        block=lambda start, stop: part[start:stop],
        one_by_one=_loop(lambda number: part[number : number + 1][0]),
    )


_MAKERS: dict[str, Callable[[Scene], Reader]] = {
    "torch": _torch,
    "faiss": _faiss,
    "usearch": _usearch,
    "h5py": _h5py,
    "zarr": _zarr,
    "lance": _lance,
    "safetensors": _safetensors,
}
