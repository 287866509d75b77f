#!/usr/bin/env bash
# External storage of HDF5: a raw file that was cut reads as zeros.
#
# Version: h5py 3.16.0 with HDF5 2.0.0.
# Behaviour: a dataset may keep its values in a raw file beside the HDF5 file. Where that file ends
# early, reading succeeds, and the rest of the matrix is zeros. That a raw file may be short is not
# what its absence suggests: a missing one is an error.
# Hurt: whoever describes a raw table of embeddings by an HDF5 header instead of copying it: an
# interrupted copy of the raw file gives rows of zeros, which look like unused words.
#
# Seen:
#> whole   [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [10.0, 11.0, 12.0]]
#> cut     [[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
#> missing OSError: Can't synchronously read data
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'h5py==3.16.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import os

import h5py
import numpy as np

np.arange(1, 13, dtype="f4").tofile("table.raw")
with h5py.File("table.h5", "w") as file:
    file.create_dataset("table", (4, 3), "f4", external=[("table.raw", 0, 48)])


def read():
    try:
        with h5py.File("table.h5") as file:
            return file["table"][:].tolist()
    except OSError as error:
        return f"OSError: {str(error).split(' (')[0]}"


print("whole  ", read())
os.truncate("table.raw", 20)
print("cut    ", read())
os.remove("table.raw")
print("missing", read())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
