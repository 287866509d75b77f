"""Keys of every kind through exports: they come back when such a file is built again, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qstore

NAMES = ["w.vec", "w.txt", "w.bin", "w.parquet"]
CHARACTERS = [chr(code) for code in range(0x120)] + list(
    "\u2028\u2029\u3000\ufeff\u200b\ufffe\uffff\U0010ffff"
)
WORDS = [
    "1",
    "1e5",
    "-0.5",
    "nan",
    "#",
    "\ufeffa",
    "</s>",
    "a\x1cb",
    "1_0",
    '{"a":1}',
    "2 3",
    "x\0y",
    "a\n",
    "",
]


@pytest.fixture(autouse=True)
def needs_pyarrow(request: pytest.FixtureRequest) -> None:
    if "w.parquet" in request.node.name:
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def is_refused(key: str, name: str) -> bool:
    if name == "w.parquet":
        return False
    return key.encode().split() != [key.encode()] or "\0" in key


def exported(folder: Path, name: str, keys: list[str]) -> Path:
    values = np.random.default_rng(len(keys)).standard_normal((len(keys), 3)).astype(np.float32)
    qstore.build(values, folder / "s.h5", keys=keys, overwrite=True)
    qstore.export(folder / "s.h5", folder / name, overwrite=True)
    return folder / name


def check_comes_back(folder: Path, name: str, keys: list[str]) -> None:
    qstore.build(exported(folder, name, keys), folder / "again.h5", overwrite=True)
    with qstore.open(folder / "again.h5") as again, qstore.open(folder / "s.h5") as store:
        assert again.key_of(slice(None)) == keys
        assert np.array_equal(again.codes, store.codes)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_format_can_hold_comes_back(tmp_path: Path, name: str) -> None:
    keys = [key for key in CHARACTERS + WORDS if not is_refused(key, name)]
    assert len(keys) > 280
    for order in (keys, keys[::-1]):
        check_comes_back(tmp_path, name, list(dict.fromkeys(order)))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", NAMES[:3])
def test_what_it_cannot_is_refused_by_row(tmp_path: Path, name: str, place: int) -> None:
    refused = [key for key in dict.fromkeys(CHARACTERS + WORDS) if is_refused(key, name)]
    assert len(refused) >= 9
    for key in refused:
        keys = [key, "a"] if place == 0 else ["a", key]
        with pytest.raises(qstore.ExportError) as caught:
            exported(tmp_path, name, keys)
        assert f"the key of row {place} is {key!r}, expected a word" in str(caught.value)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", NAMES)
def test_long_keys(tmp_path: Path, name: str) -> None:
    """A reader of binary files takes a longer word for damage."""
    check_comes_back(tmp_path, name, ["x" * 65_535, "a", "y" * 65_535])
    keys = ["a", "x" * 65_536]
    if name != "w.bin":
        check_comes_back(tmp_path, name, keys)
        return
    with pytest.raises(qstore.ExportError, match=r"the key of row 1 is 'xxx.*at most 65535 bytes") as caught:
        exported(tmp_path, name, keys)
    assert len(str(caught.value)) < 600


def test_lines_of_text_have_an_end(tmp_path: Path) -> None:
    keys = ["a", "x" * (1 << 24)]
    with pytest.raises(qstore.ExportError, match="the key of row 1 is 'xxx"):
        exported(tmp_path, "w.vec", keys)
    check_comes_back(tmp_path, "w.vec", ["a", "x" * ((1 << 24) - 100)])


@pytest.mark.parametrize("name", NAMES[:3])
def test_each_way_out(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    keys = ["a", "b c", "d"]
    with pytest.raises(
        qstore.ExportError, match=r"keys=, .*keys=False \(--no-keys\), or export to \.parquet"
    ):
        exported(tmp_path, name, keys)
    with qstore.open(tmp_path / "s.h5") as store:
        qstore.export(store, tmp_path / name, keys=[key.replace(" ", "_") for key in keys])
        qstore.export(store, tmp_path / name, keys=False, overwrite=True)
    check_comes_back(tmp_path, "w.parquet", keys)


@pytest.mark.parametrize("name", NAMES[:3])
def test_keys_that_are_given(tmp_path: Path, name: str) -> None:
    qstore.build(np.eye(2), tmp_path / "s.h5")
    for keys, words in ((["a", None], "row 1 has no key"), (["a", "b c"], "the key of row 1 is 'b c'")):
        with pytest.raises(qstore.ExportError, match=words):
            qstore.export(tmp_path / "s.h5", tmp_path / name, keys=keys)  # type: ignore[arg-type]
