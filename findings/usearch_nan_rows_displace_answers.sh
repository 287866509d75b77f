#!/usr/bin/env bash
# usearch: five rows with a NaN among a thousand, and an exact search no longer finds the row that
# was asked for.
#
# Version: usearch 2.26.6.
# Behaviour: rows with a NaN are taken without a word. Their distance is NaN, and every comparison
# with NaN is false. One such row is the first answer to every exact search. Five of them, when five
# answers are asked for, push out the true nearest row and are not among the answers themselves: all
# distances are plausible numbers. Searches through the graph suffer too. With dtype "i8" the NaN
# becomes a number and does no harm.
# Hurt: an index over a table with a few bad rows: nothing in the answers shows that the best ones
# are missing.
#
# Seen:
#> 0 bad rows, f32, exact
#>     finds itself first: all, among five: all; answers with NaN: none
#> 1 bad rows, f32, exact
#>     finds itself first: none, among five: all; answers with NaN: all
#> 5 bad rows, f32, exact
#>     finds itself first: none, among five: none; answers with NaN: none
#> 5 bad rows, f32, graph
#>     finds itself first: less than 95 %, among five: less than 95 %; answers with NaN: less than 95 %
#> 5 bad rows, i8, graph
#>     finds itself first: all, among five: all; answers with NaN: none
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
asked = np.arange(100)


def words(share):
    if share in (0, 1):
        return "all" if share else "none"
    return "more than 95 %" if share > 0.95 else "less than 95 %"


for bad, dtype, exact in ((0, "f32", 1), (1, "f32", 1), (5, "f32", 1), (5, "f32", 0), (5, "i8", 0)):
    table = rows.copy()
    table[500 : 500 + bad, 3] = np.nan
    index = Index(ndim=16, metric="cos", dtype=dtype)
    index.add(np.arange(1000), table, threads=1)
    found = index.search(rows[asked], 5, threads=1, exact=bool(exact))
    itself = words((found.keys == asked[:, None]).any(axis=1).mean())
    first = words((found.keys[:, 0] == asked).mean())
    nans = words(np.isnan(found.distances).any(axis=1).mean())
    print(f"{bad} bad rows, {dtype}, {'exact' if exact else 'graph'}")
    print(f"    finds itself first: {first}, among five: {itself}; answers with NaN: {nans}")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
