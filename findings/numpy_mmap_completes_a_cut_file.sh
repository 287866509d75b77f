#!/usr/bin/env bash
# `numpy.load(path, mmap_mode="r+")` of a file that was cut completes it with zeros, on the disk.
#
# Version: NumPy 2.4.6.
# Behaviour: `numpy.load(path)` and `mmap_mode="r"` and `"c"` refuse a cut `.npy`. `mmap_mode="r+"`,
# though only a read was wanted, makes the file as long as its header says and fills with zeros.
# From then on every way of reading accepts it.
# Hurt: a download or copy of a table that broke off, opened once with "r+": the only trace that it
# was cut is gone, and the rows at its end are zeros.
#
# Seen:
#> None ValueError: Failed to read all data for array 20 bytes of values
#> r    ValueError: mmap length is greater than file size 20 bytes of values
#> c    ValueError: mmap length is greater than file size 20 bytes of values
#> r+   [[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]] 48 bytes of values
#> None [[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]] 48 bytes of values
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import os

import numpy as np

np.save("table.npy", np.arange(1, 13, dtype="f4").reshape(4, 3))
os.truncate("table.npy", 128 + 20)
for mode in (None, "r", "c", "r+", None):
    try:
        print(f"{mode!s:4}", np.load("table.npy", mmap_mode=mode).tolist(), end=" ")
    except ValueError as error:
        print(f"{mode!s:4} ValueError: {str(error).split('.')[0]}", end=" ")
    print(os.path.getsize("table.npy") - 128, "bytes of values")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
