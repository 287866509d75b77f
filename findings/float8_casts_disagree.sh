#!/usr/bin/env bash
# The same cast to float8: torch clips, ml_dtypes makes NaN, MLX clips NaN too; a zero as E8M0 is
# NaN or the least power of two.
#
# Version: torch 2.13.0, ml_dtypes 0.6.0, mlx 0.32.4 (CPU).
# Behaviour: float8_e4m3fn ends at 448. torch turns everything above into 448, infinity included;
# ml_dtypes (JAX, TensorFlow, ONNX in NumPy) turns 465 and above into NaN; MLX's to_fp8 makes 448 of
# NaN as well. For the scales of MX formats (E8M0, powers of two) ml_dtypes makes NaN of 0 and -1,
# torch makes 2^-127 of 0 and 1 of -1.
# Hurt: checkpoints made in one library and checked in another: overflow that one shows as NaN is a
# plausible number in the other, and the scale of a block of zeros poisons the block or does not.
#
# Seen:
#> values    [448.0, 465.0, inf, nan]
#> torch     [448.0, 448.0, 448.0, nan]
#> ml_dtypes [448.0, nan, nan, nan]
#> MLX       [448.0, 448.0, 448.0, 448.0]
#> E8M0 of   [0.0, 1.0, 3.0, -1.0]
#> torch     [5.877471754111438e-39, 1.0, 4.0, 1.0]
#> ml_dtypes [nan, 1.0, 4.0, nan]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'torch==2.13.0' 'ml_dtypes==0.6.0' 'mlx[cpu]==0.32.4' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import ml_dtypes
import mlx.core as mx
import numpy as np
import torch

values = np.array([448, 465, np.inf, np.nan], "f4")
print("values   ", values.tolist())
print("torch    ", torch.tensor(values).to(torch.float8_e4m3fn).float().tolist())
print("ml_dtypes", values.astype(ml_dtypes.float8_e4m3fn).astype("f4").tolist())
print("MLX      ", mx.from_fp8(mx.to_fp8(mx.array(values)), mx.float32).tolist())
scales = np.array([0, 1, 3, -1], "f4")
print("E8M0 of  ", scales.tolist())
print("torch    ", torch.tensor(scales).to(torch.float8_e8m0fnu).float().tolist())
print("ml_dtypes", scales.astype(ml_dtypes.float8_e8m0fnu).astype("f4").tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
