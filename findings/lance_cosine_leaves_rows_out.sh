#!/usr/bin/env bash
# Lance: searched by cosine, rows of zeros and rows with NaN never come back, however large k is.
#
# Version: pylance 14.0.2.
# Behaviour: a search for k = all rows returns fewer, with no index involved, and no word about it.
# Under "l2" the row of zeros is there and rows whose distance is infinite are as well. A row of
# 1e30, which is finite, has cosine distance 1 to a vector of its own direction: its squared length
# overflows float32.
# Hurt: evaluations that count answers, joins on the result, padding rows and unused words (rows of
# zeros are usual in published tables).
#
# Seen:
#> cosine {0: 0.0, 2: 1.0, 4: 1.0}
#> l2 {0: 0.0, 3: 1.0, 2: 2.0, 4: inf}
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'pylance==14.0.2' 'pyarrow==26.0.1' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import lance
import numpy as np
import pyarrow as pa

rows = np.array([[1, 0], [np.nan, 1], [0, 1], [0, 0], [1e30, 0]], "f4")
vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 2)
dataset = lance.write_dataset(pa.table({"row": np.arange(5), "vector": vectors}), "rows.lance")
for metric in ("cosine", "l2"):
    search = {"column": "vector", "q": np.array([1, 0], "f4"), "k": 5, "metric": metric}
    found = dataset.to_table(nearest=search)
    print(metric, dict(zip(found["row"].to_pylist(), found["_distance"].to_pylist(), strict=True)))
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
