#!/usr/bin/env bash
# float64 to 16 bits: some libraries round twice, others once.
#
# Version: ml_dtypes 0.6.0, polars 2.1.0, onnxruntime 1.32.0, onnx 1.23.2, pyarrow 26.0.1, NumPy
# 2.4.6.
# Behaviour: NumPy and pyarrow round a float64 to float16 once. polars and the Cast of onnxruntime
# round to float32 first: values a little above the middle of two float16 values then go down.
# ONNX's own reference implementation rounds once, so the model and its reference differ. bfloat16
# of ml_dtypes goes by way of float32 too.
# Hurt: tests that compare tables bit for bit, and hashes over converted tables: a few values of a
# large one differ.
#
# Seen:
#> float16  NumPy          1 + 0.0009766
#> float16  pyarrow        1 + 0.0009766
#> float16  ONNX reference 1 + 0.0009766
#> float16  onnxruntime    1 + 0.0000000
#> float16  polars         1 + 0.0000000
#> bfloat16 ml_dtypes      1 + 0.0000000, nearest is 1 + 0.0078125
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q \
    'ml_dtypes==0.6.0' 'polars==2.1.0' 'onnxruntime==1.32.0' 'onnx==1.23.2' 'pyarrow==26.0.1' \
    'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import polars
import pyarrow
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

value = np.array([1 + 2**-11 + 2**-40])  # a little above the middle of 1 and 1 + 2**-10
node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
inputs = [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1])]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1])]
graph = helper.make_graph([node], "cast", inputs, outputs)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
results = {
    "NumPy": value.astype("float16"),
    "pyarrow": pyarrow.array(value).cast(pyarrow.float16()).to_numpy(),
    "ONNX reference": ReferenceEvaluator(model).run(None, {"x": value})[0],
    "onnxruntime": session.run(None, {"x": value})[0],
    "polars": polars.Series(value).cast(polars.Float16).to_numpy(),
}
for name, result in results.items():
    print(f"float16  {name:14} 1 + {float(result[0]) - 1:.7f}")
value = np.array([1 + 2**-8 + 2**-40])  # a little above the middle of 1 and 1 + 2**-7
result = float(value.astype(ml_dtypes.bfloat16)[0])
print(f"bfloat16 ml_dtypes      1 + {result - 1:.7f}, nearest is 1 + {2**-7:.7f}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
