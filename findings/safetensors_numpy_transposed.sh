#!/usr/bin/env bash
# safetensors.numpy saves transposed and Fortran-ordered arrays as another matrix.
#
# Version: safetensors 0.8.0, NumPy 2.4.6.
# Behaviour: `save` and `save_file` of safetensors.numpy write an array's memory as it lies, under
# the shape of the array, whatever its strides. `table.T`, or what `numpy.asfortranarray` and
# column-major libraries give, is saved with its values in other places; nothing is raised. The
# torch side of the same library refuses such a tensor.
# Hurt: a table that was kept as (dimensions, words) and is transposed on saving: shape and type are
# right, and nearly every value is in another place.
#
# Seen:
#> transposed saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
#>            read  [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#> Fortran    saved [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
#>            read  [[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]
#> C          saved [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
#>            read  [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'safetensors==0.8.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import numpy as np
from safetensors.numpy import load_file, save_file

columns = np.arange(6, dtype="f4").reshape(2, 3)
for name, table in {"transposed": columns.T, "Fortran": np.asfortranarray(columns), "C": columns}.items():
    save_file({"table": table}, "table.safetensors")
    print(f"{name:10} saved {table.tolist()}")
    print(f"{'':10} read  {load_file('table.safetensors')['table'].tolist()}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
