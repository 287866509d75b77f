#!/usr/bin/env bash
# `numpy.save` writes one kind of float8 to a file that `numpy.load` refuses; the others lose their
# type.
#
# Version: ml_dtypes 0.6.0, NumPy 2.4.6, h5py 3.16.0.
# Behaviour: of the types of ml_dtypes only float8_e5m2 calls itself a float to NumPy (kind "f", 1
# byte). So `numpy.save` writes the descriptor "<f1", which no NumPy knows: the file cannot be
# loaded again. All others, bfloat16 and float8_e4m3fn among them, are saved as raw bytes ("<V2",
# "<V1") and load without their type. HDF5 takes those as opaque bytes, and refuses float8_e5m2.
# Hurt: checkpoints in float8_e5m2 that were saved and deleted elsewhere; the values are in the
# file, its header must be edited.
#
# Seen:
#> bfloat16        .npy: reads as |V2
#>                 HDF5: reads as |V2
#> float8_e4m3fn   .npy: reads as |V1
#>                 HDF5: reads as |V1
#> float8_e5m2     .npy: ValueError: descr is not a valid dtype descriptor: '<f1'
#>                 HDF5: TypeError: Unsupported float type (float8_e5m2)
#> float8_e5m2fnuz .npy: reads as |V1
#>                 HDF5: reads as |V1
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'ml_dtypes==0.6.0' 'h5py==3.16.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import h5py
import ml_dtypes
import numpy as np


def told(action):
    try:
        return action()
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def stored(values):
    with h5py.File("table.h5", "w") as file:
        file["table"] = values
        return f"reads as {file['table'].dtype}"


for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e5m2fnuz"):
    values = np.ones(3, getattr(ml_dtypes, name))
    np.save("table.npy", values)
    print(f"{name:15} .npy:", told(lambda: f"reads as {np.load('table.npy').dtype}"))
    print(f"{'':15} HDF5:", told(lambda: stored(values)))
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
