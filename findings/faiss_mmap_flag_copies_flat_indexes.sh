#!/usr/bin/env bash
# faiss: `read_index(path, IO_FLAG_MMAP)` reads a flat index into private memory, whole.
#
# Version: faiss-cpu 1.15.1.
# Behaviour: the flag concerns the inverted lists of IVF indexes. For IndexFlatIP and IndexFlatL2,
# where all bytes are vectors, it is taken and does nothing. `IO_FLAG_MMAP_IFC`, another flag, maps
# them.
# Hurt: several processes that are meant to share one page cache, containers with a memory limit:
# each has a copy, and nothing tells but the memory.
#
# Seen:
#> IO_FLAG_MMAP     of 98 MiB of vectors private: all
#> IO_FLAG_MMAP_IFC of 98 MiB of vectors private: hardly any
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q 'faiss-cpu==1.15.1' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import faiss
import numpy as np


def private():
    """Private memory of this process in MiB, as Linux counts it."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Anonymous")) / 1024


index = faiss.IndexFlatIP(256)
index.add(np.ones((100_000, 256), "f4"))
faiss.write_index(index, "flat.index")
del index
for name in ("IO_FLAG_MMAP", "IO_FLAG_MMAP_IFC"):
    before = private()
    index = faiss.read_index("flat.index", getattr(faiss, name))
    print(f"{name:16} of 98 MiB of vectors private: {'all' if private() - before > 90 else 'hardly any'}")
    del index
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
