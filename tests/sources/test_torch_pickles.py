"""Pickles of torch checkpoints: nothing hostile is run, and none takes much time or memory."""

from __future__ import annotations

import copyreg
import os
import pickle
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from source_contract import files_open_in, refused, same
from torch_files import ORDERED_DICT, RESAVE, body, checkpoint, mapping, rebuild, state, storage

from qstore.errors import SourceError
from qstore.sources import list_tensors, open_source
from qstore.sources.torch import restricted_pickle
from qstore.sources.torch.restricted_pickle import Pairs, PickleRefused, read_pickle


@pytest.fixture(autouse=True)
def no_open_files(tmp_path: Path) -> Iterator[None]:
    """After every test, nothing in its directory is open any more."""
    yield
    assert files_open_in(tmp_path) == []


# pickles that ask for more ---------------------------------------------------------------------------


class Reduced:
    """Pickled as a call."""

    def __init__(self, *call: Any) -> None:
        self._call = call

    def __reduce__(self) -> Any:
        return self._call


def call(name: str, *arguments: bytes) -> bytes:
    """Opcodes that call something by its name."""
    return f"c{name.replace(':', chr(10))}\n(".encode() + b"".join(arguments) + b"tR"


def hostile(command: str) -> dict[str, bytes]:
    """Pickles that would run `command` if they were run."""
    text, code = body(command), body(f"__import__('os').system({command!r})")
    system = b"cos\nsystem\n"
    held = storage("0", 4)
    ops = {
        "os.system": call("os:system", text),
        "posix.system": call("posix:system", text),
        "nt.system": call("nt:system", text),
        "eval": call("builtins:eval", code),
        "exec": call("builtins:exec", code),
        "__builtin__.eval": call("__builtin__:eval", code),
        "compile": call("builtins:exec", call("builtins:compile", code, body(""), body("exec"))),
        "getattr": call("builtins:getattr", call("builtins:__import__", body("os")), body("system")),
        "getattr of a tensor type": call("builtins:getattr", b"ctorch\nTensor\n", body("__class__")),
        "subprocess": call("subprocess:Popen", body(["sh", "-c", command])),
        "run_code": call("runpy:_run_code", code, b"}"),
        "import_module": call("importlib:import_module", body("antigravity")),
        "loads": call("pickle:loads", body(pickle.dumps(Reduced(os.system, (command,))).hex())),
        "torch.load": call("torch.serialization:load", text),
        "load_from_bytes": call("torch.storage:_load_from_bytes", text),
        "torch.hub": call("torch.hub:load", text, text),
        "partial": call("functools:partial", system, text),
        "attrgetter": call("operator:attrgetter", body("system")),
        "reconstructor": call("copyreg:_reconstructor", system, b"cbuiltins\nobject\n", b"N"),
        "newobj function": call("copyreg:__newobj__", system, text),
        "add_extension": call("copyreg:add_extension", body("os"), body("system"), body(240)),
        "dotted": b"\x8c\x02os\x8c\x0epath.os.system\x93(" + text + b"tR",
        "dotted from torch": b"\x8c\x05torch\x8c\x17_utils.warnings.sys.exit\x93)R",
        "dotted from a known function": b"\x8c\x0ctorch._utils\x8c\x1f_rebuild_tensor_v2.__globals__.x\x93)R",
        "dotted on one line": b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R",
        "module in the name": b"\x8c\x05torch\x8c\x19_utils._rebuild_tensor_v2\x93)R",
        "names that are no text": b"]]\x93)R",
        "a function in the place of a name": system + system + b"\x93)R",
        "inst": b"(" + b"S'x'\nios\nsystem\n",
        "obj": b"(" + system + text + b"o",
        "newobj": b"cbuiltins\nobject\n)\x81",
        "newobj of a known type": b"ctorch\nTensor\n)\x81",
        "newobj_ex": b"cbuiltins\nobject\n)}\x92",
        "ext1": b"\x82\xf0(" + text + b"tR",
        "ext2": b"\x83\xf0\x00(" + text + b"tR",
        "ext4": b"\x84\xf0\x00\x00\x00(" + text + b"tR",
        "build on a type": b"ctorch\nTensor\n" + mapping(__setstate__=system) + b"b",
        "build on a function": b"ctorch._utils\n_rebuild_tensor_v2\n" + mapping(call=system) + b"b",
        "build on a tensor": rebuild(held, 0, (2, 2), (2, 1)) + b"}b",
        "build with slots": ORDERED_DICT + b"N" + mapping(a=system) + b"\x86b",
        "reduce with a list": b"ccollections\nOrderedDict\n]R",
        "reduce with text": b"ccollections\nOrderedDict\n" + text + b"R",
        "reduce a type": b"ctorch\nfloat32\n)R",
        "reduce a storage type": b"ctorch\nFloatStorage\n(K\x04tR",
        "reduce a text": text + b")R",
        "reduce a tensor": rebuild(held, 0, (2, 2), (2, 1)) + b")R",
        "a function that rebuilds": b"ctorch._tensor\n_rebuild_from_type_v2\n(" + system
        + b"ctorch\nTensor\n(" + text + b"t}tR",
        "rebuilding by itself": b"ctorch._tensor\n_rebuild_from_type_v2\n("
        b"ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n(" + text + b"t}tR",
        "a function as a storage": rebuild(system, 0, (2, 2), (2, 1)),
        "a function as an offset": b"ctorch._utils\n_rebuild_tensor_v2\n(" + held + system + b"))\x89NtR",
        "a function as a hook": rebuild(held, 0, (2, 2), (2, 1))[:-2] + call("os:system", text) + b"tR",
        "nested in a list": b"](" + body(1) + call("os:system", text) + b"e",
        "as a key": b"}(" + call("os:system", text) + b"Nu",
        "popped at once": call("os:system", text) + b"0N",
        "popped to a mark": b"(" + call("os:system", text) + b"1N",
        "never looked at": b"}" + body("_metadata") + call("os:system", text) + b"s",
        "another persistent id": text + b"Q",
        "persistent id of a function": b"(" + body("storage") + system + body(("0", "cpu", 4)) + b"tQ",
        "storage of a function": b"(" + body("storage") + system + body("0") + b"N" + body(4) + b"tQ",
        "persistent id of a module": b"(" + body("module") + system + text + b"tQ",
        "persistent id in text": b"Pstorage\n",
        "persistent id of six": b"(" + held[1:-2] + b"NtQ",
        "bytearray": b"\x96\x04\x00\x00\x00\x00\x00\x00\x00abcd",
        "out-of-band buffer": b"\x97",
        "set": b"\x8f",
        "frozenset": b"(\x91",
        "python 2 text": b"S'os'\n",
        "dup": b"]2",
        "opcode 0": b"\0",
        "opcode 255": b"\xff",
    }  # fmt: skip
    pickles = {name: b"\x80\x02" + one + b"." for name, one in ops.items()}
    for protocol in range(6):
        for name, reduced in {
            "a call": Reduced(os.system, (command,)),
            "a call with a state": Reduced(os.system, (command,), {"a": 1}),
            "a call with items": Reduced(os.system, (command,), None, iter([1]), iter([(1, 2)])),
            "a nested call": {"a": [{"b": (Reduced(exec, (f"import os; os.system({command!r})",)),)}]},
            "a method": Reduced(str.format, ("{}", command)),
        }.items():
            pickles[f"{name}, protocol {protocol}"] = pickle.dumps(reduced, protocol)
    return pickles


@pytest.mark.parametrize("name", hostile("true"))
def test_nothing_hostile_is_run(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    data = hostile(f"touch {sentinel}")[name]
    copyreg.add_extension("os", "system", 240)
    try:
        path = checkpoint(tmp_path / "m.pt", data, {"0": np.zeros(4, np.float32)})
        words = str(refused(path, "m.pt"))
        legacy = tmp_path / "legacy.pt"
        legacy.write_bytes(data)
        refused(legacy, "is no zip checkpoint", "nothing of it was run", RESAVE)
    finally:
        copyreg.remove_extension("os", "system", 240)
    assert len(words) < 1000
    assert not sentinel.exists()


def test_the_hostile_pickles_would_run(tmp_path: Path) -> None:
    """Else the test above tells nothing."""
    sentinel = tmp_path / "sentinel"
    ran = []
    for name in ("os.system", "posix.system", "eval", "exec", "nested in a list", "never looked at"):
        pickle.loads(hostile(f"touch {sentinel}")[name])
        ran.append(sentinel.exists())
        sentinel.unlink(missing_ok=True)
    assert ran == [True] * len(ran)


def test_modules_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit")
    path = checkpoint(tmp_path / "m.pt", b"\x80\x02cevil_module\nname\n.")
    refused(path, "is opaque (evil_module.name): expected a tensor; nothing of it was made or run")
    assert "evil_module" not in sys.modules


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    torch.save(torch.nn.Linear(3, 2), tmp_path / "m.pt")
    refused(
        tmp_path / "m.pt",
        "is opaque (torch.nn.modules.linear.Linear)",
        "torch.save(model.state_dict(), new_path)",
    )


def test_legacy_files_can_be_saved_again(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    path, new_path = tmp_path / "old.pt", tmp_path / "new.pt"
    weight = torch.randn(7, 3)
    torch.save({"w": weight}, path, _use_new_zipfile_serialization=False)
    refused(path, "is no zip checkpoint", RESAVE)
    path.rename(tmp_path / "old")  # known by its content, too
    refused(tmp_path / "old", "is no zip checkpoint", RESAVE)
    path = tmp_path / "old"
    exec(RESAVE, {"torch": torch, "path": path, "new_path": new_path})
    with open_source(new_path) as source:
        assert same(np.concatenate(list(source.chunks())), weight.numpy())


# pickles that are too much ---------------------------------------------------------------------------


def nested(opcodes: bytes, count: int, end: bytes = b"") -> bytes:
    return b"\x80\x02" + opcodes * count + end + b"."


BOMBS = {
    "deep lists": nested(b"]", 50_000, b"a" * 49_999),
    "deep tuples": nested(b")", 1, b"\x85" * 50_000),
    "deep tuple as a key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"]s.",
    "deep dicts": nested(b"}K\0", 25_000, b"}" + b"s" * 25_000),
    "deep marks": nested(b"(", 200_000),
    "ten times ten lists": b"\x80\x02" + b"]q\x00" + b"".join(
        b"]q%c(" % (level + 1) + b"h%c" % level * 10 + b"e" for level in range(30)
    ) + b".",
    "ten times ten tuples": b"\x80\x02)q\x00" + b"".join(
        b"(" + b"h%c" % level * 10 + b"tq%c" % (level + 1) for level in range(30)
    ) + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a dict that holds itself": b"\x80\x02}q\x00K\x00h\x00s.",
    "many ids of the same list": b"\x80\x02]q\x00](" + b"h\x00" * 100_000 + b"e.",
    "long names": b"\x80\x02]q\x00}(" + b"X\xe8\x03\x00\x00" + b"n" * 1000 + b"q\x01h\x00"
    + b"h\x01h\x00" * 100_000 + b"u.",
    "memo of 4 billion": b"\x80\x02]r\xff\xff\xff\xff.",
    "memo with a gap": b"\x80\x02]q\x05.",
    "memo not there": b"\x80\x02h\x05.",
    "text of 2 to the 63": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "bytes of 2 to the 63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "text of 4 gigabytes": b"\x80\x02X\xff\xff\xff\xffabc.",
    "frame of 2 to the 63": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "integer of 2 gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7f\0.",
    "integer that is cut short": b"\x80\x02\x8a\xff\0.",
    "written integer without end": b"\x80\x02I" + b"9" * 1_000_000,
    "name without end": b"\x80\x02c" + b"a" * 1_000_000,
    "written integer": b"\x80\x02Iabc\n.",
    "text that is no UTF-8": b"\x80\x02X\x02\0\0\0\xff\xfe.",
    "protocol 6": b"\x80\x06}.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "end alone": b"\x80\x02.",
    "pop from nothing": b"\x80\x020.",
    "mark from nothing": b"\x80\x02t.",
    "tuple across a mark": b"\x80\x02]](\x86.",
    "three of two": b"\x80\x02NN\x87.",
    "append to nothing": b"\x80\x02]a.",
    "append to a tuple": b"\x80\x02)Na.",
    "append to a dict": b"\x80\x02}(NNe.",
    "items into a list": b"\x80\x02](NNu.",
    "items that are odd": b"\x80\x02}(NNNu.",
    "item into a list": b"\x80\x02]NNs.",
    "a tensor under a list": b"\x80\x02}]" + rebuild(storage("0", 4), 0, (2, 2), (2, 1)) + b"s.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "m.pt", BOMBS[name], {"0": np.zeros(4, np.float32)})
    assert len(str(refused(path, "m.pt"))) < 1000


@pytest.mark.parametrize("name", [name for name in BOMBS if not name.startswith(("deep", "many", "ten"))])
def test_bombs_take_no_memory(tmp_path: Path, name: str) -> None:
    path = checkpoint(tmp_path / "m.pt", BOMBS[name], {"0": np.zeros(4, np.float32)})
    tracemalloc.start()
    with pytest.raises(SourceError):
        open_source(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40 * len(BOMBS[name]) + (1 << 20)


def test_equal_hashes_do_not_matter() -> None:
    """Whole numbers that differ by 2^61 - 1 have the same hash: 20,000 keys in a dict would take minutes."""
    keys = b"".join(
        b"\x8a\x0c" + (number * (2**61 - 1)).to_bytes(12, "little") + b"N" for number in range(20_000)
    )
    found = read_pickle(b"\x80\x02}(" + keys + b"u.", {}, lambda key: key)
    assert isinstance(found, Pairs)
    assert len(found.items) == 20_000


def test_steps_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restricted_pickle, "MOST_STEPS", 100)
    assert read_pickle(b"]0" * 50 + b"N.", {}, lambda key: key) is None
    assert read_pickle(b"N" * 500 + b"K\x01.", {}, lambda key: key) == 1
    with pytest.raises(PickleRefused, match="too long: expected at most 100 steps"):
        read_pickle(b"]0" * 50 + b"]0N.", {}, lambda key: key)


def test_same_name_twice(tmp_path: Path) -> None:
    held = {"0": np.zeros(4, np.float32)}
    one = rebuild(storage("0", 4), 0, (2, 2), (2, 1))
    path = checkpoint(tmp_path / "m.pt", state(a__b=one, a=mapping(b=one)), held)
    refused(path, "the name 'a.b' stands for two tensors")


# beside what is nobody's business --------------------------------------------------------------------


def test_containers_that_are_not_gone_into_are_in_nobodys_way(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="writes with torch")
    weight, path = torch.ones(2, 2), tmp_path / "m.pt"
    circle: dict[str, Any] = {"w": weight}
    circle["self"] = circle
    plain: list[Any] = []
    leading: list[Any] = [torch.zeros(3)]
    for _ in range(150):
        plain, leading = [plain, 1], [leading]
    torch.save({"circle": circle, "w": weight, "plain": plain, "deep": leading, "log": [300] * 5000}, path)
    found = {info.name: info.dtype for info in list_tensors(path)}
    assert found.pop("circle.self") == "opaque (a container that holds itself)"
    assert found.pop(f"deep{'.0' * 99}") == "opaque (a container more than 100 deep)"
    assert found == {"circle.w": "float32", "w": "float32"}
    with open_source(path, "w") as source:
        assert same(np.concatenate(list(source.chunks())), weight.numpy())


def test_numbers_of_long_lists_are_not_kept() -> None:
    found = read_pickle(b"\x80\x02](" + b"K\x05" * 1000 + b"e(" + b"K\x05)e.", {}, lambda key: key)
    assert found == [5] * 1000 + [None, ()]
