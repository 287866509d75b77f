#!/usr/bin/env bash
# zarr: rows that a resize took away are back after the next one that makes the array longer.
#
# Version: zarr 3.1.6; h5py 3.16.0 beside it.
# Behaviour: making an array shorter deletes whole chunks only. What lies in the last chunk behind
# the new end stays in it, and when the array grows again, rows that nobody wrote are the old ones
# and not the fill value. HDF5 fills them.
# Hurt: tables that are cut back to a checkpoint and go on: rows of the abandoned run look like rows
# of this one.
#
# Seen:
#> zarr [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]
#> HDF5 [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'zarr==3.1.6' 'h5py==3.16.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import h5py
import numpy as np
import zarr

rows = np.arange(1, 7, dtype="f4")
array = zarr.create_array("rows.zarr", shape=(6,), chunks=(4,), dtype="f4")
array[:] = rows
array.resize((1,))
array.resize((6,))
print("zarr", array[:].tolist())
with h5py.File("rows.h5", "w") as file:
    dataset = file.create_dataset("rows", data=rows, chunks=(4,), maxshape=(None,))
    dataset.resize((1,))
    dataset.resize((6,))
    print("HDF5", dataset[:].tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
