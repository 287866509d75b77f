#!/usr/bin/env bash
# h5py: `dataset.astype("int8")[:]` and `dataset[:].astype("int8")` are different numbers.
#
# Version: h5py 3.16.0 with HDF5 2.0.0, NumPy 2.4.6.
# Behaviour: the first one has HDF5 convert, which saturates: every code from 128 on becomes 127.
# The second one has NumPy convert, which wraps: 128 becomes -128. `read_direct` into an int8 array
# and assignment to an int8 dataset saturate as well, and so do floats that are read as integers.
# Hurt: whoever reads 8-bit codes as signed ones to shift them by 128: half of the values of each
# row are lost, by the one spelling that avoids the copy.
#
# Seen:
#> dataset.astype('int8')[:] [0, 1, 127, 127, 127, 127]
#> dataset[:].astype('int8') [0, 1, 127, -128, -127, -1]
#> read_direct               [0, 1, 127, 127, 127, 127]
#> assigned                  [0, 1, 127, 127, 127, 127]
#> floats as uint8           [0, 2, 255]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'h5py==3.16.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import h5py
import numpy as np

codes = np.array([0, 1, 127, 128, 129, 255], "u1")
with h5py.File("codes.h5", "w") as file:
    dataset = file.create_dataset("codes", data=codes)
    print("dataset.astype('int8')[:]", dataset.astype("int8")[:].tolist())
    print("dataset[:].astype('int8')", dataset[:].astype("int8").tolist())
    direct = np.empty(6, "int8")
    dataset.read_direct(direct)
    print("read_direct              ", direct.tolist())
    signed = file.create_dataset("signed", (6,), "int8")
    signed[:] = codes
    print("assigned                 ", signed[:].tolist())
    floats = file.create_dataset("floats", data=[-1.5, 2.5, 300.0])
    print("floats as uint8          ", floats.astype("uint8")[:].tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
