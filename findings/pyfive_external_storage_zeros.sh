#!/usr/bin/env bash
# pyfive, HDF5 without the HDF5 library: a dataset with external storage is all zeros, though its
# file is there.
#
# Version: pyfive 1.3.0 reading what h5py 3.16.0 wrote.
# Behaviour: values in a raw file beside the HDF5 file are not read, and nothing says so: the array
# has the right shape and type, and only zeros. A virtual dataset comes back as None.
# Hurt: services that read with pyfive for its speed in threads, and files that were written with
# external storage.
#
# Seen:
#> external: h5py   [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#> external: pyfive [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
#> virtual: h5py    [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#> virtual: pyfive  None
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'h5py==3.16.0' 'numpy==2.4.6' 'pyfive==1.3.0' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import h5py
import numpy as np
import pyfive

rows = np.arange(1, 7, dtype="f4").reshape(2, 3)
rows.tofile("table.raw")
with h5py.File("table.h5", "w") as file:
    file.create_dataset("table", (2, 3), "f4", external=[("table.raw", 0, 24)])
with h5py.File("rows.h5", "w") as file:
    file["table"] = rows
layout = h5py.VirtualLayout((2, 3), "f4")
layout[:] = h5py.VirtualSource("rows.h5", "table", (2, 3))
with h5py.File("virtual.h5", "w", libver="latest") as file:
    file.create_virtual_dataset("table", layout)

print("external: h5py  ", h5py.File("table.h5")["table"][:].tolist())
print("external: pyfive", pyfive.File("table.h5")["table"][:].tolist())
print("virtual: h5py   ", h5py.File("virtual.h5")["table"][:].tolist())
print("virtual: pyfive ", pyfive.File("virtual.h5")["table"][:])
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
