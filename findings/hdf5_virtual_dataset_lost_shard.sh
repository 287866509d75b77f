#!/usr/bin/env bash
# A virtual dataset of HDF5 over shards: a lost shard reads as zeros.
#
# Version: h5py 3.16.0 with HDF5 2.0.0.
# Behaviour: one matrix is laid over several files. When one of them is gone, or has the matrix
# under another name, its rows read as the fill value, without an error or a warning; the shape
# stays. A shard that is shorter than it was is an error, so the check that people try first
# suggests that damage is noticed.
# Hurt: shards on object storage or in a moved folder: search and training go on with rows of zeros.
#
# Seen:
#> whole   [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#> lost    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
#> renamed [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
#> shorter OSError: Can't synchronously read data
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

rows = np.arange(1, 7, dtype="f4").reshape(2, 3)
layout = h5py.VirtualLayout((4, 3), "f4")
for number in range(2):
    with h5py.File(f"shard-{number}.h5", "w") as file:
        file["table"] = rows
    layout[2 * number : 2 * number + 2] = h5py.VirtualSource(f"shard-{number}.h5", "table", (2, 3))
with h5py.File("all.h5", "w", libver="latest") as file:
    file.create_virtual_dataset("table", layout)


def read():
    try:
        with h5py.File("all.h5") as file:
            return file["table"][:].tolist()
    except OSError as error:
        return f"OSError: {str(error).split(' (')[0]}"


print("whole  ", read())
os.rename("shard-1.h5", "moved.h5")
print("lost   ", read())
with h5py.File("shard-1.h5", "w") as file:
    file["weights"] = rows
print("renamed", read())
with h5py.File("shard-1.h5", "w") as file:
    file["table"] = rows[:1]
print("shorter", read())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
