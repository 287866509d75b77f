#!/usr/bin/env bash
# MLX's affine quantization has negative scales, and a bias that may be the maximum or the minimum.
#
# Version: mlx 0.32.4 on its CPU backend.
# Behaviour: the documentation gives scale = (max - min) / (2^bits - 1) and bias = min. What
# `mx.quantize` stores starts at the end of a group that lies farther from zero: where that is the
# maximum, the scale is negative, code 0 stands for the maximum and the largest code for the
# minimum. A group of equal values has scale -1e-7.
# Hurt: converters that keep scales in an unsigned type, take their logarithm, compare codes for
# order, or read the bias as the minimum.
#
# Seen:
#> 0 to 1     scale -0.0666667 bias +1.0, code of the first 15, of the last 0
#> -1 to 0.5  scale +0.1000000 bias -1.0, code of the first 0, of the last 15
#> -0.5 to 1  scale -0.1000000 bias +1.0, code of the first 15, of the last 0
#> all 3      scale -0.0000001 bias +3.0, code of the first 0, of the last 0
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'mlx[cpu]==0.32.4' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import mlx.core as mx
import numpy as np

groups = {
    "0 to 1": np.linspace(0, 1, 64),
    "-1 to 0.5": np.linspace(-1, 0.5, 64),
    "-0.5 to 1": np.linspace(-0.5, 1, 64),
    "all 3": np.full(64, 3.0),
}
for name, values in groups.items():
    codes, scales, biases = mx.quantize(mx.array(values[None].astype("f4")), group_size=64, bits=4)
    first, last = (int(np.array(codes).view("u1")[0, place]) for place in (0, -1))
    scale, bias = float(scales[0, 0]), float(biases[0, 0])
    print(f"{name:10} scale {scale:+.7f} bias {bias:+.1f}, code of the first {first & 15}, of the last {last >> 4}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
