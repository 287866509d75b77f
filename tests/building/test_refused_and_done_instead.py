"""The table of docs/sources.md: what its left side says is refused, and what its right side says works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qstore
from qstore.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
ELSEWHERE = {
    "in a torch checkpoint: a sparse or nested tensor, one quantized otherwise than row by row, or of a class of its own": "test_remedies.py",  # noqa: E501
    "a tensor on the meta device": "test_remedies.py",
    "a quantized table of ONNX whose scales are computed, or whose nodes leave open what is whose": "test_onnx_tables.py",  # noqa: E501
    "a checkpoint that is one object, such as a whole model": "test_remedies.py",
    "complex numbers": "test_remedies.py",
    "a weight that looks quantized, without scales that fit": "test_quantized_checkpoints.py",
    "GPTQ, AWQ, EXL2, EXL3, HQQ, 4 bits of bitsandbytes": "test_quantized_refusals.py",
    "bool, text, dates, `longdouble`, float8 of other kinds without a scale": "test_remedies.py",
    "bfloat16 and float8_e4m3fn in `.npy`, `.npz` and HDF5, which keep no type for them": "test_remedies.py",
    "fields, as `np.genfromtxt` makes them": "test_remedies.py",
    "a masked array": "test_remedies.py",
    "SciPy's sparse matrices, sparse tensors": "test_remedies.py",
    "a dataset of netCDF with `scale_factor` or `add_offset`": "test_remedies.py",
    "a dataset of netCDF with `_Unsigned`, whose type says otherwise": "test_remedies.py",
    "rows of a torch checkpoint that do not lie one after the other": "test_remedies.py",
    "a Git LFS pointer in the place of a source, an index, a key file, a store or a shard": "test_git_lfs_pointers.py",  # noqa: E501
    "`.zst`, `.lz4`, `.tar`; `.gz`, `.xz`, `.bz2` of other things than word vectors; packed key files and stores": "test_packed_word_vectors.py",  # noqa: E501
    "a `.zip` of several files": "test_packed_word_vectors.py",
    "a word, or a line of a key file, that is no UTF-8": "test_key_encodings.py",
    "several arrays in one `.npy`, by `np.save` into an open file": "test_promised_counts.py",
    "text of word vectors whose first line has numbers only": "test_tab_separated_words.py",
    "a TensorFlow checkpoint (`.index`, `.data-00000-of-00001`)": "test_refused_formats.py",
    "finalfusion": "test_refused_formats.py",
    "Feather's first version": "test_arrow.py",
    "a quantized fastText model, `.ftz`": "test_fasttext.py",
    "int8 or uint8 tables of ONNX that `GatherBlockQuantized` or `DequantizeLinear` reads": "test_onnx.py",
    "one `.distcp` file, one shard of torch's `HuggingFaceStorageWriter`": "test_distributed_checkpoints.py",
    "such a shard that is all there is, saved by one process": "test_safetensors_shards.py",
    "a distributed checkpoint saved with `use_collectives=False`": "test_distributed_checkpoints.py",
}
"""Rows whose remedy is run by another file: what is found, and the file's name in tests/."""

VALUES = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


class Case:
    """A folder, the command in it, and what the right side of the row says."""

    def __init__(self, folder: Path, advice: str, complaints: Callable[[], str]) -> None:
        self.folder, self.advice, self._complaints = folder, advice, complaints

    def saved(self, name: str, values: Any) -> str:
        np.save(self.folder / name, values)
        return str(self.folder / name)

    def words(self, text: str) -> str:
        (self.folder / "words.txt").write_text(text)
        return str(self.folder / "words.txt")

    def options(self, number: int = 0, **names: str) -> list[str]:
        """One of the pieces of code of the advice, as arguments of the command."""
        text = re.findall(r"`([^`]+)`", self.advice)[number]
        for name, value in names.items():
            text = text.replace(name, value)
        return shlex.split(text)

    def expression(self, number: int = 0, **names: Any) -> Any:
        """What one of the pieces of code gives."""
        return eval(re.findall(r"`([^`]+)`", self.advice)[number], {"np": np, **names})

    def command(self, *arguments: str) -> int:
        try:
            return main([*arguments])
        except SystemExit as stopped:
            return int(stopped.code or 0)

    def build(self, *arguments: str, out: str = "out.h5") -> int:
        return self.command("build", *arguments, "-o", f"{self.folder}/{out}", "-q", "--force")

    def complaint(self) -> str:
        return self._complaints()

    @property
    def store(self) -> qstore.Store:
        return qstore.open(self.folder / "out.h5")


def refused(source: Any, case: Case, match: str = "", **options: Any) -> None:
    with pytest.raises(qstore.SourceError, match=match):
        qstore.build(source, case.folder / "no.h5", **options)
    assert not (case.folder / "no.h5").exists()


def builds(source: Any, case: Case, expected: Any) -> None:
    qstore.build(source, case.folder / "out.h5", overwrite=True)
    assert qstore.verify_against(case.store, np.asarray(expected, np.float32)).ok


def nonfinite(case: Case) -> None:
    source = case.saved("in.npy", np.array([[np.nan, 1.0]]))
    assert case.build(source) == 2
    assert case.build(source, *case.options()) == 0
    assert case.store[0].tolist() == [0, 1]


def several_matrices(case: Case) -> None:
    path = str(case.folder / "two.npz")
    np.savez(path, a=VALUES, b=VALUES[:2])
    assert case.build(path) == 2
    assert case.build(path, *case.options(NAME="b")) == 0
    assert len(case.store) == 2
    assert case.build(path, out="many/") == 0
    assert sorted(one.name for one in (case.folder / "many").iterdir()) == ["a.h5", "b.h5"]


def other_dimensions(case: Case) -> None:
    for x in (VALUES[0], VALUES.reshape(6, 2, 2)):
        refused(x, case, "expected 2 dimensions")
        builds(case.expression(x=x), case, x.reshape(len(x), -1))


def single_rows(case: Case) -> None:
    refused(iter(VALUES), case, "one row of shape")
    batches = [list(VALUES[:4]), list(VALUES[4:])]
    builds(case.expression(batches=batches), case, VALUES)


def by_name(case: Case) -> None:
    arrays = {"weight": VALUES, "bias": VALUES[0]}
    refused(arrays, case, "holds arrays by name")
    builds(case.expression(arrays=arrays), case, VALUES)


def columns_of_text(case: Case) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(VALUES).assign(word=list("abcdef"))
    refused(frame, case, "holds object")
    builds(case.expression(frame=frame), case, VALUES)


def other_widths(case: Case) -> None:
    one, other = case.saved("a.npy", VALUES), case.saved("b.npy", VALUES[:, :3])
    assert case.build(one, other) == 2
    assert case.build(one) == case.build(other, out="other.h5") == 0


def other_types(case: Case) -> None:
    one, other = case.saved("a.npy", VALUES), case.saved("b.npy", VALUES.astype(np.float64))
    assert case.build(one, other) == 2
    values = np.load(other)
    assert case.build(one, case.saved("c.npy", case.expression(values=values))) == 0
    assert len(case.store) == 12


def same_key(case: Case) -> None:
    source = case.words("3 2\na 1 2\na 3 4\nb 5 6\n")
    assert case.build(source) == 2
    assert case.build(source, *case.options()) == 0
    assert case.store.rows_of(["a", "b"]).tolist() == [0, 2]
    assert case.build(source, *case.options(1)) == 0
    assert case.store.key_kind is None


def no_header(case: Case) -> None:
    path = case.folder / "values.raw"
    np.ones((5, 768), np.float32).tofile(path)
    assert case.build(str(path)) == 2
    assert case.build(str(path), *case.options()) == 0
    assert case.store.shape == (5, 768)


def other_zero_points(case: Case) -> None:
    codes = np.array([[-3, 0, 100], [1, 2, 3]], np.int8)
    refused((codes, np.array([0.5])), case, "codes that share one are built alone, with step=")
    assert case.build(case.saved("codes.npy", codes), *case.options(SCALE="0.5", Z="3")) == 0
    assert case.store[:].tolist() == [[-3.0, -1.5, 48.5], [-1.0, -0.5, 0.0]]


def too_many_bits(case: Case) -> None:
    source = case.saved("in.npy", np.array([[1, 300]]))
    assert case.build(source, *case.options()[:1], "1") == 2
    assert "300" in case.complaint()
    assert case.build(source) == 0


def old_torch_files(case: Case) -> None:
    torch = pytest.importorskip("torch")
    path, new_path = str(case.folder / "old.pt"), str(case.folder / "new.pt")
    torch.save({"w": torch.tensor(VALUES)}, path, _use_new_zipfile_serialization=False)
    assert case.build(path) == 2
    assert "save it again" in case.complaint()
    case.expression(torch=torch, path=path, new_path=new_path)
    assert case.build(new_path) == 0


def interrupted(case: Case) -> None:
    source = case.saved("in.npy", np.ones((3000, 1024), np.float32))

    def stop(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.build(source, case.folder / "out.h5", progress=stop, threads=1)
    other = case.saved("other.npy", np.zeros((3000, 1024), np.float32))
    assert case.build(other) == 2
    assert case.build(source, "--nonfinite", "zero") == 2
    assert case.build(other, *case.options()) == 0
    assert not case.store[2999].any()


def too_large_to_export(case: Case) -> None:
    qstore.build([[1e300, 1.0]], case.folder / "out.h5")
    arguments = ["export", str(case.folder / "out.h5"), "-o", str(case.folder / "out.npy")]
    for dtype in ("float16", "float32"):
        assert case.command(*arguments, "--dtype", dtype) == 2
    assert case.command(*arguments, *case.options()) == 0
    assert np.load(case.folder / "out.npy")[0, 0] == pytest.approx(1e300)


def white_space_in_keys(case: Case) -> None:
    qstore.build(VALUES, case.folder / "out.h5", keys=["new york", *"abcde"])
    arguments = ["export", str(case.folder / "out.h5"), "-o"]
    assert case.command(*arguments, str(case.folder / "out.vec")) == 2
    assert case.command(*arguments, str(case.folder / "out.vec"), *case.options()) == 0
    pytest.importorskip("pyarrow")
    (ending,) = case.options(1)
    assert case.command(*arguments, f"{case.folder}/out{ending}") == 0


REMEDIES: dict[str, Callable[[Case], None]] = {
    "NaN or infinities": nonfinite,
    "several matrices in one file, and no name": several_matrices,
    "an array of one dimension, or of three": other_dimensions,
    "single rows, one after the other": single_rows,
    "arrays by name, such as a dict": by_name,
    "a table with columns that are no numbers": columns_of_text,
    "several files of different widths": other_widths,
    "several files of different types": other_types,
    "two rows with the same key": same_key,
    "plain values without a header": no_header,
    "codes with another zero point than 128, one scale for all": other_zero_points,
    "numbers that do not fit 8 bits, with `--step`": too_many_bits,
    "a torch file from before torch 1.6": old_torch_files,
    "an interrupted build of another source, or with other options": interrupted,
    "an export of values that float16 or float32 cannot hold": too_large_to_export,
    "an export to word vectors of keys with white space": white_space_in_keys,
}


def table() -> Iterator[tuple[str, str]]:
    """What is found and what to do, row by row."""
    lines = PAGE.read_text(encoding="utf-8").partition("\n| found | do |\n|---|---|\n")[2].splitlines()
    for line in lines:
        if not line.startswith("| "):
            return
        found, do = line.strip("| ").split(" | ", 1)
        yield found, do


def test_every_row_has_a_test() -> None:
    rows = [found for found, _ in table()]
    assert len(rows) == len(set(rows))
    assert set(rows) - REMEDIES.keys() - ELSEWHERE.keys() == set()
    assert set(REMEDIES) <= set(rows)
    for name in ELSEWHERE.values():
        assert list((PAGE.parents[1] / "tests").rglob(name)), name


@pytest.mark.parametrize("found", REMEDIES)
def test_what_to_do_works(found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    REMEDIES[found](Case(tmp_path, dict(table())[found], lambda: capsys.readouterr().err))
