"""A store of any size that takes no disk space: all codes and scales 0, for trying what size alone does.

    python tools/sparse_store.py OUT.h5 --rows 1300000000 --dim 768

The header is a real one; the checksums are not those of the data, so that `qstore verify` says no.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import qstore
from qstore.format.composition import compose


def make(path: Path, rows: int, dim: int) -> None:
    """Write the metadata of a store; the rest of the file is a hole."""
    composition = compose(rows, dim, {"content_id": "0" * 32, "source_dtype": "float32"})
    with path.open("wb") as file:
        for offset, data in composition.segments:
            file.seek(offset)
            file.write(data)
        file.truncate(composition.size)


def main() -> int:
    """Make one, open it, and read from it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_300_000_000)
    parser.add_argument("--dim", type=int, default=768)
    options = parser.parse_args()
    make(options.path, options.rows, options.dim)
    status = options.path.stat()
    print(f"{status.st_size / 1e12:.3f} TB, {status.st_blocks * 512 / 1e3:.0f} kB on disk")
    qstore.open(options.path).close()  # loads the modules
    begun = time.perf_counter()
    with qstore.open(options.path) as store:
        print(f"open: {(time.perf_counter() - begun) * 1e3:.1f} ms")
        keys: dict[str, Any] = {
            "last row": -1,
            "10,000 scattered rows": np.random.default_rng(0).integers(0, len(store), 10_000),
            "one value": (len(store) - 1, 3),
        }
        for name, key in keys.items():
            begun = time.perf_counter()
            store[key]
            print(f"{name}: {(time.perf_counter() - begun) * 1e3:.2f} ms")
    os.unlink(options.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
