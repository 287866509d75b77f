"""Directories as sources: the folders that libraries write, and those where nobody can tell what is meant."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from gguf_files import info, layout, number
from source_contract import matrix_of, refused
from torch_files import checkpoint, state, tensor

import qstore
from qstore.cli import main
from qstore.errors import IncompleteError, SourceError
from qstore.sources import list_tensors, open_source
from qstore.sources.directories import checkpoint_in

VALUES = matrix_of("float32", 6, 4)


def safetensors(path: Path, name: str = "w") -> None:
    """A file of one matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {name: {"dtype": "F32", "shape": [6, 4], "data_offsets": [0, VALUES.nbytes]}}
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + VALUES.tobytes())


def torch_file(path: Path, name: str = "w") -> None:
    """The same by torch.save."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint(path, state(**{name: tensor("0", VALUES)}), {"0": VALUES})


def index(path: Path, parts: list[str], make: Callable[[Path, str], None]) -> None:
    """An index and its parts, of one matrix each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {f"w{number}": part for number, part in enumerate(parts)}
    for name, part in names.items():
        make(path.parent / part, name)
    path.write_text(json.dumps({"weight_map": names}))


def gguf(path: Path, no: int = 0, count: int = 1) -> None:
    """A GGUF file, or a part of one; the matrix is in the first."""
    infos = [info(b"w", (4, 6), 0, 0)] if no == 0 else []
    about = (number(b"split.no", no), number(b"split.count", count))
    path.write_bytes(layout(infos, VALUES.tobytes() if infos else b"", about))


FOUND: dict[str, tuple[list[str], str]] = {
    # files in the folder, in the words of `make`; the one that is taken
    "transformers": (["model.safetensors", "config.json", "tokenizer.json"], "model.safetensors"),
    "both formats": (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
    "torch alone": (
        ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"],
        "pytorch_model.bin",
    ),
    "other runtimes": (["pytorch_model.bin", "onnx/model.onnx", "openvino_model.bin"], "pytorch_model.bin"),
    "variant": (["model.fp16.safetensors", "config.json"], "model.fp16.safetensors"),
    "variants beside the model": (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
    "variant twice": (["model.fp16.safetensors", "pytorch_model.fp16.bin"], "model.fp16.safetensors"),
    "index of a variant": (["model.safetensors.index.fp16.json"], "model.safetensors.index.fp16.json"),
    "index": (["model.safetensors.index.json"], "model.safetensors.index.json"),
    "index of torch": (["pytorch_model.bin.index.json"], "pytorch_model.bin.index.json"),
    "index beside others": (
        ["model.safetensors.index.json", "consolidated.safetensors"],
        "model.safetensors.index.json",
    ),
    "adapter": (["adapter_model.safetensors", "adapter_config.json"], "adapter_model.safetensors"),
    "adapter twice": (["adapter_model.safetensors", "adapter_model.bin"], "adapter_model.safetensors"),
    "adapter of torch": (["adapter_model.bin"], "adapter_model.bin"),
    "diffusers": (
        ["diffusion_pytorch_model.safetensors", "config.json"],
        "diffusion_pytorch_model.safetensors",
    ),
    "index of diffusers": (
        ["diffusion_pytorch_model.safetensors.index.json"],
        "diffusion_pytorch_model.safetensors.index.json",
    ),
    "open_clip": (["open_clip_pytorch_model.bin", "open_clip_config.json"], "open_clip_pytorch_model.bin"),
    "two names in torch": (["model.bin", "model.pt", "pytorch_model.bin"], "pytorch_model.bin"),
    "two names in safetensors": (["model.safetensors", "pytorch_model.safetensors"], "model.safetensors"),
    "any safetensors": (["embeddings.safetensors"], "embeddings.safetensors"),
    "any checkpoint": (["best.ckpt", "words.bin", "scheduler.pt"], "best.ckpt"),
    "gguf": (["m-Q8_0.gguf", "README.md"], "m-Q8_0.gguf"),
    "parts of gguf": (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m-00001-of-00002.gguf"),
    "sentence-transformers": (
        ["modules.json", "1_Pooling/config.json", "0_Transformer/pytorch_model.bin"],
        "0_Transformer/pytorch_model.bin",
    ),
    "sentence-transformers of words": (
        ["0_WordEmbeddings/pytorch_model.bin"],
        "0_WordEmbeddings/pytorch_model.bin",
    ),
    "the first module at the top": (["model.safetensors", "2_Dense/model.safetensors"], "model.safetensors"),
    "adapters in a folder": (["english/adapter_model.safetensors"], "english/adapter_model.safetensors"),
    "trainer": (
        ["trainer_state.json", "checkpoint-500/model.safetensors", "checkpoint-500/optimizer.pt"],
        "checkpoint-500/model.safetensors",
    ),
    "cache of the hub": (
        ["refs/main", "snapshots/0f3c/model.safetensors"],
        "snapshots/0f3c/model.safetensors",
    ),
    "sentence-transformers in the cache": (
        ["snapshots/0f3c/0_Transformer/model.safetensors"],
        "snapshots/0f3c/0_Transformer/model.safetensors",
    ),
    "lightning": (
        ["lightning_logs/version_0/checkpoints/epoch=1.ckpt"],
        "lightning_logs/version_0/checkpoints/epoch=1.ckpt",
    ),
    "hidden folders": ([".cache/model.safetensors", "sub/model.safetensors"], "sub/model.safetensors"),
}


def make(folder: Path, names: list[str]) -> None:
    """Files with such names and what belongs into them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stem = path.name.partition(".")[0]
        if name.endswith(".json") and ".index." in name:
            ending = ".safetensors" if "safetensors" in name else ".bin"
            parts = [f"{stem}-{number:05}-of-00002{ending}" for number in (1, 2)]
            index(path, parts, safetensors if ending == ".safetensors" else torch_file)
        elif name.endswith(".safetensors"):
            safetensors(path)
        elif name.endswith(".gguf"):
            of = name[-19:-5].removeprefix("-").split("-of-")
            gguf(path, *((int(of[0]) - 1, int(of[1])) if len(of) == 2 else (0, 1)))
        elif path.suffix in (".bin", ".pt", ".pth", ".ckpt") and not name.startswith(("words", "openvino")):
            torch_file(path)
        else:
            path.write_bytes(b"2 3\nsomething else\n")


@pytest.mark.parametrize("case", FOUND)
def test_the_file_that_is_meant(tmp_path: Path, case: str) -> None:
    names, expected = FOUND[case]
    make(tmp_path, names)
    assert checkpoint_in(str(tmp_path)) == str(tmp_path / expected)
    infos = list_tensors(tmp_path)
    assert infos == list_tensors(tmp_path / expected)
    with open_source(tmp_path, infos[0].name) as source:
        assert np.array_equal(next(source.chunks()), VALUES)


AMBIGUOUS: dict[str, tuple[list[str], list[str]]] = {
    "two files": (["a.safetensors", "b.safetensors"], ["a.safetensors", "b.safetensors"]),
    "two precisions": (
        ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
        ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"],
    ),
    "pipeline of diffusers": (
        ["model_index.json", "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"],
        ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"],
    ),
    "modules of sentence-transformers": (
        ["0_Transformer/model.safetensors", "2_Dense/model.safetensors"],
        ["0_Transformer/model.safetensors", "2_Dense/model.safetensors"],
    ),
    "checkpoints of a trainer": (
        ["checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors"],
        ["checkpoint-1/model.safetensors", "checkpoint-2/model.safetensors"],
    ),
    "two of torch": (["best.bin", "best.pt", "last.pt"], ["best.bin", "best.pt", "last.pt"]),
    "safetensors and a quantization": (["m.safetensors", "m.gguf"], ["m.gguf", "m.safetensors"]),
    "a whole and a part": (
        ["m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"],
        ["m-00001-of-00002.gguf", "m.gguf"],
    ),
    "quantizations": (["m-Q4_0.gguf", "m-Q8_0.gguf"], ["m-Q4_0.gguf", "m-Q8_0.gguf"]),
    "an index and other weights": (
        ["a.safetensors.index.json", "b.safetensors"],
        ["a.safetensors.index.json", "b.safetensors"],
    ),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_cannot_be_told_is_listed(tmp_path: Path, case: str) -> None:
    names, expected = AMBIGUOUS[case]
    make(tmp_path, names)
    listed = [f"\n  {tmp_path / name}" for name in expected]
    error = refused(tmp_path, f"holds {len(expected)} files of weights: give the path of one", *listed)
    assert str(error).count("\n") == len(expected)
    for name in expected:  # each path that is named works
        with open_source(tmp_path / name, list_tensors(tmp_path / name)[0].name) as source:
            assert source.dim == 4
    with pytest.raises(SourceError, match="files of weights"):
        qstore.build(tmp_path, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_parts_without_their_index(tmp_path: Path) -> None:
    make(tmp_path, ["model.safetensors.index.json"])
    text = (tmp_path / "model.safetensors.index.json").read_text()
    (tmp_path / "model.safetensors.index.json").unlink()
    refused(tmp_path, "holds 2 parts of weights, but not the index", "NAME.safetensors.index.json")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert len(list_tensors(tmp_path)) == 2


def test_long_lists_are_cut(tmp_path: Path) -> None:
    make(tmp_path, [f"{letter}.safetensors" for letter in "abcdefghijklmnopqrst"])
    error = refused(tmp_path, "holds 20 files of weights", "… and 8 more")
    assert str(error).count("\n") == 13


def test_nothing_is_found(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory without a checkpoint: expected model.safetensors", "found nothing")
    make(tmp_path, ["config.json", "tf_model.h5", "deep/er/and/too/model.safetensors", "optimizer.bin"])
    refused(
        tmp_path,
        "without a checkpoint",
        "found config.json, optimizer.bin, tf_model.h5; give the path of a file",
    )


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstore.sources.directories._MOST_FILES", 3)
    make(tmp_path, ["a", "b", "sub/c", "sub/d"])
    refused(tmp_path, "holds more than 3 files")


def test_folders_in_a_circle(tmp_path: Path) -> None:
    make(tmp_path, ["sub/model.safetensors"])
    (tmp_path / "sub" / "again").symlink_to(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert checkpoint_in(str(tmp_path)) == str(tmp_path / "sub" / "model.safetensors")


def test_files_may_be_links(tmp_path: Path) -> None:
    """As in the cache of the hub, where names are links to blobs."""
    safetensors(tmp_path / "blobs" / "1234")
    (tmp_path / "snapshots" / "0f3c").mkdir(parents=True)
    (tmp_path / "snapshots" / "0f3c" / "model.safetensors").symlink_to("../../blobs/1234")
    assert checkpoint_in(str(tmp_path)) == str(tmp_path / "snapshots" / "0f3c" / "model.safetensors")
    assert list_tensors(tmp_path)[0].name == "w"


def test_a_store_of_several_files_is_no_source(tmp_path: Path) -> None:
    qstore.build_shards(VALUES, tmp_path / "store", 3)
    refused(tmp_path / "store", "is a qstore store of several files already", "qstore.open", "qstore concat")
    with qstore.open(tmp_path / "store") as store:
        assert len(store) == 6
    qstore.concat([tmp_path / "store"], tmp_path / "one.h5")
    assert qstore.open(tmp_path / "one.h5").shape == (6, 4)


def test_a_directory_of_stores_is_no_source(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        qstore.build(VALUES, tmp_path / name)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["v"] = VALUES
    error = refused(tmp_path, "holds stores of qstore already (a.h5, b.h5)", "qstore concat")
    assert "give the path of a file" not in str(error)
    (tmp_path / "a.h5").unlink()
    (tmp_path / "b.h5").write_bytes(b"no store")
    refused(tmp_path, "is a directory without a checkpoint")


# ------------------------------------------------------- checkpoints with a file less


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_ls_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    stem = "model" if ending == "safetensors" else "pytorch_model"
    make(tmp_path, [f"{stem}.{ending}.index.json"])
    (tmp_path / f"{stem}-00001-of-00002.{ending}").unlink()
    for source in (tmp_path, tmp_path / f"{stem}.{ending}.index.json"):
        assert main(["ls", "--json", str(source)]) == 2
        out, err = capsys.readouterr()
        assert [(one["shape"], one["dtype"]) for one in json.loads(out)] == [([6, 4], "float32")]
        assert f"1 of its files missing: {stem}-00001-of-00002.{ending}; get them again" in err
    assert main(["ls", str(tmp_path)]) == 2
    assert "6 × 4" in capsys.readouterr().out
    # What needs all of them still refuses before anything is written.
    with pytest.raises(SourceError, match="1 of its files missing"):
        qstore.build_all(tmp_path, tmp_path / "stores")
    assert not (tmp_path / "stores").exists()


def test_ls_lists_beside_a_file_that_is_damaged(tmp_path: Path) -> None:
    make(tmp_path, ["model.safetensors.index.json"])
    part = tmp_path / "model-00001-of-00002.safetensors"
    shutil.copy(part, tmp_path / "kept")
    part.write_bytes(part.read_bytes()[:50])
    with pytest.raises(IncompleteError, match="model-00001-of-00002") as caught:
        list_tensors(tmp_path)
    assert [info_.shape for info_ in caught.value.tensors] == [(6, 4)]
    shutil.copy(tmp_path / "kept", part)
    assert len(list_tensors(tmp_path)) == 2
