"""What a tensor of a checkpoint behind a URL costs: bytes, and time beside a plain download of it alone.

The checkpoint is a sparse file but for the tensor, which is in the middle. A process of its own serves ranges
of it over HTTP on loopback. In turn, in rounds: `qstore.build` of the URL and of the file, the bytes of the
tensor by one plain request, written to a file and synced as the store is, and not written at all, and the
ranges that qstore asks for by aiohttp alone; medians and the median of the rounds' ratios are printed.

    python tools/bench/remote_sources.py
    python tools/bench/remote_sources.py --latency 20 --tensor 50M --checkpoint 2G
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

import qstore

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.ngram_tables import byte_count

from bench.remote_reads import Remote, contest, plain

_DIM = 1024


def write(path: Path, tensor: int, size: int) -> tuple[int, int]:
    """A checkpoint of about `size` bytes with a bfloat16 tensor of `tensor`; its place and bytes."""
    rows = tensor // (2 * _DIM)
    before = (size - tensor) // 2
    header, place = {}, 0
    for name, bytes_of_it, shape in (
        ("a", before, [before]),
        ("table", 2 * _DIM * rows, [rows, _DIM]),
        ("z", before, [before]),
    ):
        dtype = "BF16" if name == "table" else "U8"
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + bytes_of_it]}
        place += bytes_of_it
    text = json.dumps(header).encode()
    begin = 8 + len(text) + before
    random = np.random.default_rng(0).standard_normal((rows, _DIM), np.float32)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(begin)
        file.write((random.view(np.uint32) >> 16).astype("<u2").tobytes())
        file.truncate(8 + len(text) + place)
    return begin, 2 * _DIM * rows


def build(url: str, out: Path) -> None:
    """The store of the tensor."""
    qstore.build(url, out, tensor="table", overwrite=True)


def download(url: str, begin: int, size: int, out: Path | None) -> None:
    """The bytes of the tensor, as they are."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-{begin + size - 1}"})
    with urllib.request.urlopen(request) as response:
        if out is None:
            while response.read(1 << 20):
                pass
            return
        with open(out, "wb") as file:
            while piece := response.read(1 << 20):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Bytes of one build, and the contest."""
    path, out = folder / "model.safetensors", folder / "out.h5"
    begin, size = write(path, options.tensor, options.checkpoint)
    remote = Remote(path, options.latency / 1000)
    try:
        build(remote.url, out)
        ranges, body, headers = remote.counts()
        found: dict[str, Any] = {
            "tensor bytes": size,
            "checkpoint bytes": path.stat().st_size,
            "requests": len(ranges),
            "body bytes": body,
            "header bytes": headers,
            "allowed": int(1.02 * size) + (1 << 20),
            "of the tensor": body / size,
        }
        build(str(path), folder / "local.h5")
        if out.read_bytes() != (folder / "local.h5").read_bytes():
            raise SystemExit("the store is another one than that of the file")
        whole = functools.partial(download, remote.url, begin, size)
        found |= contest(
            {
                "qstore.build": lambda: build(remote.url, out),
                "qstore.build of the file": lambda: build(str(path), out),
                "download, written and synced": lambda: whole(folder / "table.bin"),
                "download, dropped": lambda: whole(None),
                "the same ranges, plain aiohttp, dropped": lambda: plain(remote.url, ranges),
            },
            options.rounds,
        )
    finally:
        remote.stop()
    return found


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tensor", type=byte_count, default=byte_count("50M"), help="bytes (default 50M)")
    parser.add_argument("--checkpoint", type=byte_count, default=byte_count("2G"), help="bytes (default 2G)")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds before each answer")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(measure(Path(name), options), indent=2))


if __name__ == "__main__":
    main()
