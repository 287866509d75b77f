#!/usr/bin/env bash
# xarray: values that do not fit the packed type change their sign in the file.
#
# Version: xarray 2026.9.0, netCDF4 1.7.5.1.post1.
# Behaviour: `to_netcdf(encoding={"dtype": "int8", "scale_factor": ...})` divides, rounds and casts;
# the cast wraps. At a scale of 0.01 the value -1.30 is 1.26 after reading back, 1.29 is -1.27,
# without a warning. netCDF's own packing, by `netCDF4`, wraps as well.
# Hurt: tables packed with a scale from a sample, and a few values beyond it: these have the wrong
# sign, the worst error there is, instead of being clipped.
#
# Seen:
#> given   [[1.27, 1.29, -1.27, -1.3]]
#> xarray  [[1.27, -1.27, -1.27, 1.26]]
#> netCDF4 [1.27, -1.27, -1.27, 1.26]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'xarray==2026.9.0' 'netCDF4==1.7.5.1.post1' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import netCDF4
import numpy as np
import xarray

values = np.array([[1.27, 1.29, -1.27, -1.30]])
table = xarray.Dataset({"table": (("row", "column"), values)})
table.to_netcdf("packed.nc", encoding={"table": {"dtype": "int8", "scale_factor": 0.01, "_FillValue": -128}})
read = xarray.open_dataset("packed.nc")["table"].values
print("given  ", values.tolist())
print("xarray ", read.round(2).tolist())
with netCDF4.Dataset("own.nc", "w") as file:
    file.createDimension("column", 4)
    packed = file.createVariable("table", "i1", ("column",), fill_value=False)
    packed.scale_factor = 0.01
    packed[:] = values[0]
    print("netCDF4", np.ma.getdata(packed[:]).round(2).tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
