#!/usr/bin/env bash
# onnxruntime's `quantize_dynamic(per_channel=True)` gives an embedding table one scale all the
# same.
#
# Version: onnxruntime 1.32.0, onnx 1.23.2.
# Behaviour: weights of MatMul get a scale a channel, the table of a Gather gets one, with its zero
# point, for all rows. A single row of long vectors sets it. Nothing says that the option was not
# followed.
# Hurt: quantized text models: with one row 100 times longer than the rest, all others are left with
# two or three distinct values.
#
# Seen:
#> table_scale []
#> table_zero_point []
#> table_quantized [100, 64]
#> row 5: distinct values 3 of 64
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import logging

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)
table = np.random.default_rng(0).uniform(-1, 1, (100, 64)).astype("f4")
table[0] *= 100
graph = helper.make_graph(
    [helper.make_node("Gather", ["table", "row"], ["y"])], "gather",
    [helper.make_tensor_value_info("row", TensorProto.INT64, ["n"])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])], [numpy_helper.from_array(table, "table")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.save(model, "model.onnx")
quantize_dynamic("model.onnx", "quantized.onnx", per_channel=True)
for tensor in onnx.load("quantized.onnx").graph.initializer:
    print(tensor.name, list(tensor.dims))
session = onnxruntime.InferenceSession("quantized.onnx", providers=["CPUExecutionProvider"])
row = session.run(None, {"row": np.array([5])})[0][0]
print("row 5: distinct values", len(set(row.tolist())), "of", len(set(table[5].tolist())))
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
