#!/usr/bin/env bash
# fsspec over HTTP: a server that ignores ranges makes every chunk of a reference set the first one.
#
# Version: fsspec 2026.9.0, zarr 3.1.6, the http.server of Python.
# Behaviour: HTTP allows a server to answer a range with status 200 and the whole file; Python's own
# http.server does. `cat_file(start, end)` and `cat_ranges` return the whole file then, without a
# check of status or length (`open` does raise). Through references, as kerchunk makes them, a zlib
# or Blosc chunk decodes up to the end of its first stream: every chunk of the array reads as the
# first chunk of the file, without an error. Uncompressed, gzip and Zstandard chunks fail.
# Hurt: virtual datasets tried with a simple server, or served through a gateway: shape right, rows
# repeated.
#
# Seen:
#> zlib  [0, 1, 2, 3, 0, 1, 2, 3]
#> blosc [0, 1, 2, 3, 0, 1, 2, 3]
#> zstd  ValueError: cannot reshape array of size 8 into shape (4,)
#> cat_file of 10 bytes gives 100
set -euo pipefail
expected=$(sed -n 's/^#> \{0,1\}//p' "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install -q \
    'fsspec==2026.9.0' 'aiohttp==3.14.5' 'zarr==3.1.6' 'numcodecs==0.16.6' 'numpy==2.4.6' || exit 2
seen=$(venv/bin/python -W ignore - << 'PROGRAM'
import functools
import http.server
import json
import threading

import fsspec
import numcodecs
import numpy as np
import zarr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


handler = functools.partial(Quiet, directory=".")
server = http.server.ThreadingHTTPServer(("localhost", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://localhost:{server.server_port}/"


def read(codec):
    chunks = [bytes(codec.encode(np.arange(first, first + 4, dtype="u1"))) for first in (0, 100)]
    with open("chunks", "wb") as file:
        file.write(b"".join(chunks))
    head = {"zarr_format": 2, "shape": [8], "chunks": [4], "dtype": "|u1", "compressor": codec.get_config()}
    references = {
        ".zgroup": '{"zarr_format": 2}',
        "x/.zarray": json.dumps({**head, "filters": None, "fill_value": 0, "order": "C"}),
        "x/0": [address + "chunks", 0, len(chunks[0])],
        "x/1": [address + "chunks", len(chunks[0]), len(chunks[1])],
    }
    remote = {"remote_protocol": "http", "remote_options": {"asynchronous": True}}
    files = fsspec.filesystem("reference", fo=references, asynchronous=True, **remote)
    store = zarr.storage.FsspecStore(files, read_only=True)
    try:
        return zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False)["x"][:].tolist()
    except ValueError as error:
        return f"ValueError: {error}"


for name in ("zlib", "blosc", "zstd"):
    print(f"{name:5}", read(numcodecs.get_codec({"id": name})))
with open("plain", "wb") as file:
    file.write(bytes(100))
files = fsspec.filesystem("http")
print("cat_file of 10 bytes gives", len(files.cat_file(address + "plain", start=10, end=20)))
PROGRAM
) || true
echo "$seen"
if [ "$seen" != "$expected" ]; then
    printf "CHANGED, expected was:\n%s\n" "$expected" >&2
    exit 1
fi
