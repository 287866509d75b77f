#!/usr/bin/env bash
# sqlite-vec: `vec_quantize_int8` cuts instead of rounding, so 1.0 becomes 126 and -1.0 becomes
# -128.
#
# Version: sqlite-vec 0.1.9 (through apsw 3.54.1.0).
# Behaviour: 'unit' maps -1 to 1 onto -128 to 127, so that zero lies between two codes, and cuts
# towards zero. The two signs of a value get codes that do not mirror, and only values above 1 reach
# 127.
# Hurt: those who decode by code / 127, or compare with codes that another library made of the same
# vectors.
#
# Seen:
#> values          [1.0, 0.5, 0.25, 0.0, -0.25, -0.5, -1.0, 2.0]
#> sqlite-vec      [126, 63, 31, 0, -32, -64, -128, 127]
#> round(127 * v)  [127, 64, 32, 0, -32, -64, -127, 127]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'sqlite-vec==0.1.9' 'apsw==3.54.1.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import apsw
import numpy as np
import sqlite_vec

base = apsw.Connection(":memory:")
base.enable_load_extension(True)
base.load_extension(sqlite_vec.loadable_path())
values = np.array([1, 0.5, 0.25, 0, -0.25, -0.5, -1, 2], "f4")
((codes,),) = base.execute("select vec_quantize_int8(?, 'unit')", [values.tobytes()])
print("values         ", values.tolist())
print("sqlite-vec     ", np.frombuffer(codes, "i1").tolist())
print("round(127 * v) ", np.clip(np.rint(values * 127), -127, 127).astype(int).tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
