"""GGUF files in several parts, the true types of their tensors, and their vocabulary as keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import INT32, info, layout, number, padded, text, texts
from numpy.typing import NDArray
from source_contract import matrix_of, refused

import qstore
from qstore.cli import main
from qstore.errors import IncompleteError, SourceError, TensorError
from qstore.sources import RowSource, TensorInfo, list_tensors, open_source
from qstore.sources.gguf.types import QUANTIZED_TYPES

A, B, C = (matrix_of("float32", rows, 4, seed=rows) for rows in (3, 5, 7))
TOKENS = [b"<s>", b"\xe2\x96\x81the", "wört".encode()]


def part(
    folder: Path,
    no: int,
    count: int,
    tensors: dict[bytes, NDArray[Any]],
    total: int | None,
    name: str | None = None,
    values: tuple[bytes, ...] = (),
) -> Path:
    """One part, as gguf-split lays it out."""
    data, infos = b"", []
    for tensor, matrix in tensors.items():
        infos.append(info(tensor, matrix.shape[::-1], 0, len(data)))
        data += padded(matrix.tobytes())
    about = [number(b"split.no", no), number(b"split.count", count)]
    about += [] if total is None else [number(b"split.tensors.count", total, INT32)]
    path = folder / (name or f"model-{no + 1:05}-of-{count:05}.gguf")
    path.write_bytes(layout(infos, data, (*about, *values)))
    return path


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three parts; the first has the vocabulary and no tensor, as ``--no-tensor-first-split`` makes it."""
    return [
        part(tmp_path, 0, 3, {}, 3, values=(texts(b"tokenizer.ggml.tokens", TOKENS),)),
        part(tmp_path, 1, 3, {b"c": C, b"a": A}, 3),
        part(tmp_path, 2, 3, {b"b": B}, 3),
    ]


INFOS = [
    TensorInfo("a", (3, 4), "float32"),
    TensorInfo("b", (5, 4), "float32"),
    TensorInfo("c", (7, 4), "float32"),
]


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_stands_for_the_whole(parts: list[Path], given: int) -> None:
    assert list_tensors(parts[given]) == INFOS
    for name, values in {"a": A, "b": B, "c": C}.items():
        with open_source(parts[given], name) as source:
            assert isinstance(source, RowSource)
            assert np.array_equal(source.read(0, len(values)), values)
    refused(parts[given], "holds 3 matrices: choose one", error=TensorError)
    refused(parts[given], "has no tensor 'd': it holds 'a', 'b', 'c'", tensor="d", error=TensorError)


def test_builds_of_any_part_are_the_same(parts: list[Path], tmp_path: Path) -> None:
    for number_, path in enumerate(parts):
        qstore.build(path, tmp_path / f"{number_}.h5", tensor="b")
    one, *others = ((tmp_path / f"{number_}.h5").read_bytes() for number_ in range(3))
    assert others == [one, one]
    reports = qstore.build_all(parts[0], tmp_path / "all")
    assert [(report.tensor, report.rows) for report in reports] == [("a", 3), ("b", 5), ("c", 7)]


def test_parts_of_the_formats_own_library(tmp_path: Path) -> None:
    library: Any = pytest.importorskip("gguf", reason="it writes GGUF in parts")
    writer = library.GGUFWriter(str(tmp_path / "m.gguf"), "llama", split_max_tensors=2)
    writer.add_array("tokenizer.ggml.tokens", [f"t{row}" for row in range(5)])
    for name, values in {"a": A, "b": B, "c": C}.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = sorted(tmp_path.glob("*.gguf"))
    assert [path.name for path in found] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    for path in found:
        assert list_tensors(path) == INFOS
        qstore.build(path, tmp_path / "b.h5", tensor="b", keys=path, overwrite=True)
        with qstore.open(tmp_path / "b.h5") as store:
            assert store.key_of(slice(None)) == [f"t{row}" for row in range(5)]
            assert np.array_equal(store.codes, qstore.quantize(B)[0])


def test_a_missing_part_is_named(parts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    parts[1].unlink()
    words = "1 of its 3 parts missing: model-00002-of-00003.gguf; get them again"
    refused(parts[0], words, error=IncompleteError)
    refused(parts[0], words, tensor="a", error=IncompleteError)
    with pytest.raises(IncompleteError) as caught:
        list_tensors(parts[2])
    assert caught.value.tensors == (INFOS[1],)
    with open_source(parts[0], "b") as source:  # the part that is needed is there
        assert source.rows == 5
    assert main(["ls", "--json", str(parts[0])]) == 2
    out, err = capsys.readouterr()
    assert [one["name"] for one in json.loads(out)] == ["b"]
    assert words in err


def test_a_link_to_nowhere_is_a_missing_part(parts: list[Path]) -> None:
    parts[1].unlink()
    parts[1].symlink_to("blob")
    refused(parts[0], "1 of its 3 parts missing", error=IncompleteError)


@pytest.mark.parametrize("name", ["model.gguf", "model-00002-of-00003.gguf", "model-00001-of-00004.gguf"])
def test_parts_must_be_named_as_parts(tmp_path: Path, name: str) -> None:
    path = part(tmp_path, 0, 3, {b"a": A}, 3, name)
    words = "is part 1 of 3 of a GGUF file: expected a name that ends with -00001-of-00003.gguf"
    refused(path, words, "rename it so")
    with pytest.raises(SourceError, match="rename it so"):
        list_tensors(path)
    path = path.rename(tmp_path / "model-00001-of-00003.gguf")
    part(tmp_path, 1, 3, {b"b": B}, 3)
    part(tmp_path, 2, 3, {b"c": C}, 3)
    assert list_tensors(path) == INFOS


def test_parts_that_do_not_belong_together(parts: list[Path], tmp_path: Path) -> None:
    shutil.copy(parts[2], parts[1])
    refused(parts[0], "model-00002-of-00003.gguf expected part 2, found part 3 of 3")
    parts[1].write_bytes(layout([info(b"w", (2, 3), 0, 0)], bytes(24)))
    refused(parts[0], "expected part 2, found a whole file")
    part(tmp_path, 1, 3, {b"b": B}, 3)
    refused(parts[0], "tensor 'b' is in", "expected it in one")
    part(tmp_path, 1, 3, {b"a": A}, 3)
    refused(parts[0], "expected 3 tensors in all its parts, found 2")
    part(tmp_path, 1, 3, {b"a": A}, None)
    part(tmp_path, 0, 3, {}, None)
    assert list_tensors(parts[0]) == INFOS[:2]  # where no number is told, none is checked


@pytest.mark.parametrize("no", [3, 65535])
def test_part_numbers_out_of_range(tmp_path: Path, no: int) -> None:
    refused(part(tmp_path, no, 3, {b"a": A}, 1), f"expected split.no from 0 to 2, found {no}")


def test_a_part_that_does_not_say_which(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(layout([info(b"w", (2, 3), 0, 0)], bytes(24), (number(b"split.count", 2),)))
    refused(path, "expected split.no from 0 to 1, found None")


def test_one_part_alone_is_a_whole(tmp_path: Path) -> None:
    path = part(tmp_path, 0, 1, {b"a": A}, 1, "any.gguf")
    assert list_tensors(path) == INFOS[:1]


@pytest.mark.parametrize(
    "names", [("m.gguf.part1of2", "m.gguf.part2of2"), ("m.gguf-split-a", "m.gguf-split-b")]
)
def test_cut_files_are_put_together_first(tmp_path: Path, names: tuple[str, str]) -> None:
    whole = layout([info(b"a", (4, 3), 0, 0)], A.tobytes())
    pieces = [tmp_path / name for name in names]
    pieces[0].write_bytes(whole[:100])
    pieces[1].write_bytes(whole[100:])
    refused(pieces[0], "is a piece of a GGUF file that was cut", "cat PIECES > whole.gguf")
    (tmp_path / "whole.gguf").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert list_tensors(tmp_path / "whole.gguf") == INFOS[:1]


# ------------------------------------------------------------------------- types


def test_ls_shows_the_types_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, begin, infos, expected = tmp_path / "m.gguf", 0, [], {}
    for kind, (name, values, size) in QUANTIZED_TYPES.items():
        infos.append(info(name.encode(), (2 * values, 3), kind, begin))
        begin += len(padded(bytes(3 * 2 * size)))
        expected[name] = (name, [3, 2 * values], 3 * 2 * size)
    infos.append(info(b"F32", (2, 3), 0, begin))
    expected["F32"] = ("float32", [3, 2], 24)
    path.write_bytes(layout(infos, bytes(begin + 24)))
    assert main(["ls", "--json", str(path)]) == 0
    found = {
        one["name"]: (one["dtype"], one["shape"], one["bytes"]) for one in json.loads(capsys.readouterr().out)
    }
    assert found == expected
    assert TensorInfo("Q4_0", (3, 64), "float32", "Q4_0") in list_tensors(path)
    refused(path, "'Q4_0'  (3, 64)  Q4_0", error=TensorError)


# -------------------------------------------------------------------- vocabulary


@pytest.mark.parametrize("given", [0, 1, 2])
def test_the_vocabulary_as_keys(parts: list[Path], tmp_path: Path, given: int) -> None:
    command = [
        "build",
        str(parts[1]),
        "--tensor",
        "a",
        "--keys",
        str(parts[given]),
        "-o",
        str(tmp_path / "a.h5"),
    ]
    assert main([*command, "-q"]) == 0
    with qstore.open(tmp_path / "a.h5") as store:
        assert store.key_of(slice(None)) == ["<s>", "▁the", "wört"]
        assert store.rows_of(["wört"]).tolist() == [2]


def test_keys_come_on_request_only(parts: list[Path], tmp_path: Path) -> None:
    assert qstore.build(parts[1], tmp_path / "a.h5", tensor="a").key_kind is None


def test_no_vocabulary(parts: list[Path], tmp_path: Path) -> None:
    words = "has no vocabulary: expected an array of texts tokenizer.ggml.tokens"
    path = part(tmp_path, 0, 1, {b"a": A}, 1, "any.gguf")
    with pytest.raises(SourceError, match=words):
        qstore.build(path, tmp_path / "a.h5", keys=path)
    numbers = text(b"tokenizer.ggml.tokens") + b"\x09\0\0\0\x04\0\0\0" + bytes(8)
    part(tmp_path, 0, 1, {b"a": A}, 1, "any.gguf", (numbers,))
    with pytest.raises(SourceError, match=words):
        qstore.build(path, tmp_path / "a.h5", keys=path)
    parts[0].unlink()  # which has it
    with pytest.raises(IncompleteError, match="model-00001-of-00003"):
        qstore.build(parts[1], tmp_path / "a.h5", tensor="a", keys=parts[1])
    with pytest.raises(SourceError, match="does not exist"):
        qstore.build(A, tmp_path / "a.h5", keys=tmp_path / "none.gguf")
    assert not (tmp_path / "a.h5").exists()


def test_tokens_that_are_no_text(tmp_path: Path) -> None:
    path = part(
        tmp_path, 0, 1, {b"a": A}, 1, "m.gguf", (texts(b"tokenizer.ggml.tokens", [b"a", b"\xff", b"c"]),)
    )
    with pytest.raises(SourceError, match=r"token 1 of its vocabulary, b'\\xff', is no UTF-8"):
        qstore.build(path, tmp_path / "a.h5", keys=path)
    (tmp_path / "keys.txt").write_text("a\nb\nc\n")
    assert qstore.build(path, tmp_path / "a.h5", keys=tmp_path / "keys.txt").key_kind == "text"


def test_as_many_tokens_as_rows(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="3 keys"):
        qstore.build(parts[0], tmp_path / "b.h5", tensor="b", keys=parts[0])
