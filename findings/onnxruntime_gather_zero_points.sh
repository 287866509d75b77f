#!/usr/bin/env bash
# onnxruntime's GatherBlockQuantized: without zero points, 4-bit codes begin at 0 in one type and at
# -8 in another.
#
# Version: onnxruntime 1.32.0, onnx 1.23.2.
# Behaviour: the input `zero_points` may be left out. For tables of type uint4 the zero is then 0,
# for uint8 tables with the attribute bits=4, which hold the same codes two in a byte, it is 8, and
# for bits=8 it is 128.
# Hurt: converters that repack a uint4 table into uint8 and leave everything else as it is: every
# value moves by 8 steps.
#
# Seen:
#> uint4         codes 0 to 3 are [0.0, 1.0, 2.0, 3.0]
#> uint8, bits=4 codes 0 to 3 are [-8.0, -7.0, -6.0, -5.0]
#> uint8, bits=8 codes 0 to 3 are [-128.0, -127.0, -126.0, -125.0]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'onnxruntime==1.32.0' 'onnx==1.23.2' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

codes = np.arange(16, dtype="u1")[None]  # one row, the scale is 1
tables = {
    "uint4": (helper.make_tensor("table", TensorProto.UINT4, [1, 16], codes.ravel().tolist()), {}),
    "uint8, bits=4": (numpy_helper.from_array(codes[:, ::2] | codes[:, 1::2] << 4, "table"), {"bits": 4}),
    "uint8, bits=8": (numpy_helper.from_array(codes, "table"), {"bits": 8}),
}
for name, (table, attributes) in tables.items():
    scales = numpy_helper.from_array(np.ones((1, 1), "f4"), "scales")
    node = helper.make_node(
        "GatherBlockQuantized", ["table", "row", "scales"], ["y"], domain="com.microsoft",
        block_size=16, quantize_axis=1, gather_axis=0, **attributes,
    )
    graph = helper.make_graph(
        [node], "gather", [helper.make_tensor_value_info("row", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [table, scales],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    print(f"{name:13} codes 0 to 3 are", session.run(None, {"row": np.array([0])})[0][0, :4].tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
