#!/usr/bin/env bash
# GGUF's Q8_0 of a table with small values: lengths off by a tenth and more, in the end all zeros.
#
# Version: gguf 0.19.0.
# Behaviour: a block of 32 values has a float16 scale of max / 127. Below max = 0.0078 that scale is
# a subnormal float16, and its own rounding outweighs that of the codes, which were made with the
# exact one: whole blocks get longer or shorter. Nothing is reported, down to blocks that become
# zeros.
# Hurt: embeddings that are divided by the square root of a large number, or stored before a learned
# factor: the type of the file is one that is called nearly lossless.
#
# Seen:
#> largest value       1: largest error   0.4% of it, length 100.0%
#> largest value   0.001: largest error   0.5% of it, length  99.9%
#> largest value  0.0001: largest error   2.0% of it, length  98.4%
#> largest value   2e-05: largest error  13.9% of it, length 113.5%
#> largest value   1e-05: largest error  24.5% of it, length  75.7%
#> largest value   3e-06: largest error 100.0% of it, length   0.0%
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'gguf==0.19.0' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import gguf
import numpy as np

kind = gguf.GGMLQuantizationType.Q8_0
rows = np.random.default_rng(0).uniform(-1, 1, (1000, 32)).astype("f4")
rows[:, 0] = 1
for factor in (1, 1e-3, 1e-4, 2e-5, 1e-5, 3e-6):
    table = rows * np.float32(factor)
    read = gguf.dequantize(gguf.quantize(table, kind), kind)
    error = np.abs(read - table).max() / factor
    length = np.linalg.norm(read) / np.linalg.norm(table)
    print(f"largest value {factor:7}: largest error {error:6.1%} of it, length {length:6.1%}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
