#!/usr/bin/env bash
# netCDF4: in a file that it wrote, every uint8 code 255 is masked; the same bytes from h5py are
# not.
#
# Version: netCDF4 1.7.5.1.post1, h5py 3.16.0.
# Behaviour: a variable without `_FillValue` has a default one, 255 for unsigned bytes and -127 for
# signed ones, and reading masks what equals it. Whether it does so depends on a property in the
# HDF5 file that no attribute shows: netCDF4 writes it, h5py does not. `filled(0)` and most
# functions of numpy.ma then leave these values out.
# Hurt: 8-bit codes, where 255 (or -127) is the largest value of a row: symmetric quantization gives
# nearly every row one, and the masked one is the most important of it.
#
# Seen:
#> netcdf.nc codes  [[1, 128, 254, None]] attributes []
#> netcdf.nc signed [[None, 0, 126, 127]] attributes []
#> h5py.nc   codes  [[1, 128, 254, 255]] attributes []
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'netCDF4==1.7.5.1.post1' 'h5py==3.16.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import h5py
import netCDF4
import numpy as np

codes = np.array([[1, 128, 254, 255]], "u1")
with netCDF4.Dataset("netcdf.nc", "w") as file:
    file.createDimension("row", 1)
    file.createDimension("column", 4)
    file.createVariable("codes", "u1", ("row", "column"))[:] = codes
    file.createVariable("signed", "i1", ("row", "column"))[:] = (codes.astype("i2") - 128).astype("i1")
with h5py.File("h5py.nc", "w") as file:
    file["codes"] = codes
for path in ("netcdf.nc", "h5py.nc"):
    with netCDF4.Dataset(path) as file:
        for name, variable in file.variables.items():
            print(f"{path:9} {name:6} {variable[:].tolist()} attributes {variable.ncattrs()}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
