#!/usr/bin/env bash
# usearch with `dtype="i8"` forgets the length of vectors: inner products and distances rank by
# direction alone.
#
# Version: usearch 2.26.6.
# Behaviour: vectors of floats are each scaled to length 127 before they become int8, for every
# metric. So `metric="ip"` finds what cosine finds, `metric="l2sq"` as well, and nothing says so.
# The scale is not kept: `get` gives the codes. Integers that are given as int8 are taken as they
# are, by the same index.
# Hurt: recommendation by inner products, where the length of an item's vector is its popularity:
# "i8" looks like four times less memory, and changes what is found.
#
# Seen:
#> ip   f32 best first [1, 0], row 1 is kept as [30.0, 40.0]
#> ip   i8  best first [0, 1], row 1 is kept as [76, 101]
#> l2sq f32 best first [1, 0], row 1 is kept as [30.0, 40.0]
#> l2sq i8  best first [0, 1], row 1 is kept as [76, 101]
#> int8 [30, 40] is kept as [30, 40]
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'usearch==2.26.6' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import numpy as np
from usearch.index import Index

rows = np.array([[1, 0], [30, 40]], "f4")
query = np.array([1, 0], "f4")
for metric in ("ip", "l2sq"):
    for dtype in ("f32", "i8"):
        index = Index(ndim=2, metric=metric, dtype=dtype)
        index.add(np.arange(2), rows, threads=1)
        found = index.search(query if metric == "ip" else query * 50, 2, exact=True)
        print(f"{metric:4} {dtype:3} best first {found.keys.tolist()}, row 1 is kept as {index.get(1).tolist()}")
index = Index(ndim=2, metric="ip", dtype="i8")
index.add(0, rows[1].astype("int8"))
print("int8 [30, 40] is kept as", index.get(0).tolist())
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
