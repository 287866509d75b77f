#!/usr/bin/env bash
# Apache Arrow in JavaScript: `get` of a float16 column decodes, `toArray` gives the bits as
# integers.
#
# Version: apache-arrow 21.2.0 (npm), pyarrow 26.0.1.
# Behaviour: `column.get(0)` is 1.5, `column.toArray()` is a Uint16Array with 15872 in the same
# place; so with the vector of each row of a fixed-size list. And `toArray` of a list with a missing
# number has 0 in its place.
# Hurt: web pages that search over float16 embeddings: scores made of toArray, the fast way, are
# finite and meaningless.
#
# Seen:
#> half.get(0)           1.5
#> half.toArray()        Uint16Array 15872 49152 16896
#> rows.get(0).get(0)    1.5
#> rows.get(0).toArray() Uint16Array 15872 49152 16896
#> gaps.get(0).get(1)    null
#> gaps.get(0).toArray() Float32Array 1.5 0 3
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'pyarrow==26.0.1' 'numpy==2.4.6' || exit 2
npm install --silent --no-audit --no-fund --prefix . apache-arrow@21.2.0 > /dev/null || exit 2
venv/bin/python - << 'PROGRAM'
import numpy as np
import pyarrow as pa

values = np.array([1.5, -2, 3], "f2")
rows = pa.array([values.tolist(), values.tolist(), values.tolist()], pa.list_(pa.float16(), 3))
gaps = pa.array([[1.5, None, 3.0]] * 3, pa.list_(pa.float32(), 3))
table = pa.table({"half": pa.array(values), "rows": rows, "gaps": gaps})
with pa.OSFile("table.arrow", "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
    writer.write_table(table)
PROGRAM
cat > read.mjs << 'PROGRAM'
import fs from "node:fs";
import { tableFromIPC } from "apache-arrow";

const table = tableFromIPC(fs.readFileSync("table.arrow"));
const shown = (array) => `${array.constructor.name} ${Array.from(array).join(" ")}`;
console.log("half.get(0)          ", table.getChild("half").get(0));
console.log("half.toArray()       ", shown(table.getChild("half").toArray()));
console.log("rows.get(0).get(0)   ", table.getChild("rows").get(0).get(0));
console.log("rows.get(0).toArray()", shown(table.getChild("rows").get(0).toArray()));
console.log("gaps.get(0).get(1)   ", table.getChild("gaps").get(0).get(1));
console.log("gaps.get(0).toArray()", shown(table.getChild("gaps").get(0).toArray()));
PROGRAM
seen=$(node read.mjs) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
