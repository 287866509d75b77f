#!/usr/bin/env bash
# usearch: one vector with a NaN among a thousand, and many others no longer find themselves.
#
# Version: usearch 2.26.6.
# Behaviour: the row is taken without a word. Its distance to everything is NaN, which compares as
# nearest and as farthest at once: searches end at it, it is the first answer to many queries, and
# rows behind it in the graph are not reached. Removing the row from the answers does not bring the
# others back. With dtype "i8" a NaN becomes a number and does no harm.
# Hurt: an index over a table with one bad row: recall falls for all queries, and the few that were
# tried may be fine.
#
# Seen:
#> all finite         f32 rows that find themselves first: all
#>                        row 500 is the first answer to others: no
#> one NaN in row 500 f32 rows that find themselves first: not even 95 %
#>                        row 500 is the first answer to others: yes
#> one NaN in row 500 i8  rows that find themselves first: all
#>                        row 500 is the first answer to others: no
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

rows = np.random.default_rng(0).standard_normal((1000, 16)).astype("f4")


def told(title, rows, dtype):
    index = Index(ndim=16, metric="cos", dtype=dtype)
    index.add(np.arange(1000), rows, threads=1)
    found = index.search(rows[:100], 5, threads=1)
    itself = (found.keys[:, 0] == np.arange(100)).mean()
    words = "all" if itself == 1 else "nearly all" if itself > 0.95 else "not even 95 %"
    print(f"{title:18} {dtype:3} rows that find themselves first: {words}")
    print(f"{'':22} row 500 is the first answer to others: {'yes' if 500 in found.keys[:, 0] else 'no'}")


told("all finite", rows, "f32")
rows[500, 3] = np.nan
told("one NaN in row 500", rows, "f32")
told("one NaN in row 500", rows, "i8")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
