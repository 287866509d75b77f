#!/usr/bin/env bash
# zarr: each read from a shard fetches the whole index of the shard again, however small the row.
#
# Version: zarr 3.1.6.
# Behaviour: a shard's index has 16 bytes for each inner chunk. It is fetched for every
# `array[row]`, also by the same array object, and is kept nowhere. With a chunk of one row, which
# is what random access asks for, a row of 16 bytes costs 65,556 bytes here; a shard of a million
# rows would cost 16 MB a row. The way out is one `oindex` for many rows, or larger inner chunks.
# Hurt: row look-ups over object storage, where the shards were meant to make rows cheap.
#
# Seen:
#> array[5]              2 reads,  65556 bytes
#> array[5] again        2 reads,  65556 bytes
#> ten rows, one by one 20 reads, 655560 bytes
#> ten rows by oindex   11 reads,  65700 bytes
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'zarr==3.1.6' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import numpy as np
import zarr
from zarr.storage import MemoryStore, WrapperStore

read = []


class Counting(WrapperStore):
    async def get(self, key, prototype, byte_range=None):
        found = await self._store.get(key, prototype, byte_range)
        read.append(len(found) if found is not None else 0)
        return found


array = zarr.create_array(
    Counting(MemoryStore()), shape=(4096, 16), chunks=(1, 16), shards=(4096, 16), dtype="u1", compressors=None
)
array[:] = 1
for title, action in {
    "array[5]": lambda: array[5],
    "array[5] again": lambda: array[5],
    "ten rows, one by one": lambda: [array[row] for row in range(10)],
    "ten rows by oindex": lambda: array.oindex[list(range(10))],
}.items():
    read.clear()
    action()
    print(f"{title:20} {len(read):2} reads, {sum(read):6} bytes")
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
