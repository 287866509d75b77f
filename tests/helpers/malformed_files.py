"""The frozen files with one defect each, and the error that each must give."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data" / "malformed"
EXPECTED: dict[str, tuple[str, str]] = json.loads((FOLDER / "expected.json").read_bytes())


def fixture(name: str) -> bytes:
    return gzip.decompress((FOLDER / f"{name}.h5.gz").read_bytes())
