"""Words and key files that are no UTF-8: left alone, or in the encoding that is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_files import VALUES, WORDS, binary_words, text_words

import qstore
from qstore.cli import main
from qstore.errors import SourceError
from qstore.sources import TextEncoding, open_source
from qstore.sources.words.binary import BinaryWordVectors
from qstore.sources.words.text import TextWordVectors

LAYOUTS = pytest.mark.parametrize(
    "layout",
    [
        binary_words,
        text_words,
        lambda words: binary_words(words, b""),
        lambda words: text_words(words, "\t", "\t", -1),
    ],
    ids=["binary", "text", "gensim", "tabs"],
)
Layout = Callable[[list[bytes]], bytes]
ODD = [b"the", b"Z\xfcrich", b"caf\xe9"]


def keys_of(path: Path) -> list[str]:
    with qstore.open(path) as store:
        return list(store.key_of(slice(None)))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    capsys.readouterr()
    status = main([str(word) for word in words])
    return status, "".join(capsys.readouterr())


@LAYOUTS
def test_words_that_are_not_wanted_may_be_anything(tmp_path: Path, layout: Layout) -> None:
    source, store, shards = tmp_path / "words", tmp_path / "store.h5", tmp_path / "shards"
    source.write_bytes(layout(ODD))
    qstore.build(source, store, keys=False)
    qstore.build_shards(source, shards, 2, keys=False)
    qstore.build(source, tmp_path / "others.h5", keys=["a", "b", "c"])
    for path in (store, shards, tmp_path / "others.h5"):
        with qstore.open(path) as opened:
            assert qstore.verify_against(opened, source, keys=False).ok
            assert (opened.key_kind is None) == (path.name != "others.h5")
            assert np.allclose(opened[:], VALUES, atol=0.03)


@LAYOUTS
@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("latin-1", ["the", "Zürich", "café"]),
        ("cp1250", ["the", "Zürich", "café"]),
        ("koi8-r", ["the", "ZЭrich", "cafИ"]),
        ("utf-8:replace", ["the", "Z\ufffdrich", "caf\ufffd"]),
        ("UTF8:backslashreplace", ["the", "Z\\xfcrich", "caf\\xe9"]),
    ],
)
def test_build_and_verify_agree(tmp_path: Path, layout: Layout, encoding: str, expected: list[str]) -> None:
    source, store, shards = tmp_path / "words", tmp_path / "store.h5", tmp_path / "shards"
    source.write_bytes(layout(ODD))
    qstore.build(source, store, key_encoding=encoding)
    assert keys_of(store) == expected
    qstore.build_shards(source, shards, 2, key_encoding=encoding)
    assert keys_of(shards) == expected
    with qstore.open(store) as opened:
        assert qstore.verify_against(opened, source, key_encoding=encoding).ok
        other = qstore.verify_against(opened, source, key_encoding="cp437")
        assert (other.ok, other.differing_rows) == (False, 2)
        with pytest.raises(SourceError, match=r"the word of row 1 .*is no UTF-8"):
            qstore.verify_against(opened, source)


def test_words_of_many_bytes(tmp_path: Path) -> None:
    source = tmp_path / "chinese.vec"
    words = ["的", "中国", "一"]
    source.write_bytes(text_words([word.encode("gb18030") for word in words]))
    qstore.build(source, tmp_path / "store.h5", key_encoding="gb18030")
    assert keys_of(tmp_path / "store.h5") == words


def test_several_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(binary_words([name.encode() + word for word in ODD]))
    sources = [tmp_path / "a", tmp_path / "b"]
    qstore.build(sources, tmp_path / "store.h5", key_encoding="latin-1")
    assert keys_of(tmp_path / "store.h5") == ["athe", "aZürich", "acafé", "bthe", "bZürich", "bcafé"]
    with qstore.open(tmp_path / "store.h5") as store:
        assert qstore.verify_against(store, sources, key_encoding="latin-1").ok


@pytest.mark.parametrize("kind", [BinaryWordVectors, TextWordVectors])
def test_of_a_source(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "words"
    path.write_bytes(binary_words(ODD) if kind is BinaryWordVectors else text_words(ODD))
    with kind(str(path), key_encoding="latin-1") as source:
        assert [key for _, keys in source.keyed_chunks() for key in keys] == ["the", "Zürich", "café"]


# ----------------------------------------------------------------------- key files


def test_key_files(tmp_path: Path) -> None:
    keys, store = tmp_path / "vocab.txt", tmp_path / "store.h5"
    keys.write_bytes(b"the\r\nZ\xfcrich\n\\n caf\xe9")
    for encoding, expected in (
        ("latin-1", ["the", "Zürich", "\\n café"]),
        ("utf-8:replace", ["the", "Z\ufffdrich", "\\n caf\ufffd"]),
        ("unicode_escape", ["the", "Zürich", "\n café"]),  # a line end made by decoding is part of the key
    ):
        qstore.build(VALUES, store, keys=keys, key_encoding=encoding, overwrite=True)
        assert keys_of(store) == expected
        with qstore.open(store) as opened:
            assert qstore.verify_against(opened, VALUES, keys=keys, key_encoding=encoding).ok
    for wrong in (None, "ascii", "euc-jp"):
        with pytest.raises(SourceError, match=r"line 2 is not .*key_encoding= \(--key-encoding\)"):
            qstore.build(VALUES, store, keys=keys, key_encoding=wrong, overwrite=True)


def test_key_files_for_several_tensors(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", a=VALUES, b=VALUES)
    (tmp_path / "vocab.txt").write_bytes(b"\n".join(ODD))
    for _ in range(2):  # the second run compares
        reports = qstore.build_all(
            tmp_path / "m.npz", tmp_path / "out", keys=tmp_path / "vocab.txt", key_encoding="latin-1"
        )
    assert [keys_of(Path(report.path)) for report in reports] == [["the", "Zürich", "café"]] * 2


def test_shards_of_an_interrupted_build_have_one_encoding(tmp_path: Path) -> None:
    """Finished shards of an unchanged source are kept: not where their keys would be others."""
    np.save(tmp_path / "m.npy", VALUES)
    (tmp_path / "vocab.txt").write_bytes(b"\n".join(ODD))
    given: dict[str, Any] = {"keys": tmp_path / "vocab.txt", "key_encoding": "cp437"}

    def interrupt(done: int, total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qstore.build_shards(tmp_path / "m.npy", tmp_path / "out", 1, progress=interrupt, **given)
    with pytest.raises(qstore.ResumeError, match="the keys have changed"):
        qstore.build_shards(tmp_path / "m.npy", tmp_path / "out", 1, **{**given, "key_encoding": "latin-1"})
    qstore.build_shards(tmp_path / "m.npy", tmp_path / "out", 1, **given)
    assert keys_of(tmp_path / "out") == [word.decode("cp437") for word in ODD]


# ------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-32-le", "cp037", "rot13", "hex", "punycode", "nonsense", "", "utf-8:ignore", "\0"],
)
def test_encodings_that_cannot_be(tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "words"
    source.write_bytes(binary_words())
    with pytest.raises(SourceError, match=r"the key encoding is .*expected ENCODING or ENCODING:ERRORS"):
        qstore.build(source, tmp_path / "store.h5", key_encoding=encoding)
    assert not (tmp_path / "store.h5").exists()


def test_where_nothing_is_to_be_decoded(tmp_path: Path) -> None:
    source = tmp_path / "words"
    source.write_bytes(binary_words())
    (tmp_path / "keys.json").write_text('["a", "b", "c"]')
    np.save(tmp_path / "keys.npy", np.arange(3))
    for matrix, keys, words in (
        (source, False, "keys are left out"),
        (source, ["a", "b", "c"], "the keys are given as they are"),
        (source, tmp_path / "keys.json", "is no text file"),
        (source, tmp_path / "keys.npy", "is no text file"),
        (VALUES, None, "carries no keys in an encoding"),
        ([source, source], False, "keys are left out"),
    ):
        for make in (qstore.build, qstore.plan):
            with pytest.raises(SourceError, match=words):
                make(matrix, tmp_path / "store.h5", keys=keys, key_encoding="latin-1")


def test_words_of_the_right_kind_may_have_marks() -> None:
    assert str(TextEncoding.parse("UTF_8")) == "UTF-8"
    assert str(TextEncoding.parse("latin1")) == "iso8859-1"


# ---------------------------------------------------------------------- the command


@LAYOUTS
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: Layout) -> None:
    """The advice of the error, taken: each way builds, and agrees when asked in the same way."""
    source, store = tmp_path / "words", tmp_path / "store.h5"
    source.write_bytes(layout(ODD))
    status, shown = run(capsys, "build", source, "-o", store)
    assert status == 2
    assert "--key-encoding" in shown
    assert "--no-keys" in shown
    for words in (
        ["--key-encoding", "latin-1"],
        ["--key-encoding", "utf-8:replace"],
        ["--no-keys"],
    ):
        assert run(capsys, "build", source, "-o", store, "--force", *words)[0] == 0
        assert run(capsys, "verify", store, "--against", source, *words)[0] == 0
        assert run(capsys, "build", source, "-o", store, "--force", "--dry-run", *words)[0] == 0
    assert run(capsys, "ls", source)[0] == 0  # no word is looked at
    vocab = tmp_path / "vocab.txt"
    vocab.write_bytes(b"\n".join(ODD))
    given = ["--keys", vocab, "--key-encoding", "latin-1"]
    assert run(capsys, "build", source, "-o", store, "--force", *given)[0] == 0
    assert run(capsys, "verify", store, "--against", source, *given)[0] == 0
    assert run(capsys, "verify", store, "--against", source, "--key-encoding", "latin-1")[0] == 0
    assert run(capsys, "get", store, "--key", "Zürich")[0] == 0
    status, shown = run(capsys, "verify", store, "--key-encoding", "latin-1")
    assert (status, "give --against SRC too" in shown) == (2, True)


def test_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    source = tmp_path / "words"
    source.write_bytes(binary_words(ODD))
    ways: list[dict[str, Any]] = [{"keys": False}, {"key_encoding": "latin-1"}]
    for given in ways:
        qstore.build(source, tmp_path / "store.h5", overwrite=True, **given)
        with qstore.open(tmp_path / "store.h5") as store:
            qstore.report(store, tmp_path / "page.html", source=source, overwrite=True, **given)
        said = "every code and scale agrees" if "keys" in given else "every code, scale and key agrees"
        assert said in (tmp_path / "page.html").read_text()


def test_utf8_stays_what_it_was(tmp_path: Path) -> None:
    source = tmp_path / "words"
    source.write_bytes(binary_words())
    for encoding in (None, "utf-8", "UTF8:strict", "utf-8:replace"):
        qstore.build(source, tmp_path / "store.h5", key_encoding=encoding, overwrite=True)
        assert keys_of(tmp_path / "store.h5") == [word.decode() for word in WORDS]
    with open_source(source) as opened:
        assert [key for _, keys in opened.keyed_chunks() for key in keys] == [word.decode() for word in WORDS]
