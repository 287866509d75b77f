#!/usr/bin/env bash
# NumPy's mean of a bfloat16 table is wrong by any factor: sums stop growing at 256.
#
# Version: ml_dtypes 0.6.0, NumPy 2.4.6.
# Behaviour: NumPy's `mean` adds float16 values in float32. For bfloat16 of ml_dtypes, and its 8-bit
# floats, it adds in the type itself. A sum of ones stays at 256, where the next one is lost, so the
# mean over n rows tends to 256/n, and with float8 to 16/n. No warning. Of float16 the sum, in
# contrast to the mean, stops as well, at 2048.
# Hurt: those who center a table (`table - table.mean(axis=0)`) that safetensors or JAX gave them as
# bfloat16.
#
# Seen:
#> float32       mean 1.0000   sum 10000
#> float16       mean 1.0000   sum 2048
#> bfloat16      mean 0.0256   sum 256
#> float8_e4m3fn mean 0.0020   sum 16
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'ml_dtypes==0.6.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import ml_dtypes
import numpy as np

for name in ("float32", "float16", "bfloat16", "float8_e4m3fn"):
    table = np.ones((10_000, 2), getattr(ml_dtypes, name, name))
    print(f"{name:13} mean {float(table.mean(axis=0)[0]):.4f}   sum {float(table.sum(axis=0)[0]):.0f}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
