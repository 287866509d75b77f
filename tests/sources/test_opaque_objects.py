"""Objects of other programs beside the tensors of a checkpoint: never made, listed, and in nobody's way."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import random
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import refused, same
from torch_files import body, checkpoint, mapping, rebuild, state, storage, tensor

from qstore.cli import main
from qstore.errors import SourceError, TensorError
from qstore.sources import list_tensors, open_source
from qstore.sources.torch import checkpoint_pickle, restricted_pickle
from qstore.sources.torch.restricted_pickle import Opaque, Pairs, read_pickle

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3) - 5


class Own:
    """A class of the trainer's."""

    made = 0

    def __init__(self) -> None:
        self.values = [1, 2]

    def __setstate__(self, values: Any) -> None:
        type(self).made += 1


class OwnList(list[int]):
    """One that is filled by APPENDS."""


class OwnDict(dict[str, int]):
    """One that is filled by SETITEMS."""


class Sort(enum.Enum):
    """An enum."""

    ONE = 1


OBJECTS: dict[str, tuple[Any, str]] = {
    "set": ({1, 2}, "set"),
    "frozenset": (frozenset([1]), "frozenset"),
    "bytearray": (bytearray(b"xy"), "bytearray"),
    "Counter": (collections.Counter("abca"), "collections.Counter"),
    "deque": (collections.deque([1, 2]), "collections.deque"),
    "complex": (1 + 2j, "complex"),
    "huge integer": (1 << 3000, "int"),
    "Path": (pathlib.PurePosixPath("a/b"), "PurePosixPath"),
    "Namespace": (argparse.Namespace(lr=0.1), "argparse.Namespace"),
    "own class": (Own(), "Own"),
    "own list": (OwnList([1, 2]), "OwnList"),
    "own dict": (OwnDict(a=1), "OwnDict"),
    "enum": (Sort.ONE, "Sort"),
    "a class": (Own, "Own"),
    "partial": (functools.partial(print, end=""), "functools.partial"),
    "datetime": (datetime.datetime(2026, 1, 2), "datetime.datetime"),
    "timedelta": (datetime.timedelta(1), "datetime.timedelta"),
    "array": (np.arange(6.0).reshape(2, 3), "numpy.ndarray"),
    "number of numpy": (np.float64(1.5), "numpy.generic"),
    "slice": (slice(1, 2), "slice"),
}
PLAIN: dict[str, Any] = {
    "bytes": b"xy",
    "no bytes": b"",
    "state of random": random.getstate(),
    "text": "a",
    "nothing": None,
    "numbers": [1, 2.5, True, -(1 << 70)],
}


def saved(path: Path, content: dict[str, Any], protocol: int = 2) -> Path:
    torch = pytest.importorskip("torch", reason="writes with torch")
    torch.save({**content, "w": torch.from_numpy(MATRIX)}, path, pickle_protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [1, 2, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_listed_and_in_nobodys_way(tmp_path: Path, name: str, protocol: int) -> None:
    if (name, protocol) == ("huge integer", 1):
        pytest.skip("written in digits: more than a line may have")
    value, word = OBJECTS[name]
    made = Own.made
    path = saved(tmp_path / "m.pt", {"there": {"it": value}}, protocol)
    with open_source(path) as source:
        assert same(np.concatenate(list(source.chunks())), MATRIX)
    found = {info.name: (info.shape, info.dtype) for info in list_tensors(path)}
    assert found.keys() == {"there.it", "w"}
    assert found["w"] == ((4, 3), "float32")
    shape, dtype = found["there.it"]
    assert shape == ()
    assert dtype.startswith("opaque (")
    if protocol > 1 or name not in ("own class", "own list", "own dict", "Namespace"):
        assert word in dtype
    refused(path, "tensor 'there.it' is opaque (", "nothing of it was made or run", tensor="there.it")
    assert Own.made == made


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_data_is_not_listed(tmp_path: Path, protocol: int) -> None:
    path = saved(tmp_path / "m.pt", PLAIN, protocol)
    assert [info.name for info in list_tensors(path)] == ["w"]


def test_all_of_them_at_once_in_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects = {name: value for name, (value, _) in OBJECTS.items()}
    path = saved(tmp_path / "m.pt", objects | PLAIN)
    assert main(["ls", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(OBJECTS) + 1
    assert sum("opaque" in line and line.endswith("?") for line in lines) == len(OBJECTS)
    assert main(["build", str(path), "-o", str(tmp_path / "w.h5"), "--quiet"]) == 0
    assert main(["build", str(path), "--tensor", "Path", "-o", str(tmp_path / "p.h5"), "--quiet"]) == 2
    assert "is opaque (pathlib" in capsys.readouterr().err
    assert main(["build", str(path), "--tensor", "*", "-o", f"{tmp_path / 'all'}/", "--quiet"]) == 0
    assert [made.name for made in (tmp_path / "all").iterdir()] == ["w.h5"]


def test_a_file_of_objects_alone_says_what_it_holds(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    torch.save({"a": {1}, "b": argparse.Namespace()}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "holds no matrix", "opaque (argparse.Namespace)")
    torch.save(argparse.Namespace(w=torch.ones(2, 2)), tmp_path / "m.pt")
    refused(tmp_path / "m.pt", "what it holds is opaque (argparse.Namespace)")


def test_tensors_in_dicts_with_defaults(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    content = collections.defaultdict(list, {"a": torch.from_numpy(MATRIX)})
    path = saved(tmp_path / "m.pt", {"dict": content})
    assert [info.name for info in list_tensors(path)] == ["dict.a", "w"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_keys_that_are_no_text(tmp_path: Path, protocol: int) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    keyed = {(1, "a"): torch.ones(2, 2), b"b": torch.ones(3, 2), pathlib.PurePosixPath("c"): torch.ones(4, 2)}
    path = saved(tmp_path / "m.pt", {"k": keyed, "d": {torch.device("cpu"): torch.ones(5, 2)}}, protocol)
    found = {info.name: info.shape for info in list_tensors(path)}
    assert found == {
        "k.<key 0>": (2, 2),
        "k.<key 1>": (3, 2),
        "k.<key 2>": (4, 2),
        "d.<key 0>": (5, 2),
        "w": (4, 3),
    }


def test_an_object_never_takes_a_tensors_name(tmp_path: Path) -> None:
    made = b"capp\nThing\n)R"
    for data in (
        state(a__b=made, a=mapping(b=tensor("0", MATRIX))),
        state(a__b=tensor("0", MATRIX), a=mapping(b=made)),
    ):
        path = checkpoint(tmp_path / "m.pt", data, {"0": MATRIX})
        with open_source(path, "a.b") as source:
            assert same(np.concatenate(list(source.chunks())), MATRIX)


# ---------------------------------------------------------------- tensors that are no plain ones


def tensors_of_torch(torch: Any) -> dict[str, tuple[Any, tuple[int, ...], str, Callable[[Any], Any] | None]]:
    """Tensor, shape and type as listed, and what its error tells to save."""

    class Own(torch.Tensor):  # type: ignore[misc]
        pass

    sys.modules[__name__].__dict__["OwnTensor"] = Own
    Own.__name__ = Own.__qualname__ = "OwnTensor"
    eye = torch.eye(4)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return {
        "sparse": (eye.to_sparse(), (4, 4), "sparse_coo, float32", lambda t: t.to_dense()),
        "csr": (eye.to_sparse_csr(), (4, 4), "sparse_csr, float32", lambda t: t.to_dense()),
        "bsc": (eye.to_sparse_bsc((2, 2)), (4, 4), "sparse_bsc, float32", lambda t: t.to_dense()),
        "meta": (torch.empty(3, 2, device="meta"), (3, 2), "meta, float32", None),
        "meta parameter": (
            torch.nn.Parameter(torch.empty(3, 2, device="meta")),
            (3, 2),
            "meta, float32",
            None,
        ),
        "nested": (nested, (), "nested, float32", lambda t: t.to_padded_tensor(0.0)),
        "own class": (
            eye.as_subclass(Own),
            (4, 4),
            "OwnTensor, float32",
            lambda t: t.as_subclass(torch.Tensor),
        ),
        "no type of ours": (torch.empty(2, 2, dtype=torch.bits8), (2, 2), "torch.bits8", None),
        "4 bits": (
            torch.quantize_per_channel(eye, torch.ones(4), torch.zeros(4), 0, torch.quint4x2),
            (4, 4),
            "torch.QUInt4x2Storage",
            lambda t: t.dequantize(),
        ),
    }


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)", "ignore:Sparse")
@pytest.mark.parametrize(
    "name",
    ["sparse", "csr", "bsc", "meta", "meta parameter", "nested", "own class", "no type of ours", "4 bits"],
)
def test_tensors_without_plain_values(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    value, shape, word, remedy = tensors_of_torch(torch)[name]
    path = saved(tmp_path / "m.pt", {"it": value})
    with open_source(path) as source:
        assert source.name == "w"
        assert same(np.concatenate(list(source.chunks())), MATRIX)
    found = next(info for info in list_tensors(path) if info.name == "it")
    assert found.shape == shape
    assert found.dtype.startswith("opaque (")
    assert found.dtype.endswith(f"{word})")
    error = str(refused(path, "tensor 'it' is opaque (", "expected a plain tensor", tensor="it"))
    if remedy is None:
        assert "save" in error
        return
    torch.save({"it": remedy(value)}, path)
    called = {"to_dense", "to_padded_tensor", "as_subclass", "dequantize"} & set(
        error.replace("(", ".").split(".")
    )
    assert called & set(remedy.__code__.co_names)
    with open_source(path, "it") as source:
        assert same(np.concatenate(list(source.chunks())), remedy(value).numpy())


def test_jagged_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    path = saved(tmp_path / "m.pt", {"it": jagged})
    assert "NestedTensor" in next(info.dtype for info in list_tensors(path) if info.name == "it")


def test_objects_that_make_no_difference_to_a_tensor(tmp_path: Path) -> None:
    """A tensor with attributes of any kind, and buffers, are plain tensors."""
    torch = pytest.importorskip("torch", reason="writes with torch")
    noted, parameter = torch.from_numpy(MATRIX.copy()), torch.nn.Parameter(torch.from_numpy(MATRIX.copy()))
    noted.note, parameter.note = {1, 2}, pathlib.PurePosixPath("a")
    path = saved(
        tmp_path / "m.pt", {"noted": noted, "parameter": parameter, "buffer": torch.nn.Buffer(noted)}
    )
    for name in ("noted", "parameter", "buffer"):
        with open_source(path, name) as source:
            assert same(np.concatenate(list(source.chunks())), MATRIX)


# ---------------------------------------------------------------- what is advised


def test_a_whole_module_and_its_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    model, new_path = torch.nn.Embedding(4, 3), tmp_path / "new.pt"
    torch.save(model, tmp_path / "m.pt")
    advice = "torch.save(model.state_dict(), new_path)"
    refused(tmp_path / "m.pt", "is opaque (torch.nn.modules.sparse.Embedding)", advice)
    exec(advice, {"torch": torch, "model": model, "new_path": new_path})
    with open_source(new_path) as source:
        assert same(np.concatenate(list(source.chunks())), model.weight.detach().numpy())


def test_an_array_saved_as_a_tensor(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    path, new_path = tmp_path / "m.pt", tmp_path / "new.pt"
    torch.save({"weight": MATRIX}, path)
    advice = "torch.save({'weight': torch.as_tensor(values)}, new_path)"
    refused(path, "opaque (numpy.ndarray)", advice)
    exec(advice, {"torch": torch, "values": MATRIX, "new_path": new_path})
    with open_source(new_path) as source:
        assert same(np.concatenate(list(source.chunks())), MATRIX)


def test_torchscript_and_its_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    model, path, new_path = torch.nn.Embedding(4, 3), tmp_path / "m.pt", tmp_path / "new.pt"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(model), path)
    refused(path, "opaque (__torch__.", "model.state_dict()")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        model = torch.jit.load(path)
    torch.save(model.state_dict(), new_path)
    with open_source(new_path) as source:
        assert same(np.concatenate(list(source.chunks())), model.weight.detach().numpy())


# ---------------------------------------------------------------- bounded


def test_nothing_is_imported_for_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_imported.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    data = state(a=b"cnever_imported\nThing\n)\x81}b", w=tensor("0", MATRIX))
    path = checkpoint(tmp_path / "m.pt", data, {"0": MATRIX})
    assert [info.dtype for info in list_tensors(path)] == ["opaque (never_imported.Thing)", "float32"]
    assert "never_imported" not in sys.modules


def test_names_of_megabytes_are_cut(tmp_path: Path) -> None:
    long = b"X\x00\x00\x10\x00" + b"n" * (1 << 20)
    data = b"\x80\x04" + long + b"\x94](" + b"h\x00h\x00\x93" * 100_000 + b"e."
    tracemalloc.start()
    found = read_pickle(data, {}, lambda key: key)
    assert tracemalloc.get_traced_memory()[0] < 60 << 20
    tracemalloc.stop()
    assert len(found) == 100_000
    assert found[0].name == f"{'n' * 80}.{'n' * 80}"


def test_what_goes_into_an_object_is_dropped() -> None:
    piece = b"C\xff" + bytes(255)
    data = b"\x80\x02capp\nThing\n)\x81" + (b"(" + piece * 10 + b"e") * 2_000 + b"."
    tracemalloc.start()
    assert isinstance(read_pickle(data, {}, lambda key: key), Opaque)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    for ops in (b"NNs", b"(NNu", b"Na", b"(NNe", b"(NN\x90", b"Nb", b"}b", b"NN\x86b"):
        assert isinstance(read_pickle(b"\x80\x02\x8f" + ops + b".", {}, str), Opaque)


def test_more_objects_than_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of 210,000 numbers of NumPy does not keep anybody from the tensor behind it."""
    log = b"capp\nNumber\n)Rq\x000](" + b"h\x00" * 210_000 + b"e"
    path = checkpoint(tmp_path / "m.pt", state(log=log, w=tensor("0", MATRIX)), {"0": MATRIX})
    found = list_tensors(path)
    assert len(found) == 1001
    assert found[-1].name == "w"
    with open_source(path) as source:
        assert source.name == "w"
    monkeypatch.setattr(checkpoint_pickle, "_MOST_OPAQUE", 2)
    assert len(list_tensors(path)) == 3


LONG_DICT = b"}(" + b"".join(body(f"a{number}") + b"N" for number in range(2_000)) + b"u"


@pytest.mark.parametrize("function", ["_rebuild_parameter_with_state", "_rebuild_tensor_v2"])
def test_a_long_dict_in_very_many_calls(tmp_path: Path, function: str) -> None:
    """Each call could look at all of it again."""
    view = storage("0", 12) + body(0) + body((4, 3)) + body((3, 1))
    held = rebuild(storage("0", 12), 0, (4, 3), (3, 1)) + b"r\x00\x10\x00\x00"
    first = b"\x80\x02" + LONG_DICT + b"q\x000"
    if function == "_rebuild_tensor_v2":
        once = f"ctorch._utils\n{function}\n(".encode() + view + b"\x89Nh\x00tR0"
    else:
        first += held.replace(b"r\x00\x10\x00\x00", b"q\x01") + b"0"
        once = f"ctorch._utils\n{function}\n(h\x01\x89Nh\x00tR0".encode("latin1")
    path = checkpoint(tmp_path / "m.pt", first + once * 12_000 + b"}.", {"0": MATRIX})
    refused(path, "m.pt")


@pytest.mark.parametrize(
    "ops",
    [
        b"N)\x81",
        b"capp\nThing\nN\x81",
        b"capp\nThing\n]\x81",
        b")\x81",
        b"capp\nThing\n)\x92",
        b"\x90",
        b"](N\x90",
        b"\x91",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x7fa",
        b"\x8b\xff\xff\xff\xffa",
        b"\x97",
        b"\x82\x01",
    ],
)
def test_malformed_objects(tmp_path: Path, ops: bytes) -> None:
    path = checkpoint(tmp_path / "m.pt", b"\x80\x04" + ops + b".", {})
    refused(path, "cannot be read", "nothing of it was run")


def test_steps_are_counted_for_objects_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted_pickle, "MOST_STEPS", 100)
    with pytest.raises(SourceError, match="too long: expected at most 100 steps"):
        read_pickle(b"capp\nThing\n" + b")\x81" * 50 + b".", {}, lambda key: key)


def test_a_name_that_is_not_there_offers_the_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"args": argparse.Namespace()})
    refused(path, "has no tensor 'v': it holds 'w'", error=TensorError, tensor="v")


def test_the_root_is_read_as_before() -> None:
    assert isinstance(read_pickle(b"}.", {}, lambda key: key), Pairs)


@pytest.mark.filterwarnings("ignore:.*(prototype|beta state|deprecated)", "ignore:Sparse")
def test_damage_never_escapes(tmp_path: Path) -> None:
    """Bytes changed, dropped and copied all over a pickle of everything: an answer or a SourceError."""
    torch = pytest.importorskip("torch", reason="writes with torch")
    tensors = {name: tensor for name, (tensor, *_) in tensors_of_torch(torch).items()}
    path = saved(
        tmp_path / "m.pt", {name: value for name, (value, _) in OBJECTS.items()} | PLAIN | tensors, 4
    )
    with zipfile.ZipFile(path) as archive:
        whole = archive.read("m/data.pkl")
    draw, outcomes = random.Random(9), {True: 0, False: 0}
    for _ in range(1500):
        damaged = bytearray(whole)
        at, other, count = draw.randrange(len(whole)), draw.randrange(len(whole)), draw.randrange(1, 40)
        match draw.randrange(3):
            case 0:
                damaged[at] = draw.choice(b"(01N)]}KMJGX\x85\x86taesubhjRQ\x81\x92\x8f\x90\x91\x93\x94.")
            case 1:
                del damaged[at : at + count]
            case 2:
                damaged[at:at] = whole[other : other + count]
        try:
            checkpoint_pickle.read_tensors(bytes(damaged))
            outcomes[True] += 1
        except SourceError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 100
