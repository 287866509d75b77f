"""Which rows of an embedding changed most between two checkpoints? With their keys, without loading either.

Builds a store of one tensor of each checkpoint, with the keys of the rows if a file of them is given,
compares the two, and prints the rows that drifted most. The stores are removed afterwards unless --keep
names a folder.

    python tools/compare_checkpoints.py before.safetensors after.safetensors --tensor NAME [--keys vocab.txt]
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import qstore


def main() -> int:
    """Compare, and print a table."""
    options = parse_arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        stores = []
        for name, source in (("before", options.before), ("after", options.after)):
            path = folder / f"{name}.h5"
            report = qstore.build(source, path, tensor=options.tensor, keys=options.keys, overwrite=True)
            print(f"{source}: {report.rows:,} × {report.dim:,} in {report.seconds:.1f} s")
            stores.append(path)
        found = qstore.compare(*stores, k=options.k)
    print(f"{found.rows_changed:,} of {found.rows_compared:,} rows changed")
    for one in found.most_drifted:
        title = str(one.row_a if one.key is None else one.key)
        print(f"{title:24} drift {one.drift:8.4f}  cosine {one.cosine:9.6f}")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="Rows that changed most between two checkpoints.")
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--tensor", help="which tensor, if the checkpoints hold several")
    parser.add_argument("--keys", help="a file with a key for each row, such as vocab.txt")
    parser.add_argument("-k", type=int, default=20, help="how many rows to print (default: 20)")
    parser.add_argument("--keep", help="folder for the two stores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
