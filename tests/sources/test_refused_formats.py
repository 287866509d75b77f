"""Formats that are not read, refused by name with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_contract import refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.fifu", b"FiFu" + bytes(60), "is a finalfusion file"),
        ("model.ckpt-1.index", bytes(range(200)), "is part of a TensorFlow checkpoint"),
        ("variables.data-00000-of-00001", bytes(200), "tensorflow.train.load_checkpoint(prefix)"),
    ],
)
def test_refused_by_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, words)


def test_a_directory_of_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(bytes(200))
    (tmp_path / "variables" / "variables.data-00000-of-00001").write_bytes(bytes(200))
    refused(tmp_path, "variables.index is part of a TensorFlow checkpoint")
