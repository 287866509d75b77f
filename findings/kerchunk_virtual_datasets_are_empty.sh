#!/usr/bin/env bash
# kerchunk and VirtualiZarr make references to nothing of HDF5's virtual datasets.
#
# Version: kerchunk 0.2.10, VirtualiZarr 2.5.1, h5py 3.16.0.
# Behaviour: a matrix that HDF5 lays over shards (a virtual dataset) gets shape, type and fill value
# in the references, but no chunk. Both tools succeed; what zarr reads is the fill value in every
# row.
# Hurt: those who gather shards by the way that HDF5 offers, then publish references for readers in
# the cloud: everything opens, and every vector is the same.
#
# Seen:
#> h5py         [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
#> kerchunk     ['table/.zarray', 'table/.zattrs']
#>              fill 9.0
#> VirtualiZarr [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q \
    'kerchunk==0.2.10' 'virtualizarr==2.5.1' 'h5py==3.16.0' 'zarr==3.1.6' 'numpy==2.4.6' \
    'xarray==2026.9.0' 'obstore==0.12.1' 'obspec-utils==0.9.0' 'fsspec==2026.9.0' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import json
import os

import h5py
import numpy as np
import xarray
from kerchunk.hdf import SingleHdf5ToZarr
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from virtualizarr.parsers import HDFParser

with h5py.File("shard.h5", "w") as file:
    file["table"] = np.arange(1, 7, dtype="f4").reshape(2, 3)
layout = h5py.VirtualLayout((2, 3), "f4")
layout[:] = h5py.VirtualSource("shard.h5", "table", (2, 3))
with h5py.File("all.h5", "w", libver="latest") as file:
    file.create_virtual_dataset("table", layout, fillvalue=9)
print("h5py        ", h5py.File("all.h5")["table"][:].tolist())

references = SingleHdf5ToZarr("all.h5").translate()["refs"]
print("kerchunk    ", sorted(name for name in references if name.startswith("table/")))
print("             fill", json.loads(references["table/.zarray"])["fill_value"])
address = "file://" + os.path.abspath("all.h5")
store = HDFParser()(address, ObjectStoreRegistry({"file://": LocalStore()}))
print("VirtualiZarr", xarray.open_zarr(store, consolidated=False, zarr_format=3)["table"].values.tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
