#!/usr/bin/env bash
# HDF5 converts float32 to float16 with infinities that the standard's rounding does not make.
#
# Version: h5py 3.16.0 with HDF5 2.0.0, NumPy 2.4.6.
# Behaviour: values above 65504, the largest float16, up to 65520 round down to 65504 by IEEE 754,
# and in NumPy. HDF5 makes infinity of all of them, when float32 or float64 values are assigned to a
# float16 dataset and when they are read through `astype("float16")`. All other values are rounded
# as by NumPy.
# Hurt: tables that were clipped to the range of float16 in float32 arithmetic, where the limit was
# rounded: the file has infinities, the same table saved by NumPy has none.
#
# Seen:
#> NumPy          [65504.0, 65504.0, 65504.0, 65504.0, inf]
#> HDF5, written  [65504.0, inf, inf, inf, inf]
#> HDF5, read     [65504.0, inf, inf, inf, inf]
#> others differ  0
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

values = np.array([65504, 65505, 65512, 65519, 65520])
with h5py.File("half.h5", "w") as file:
    half = file.create_dataset("half", (5,), "float16")
    half[:] = values.astype("float32")
    file["single"] = values.astype("float32")
    print("NumPy         ", values.astype("float32").astype("float16").tolist())
    print("HDF5, written ", half[:].tolist())
    print("HDF5, read    ", file["single"].astype("float16")[:].tolist())
    numbers = np.random.default_rng(0).uniform(-65504, 65504, 100_000).astype("float32")
    file["numbers"] = numbers
    print("others differ ", int((file["numbers"].astype("float16")[:] != numbers.astype("float16")).sum()))
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
