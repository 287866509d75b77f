"""A real checkpoint through the installed command: is every code the one the specification gives?

Runs ``qstore build``, ``info``, ``get`` and ``verify --against`` on one tensor of a .safetensors file.
Then reads the tensor itself (8 bytes of length, JSON, data) and compares every code and scale with the
NumPy form of the arithmetic, and rows that ``get`` printed with the values of those. Prints sizes, errors
and times; exits 1 on any difference.

    python tools/checks/checkpoint.py model.safetensors [--tensor NAME]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.engine import quantization

_STEP = 4096
_NUMPY_NAMES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


@dataclass
class Figures:
    """What the comparison of all values found."""

    differing_codes: int = 0
    differing_scales: int = 0
    squared_error: float = 0.0
    squared_norm: float = 0.0
    largest_error: float = 0.0
    largest_error_in_steps: float = 0.0


@dataclass
class Commands:
    """Runs the installed command and keeps the times."""

    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, *arguments: str | Path) -> str:
        """Standard output of ``qstore`` with these arguments; stops the program if it fails."""
        command = [str(Path(sys.executable).with_name("qstore")), *map(str, arguments)]
        begun = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.seconds[str(arguments[0])] = time.perf_counter() - begun
        if done.returncode:
            sys.exit(
                f"{' '.join(command)} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout


def main() -> int:
    """Check one tensor and print what was found."""
    parser = argparse.ArgumentParser(description="A real checkpoint through the installed command.")
    parser.add_argument("path", type=Path, help="a .safetensors file")
    parser.add_argument("--tensor", help="which one; may be left out where only one is 2-D")
    options = parser.parse_args()
    values, name = read_tensor(options.path, options.tensor)
    with tempfile.TemporaryDirectory(prefix="qstore-checkpoint-") as folder:
        return check(options.path, values, name, Path(folder, "store.h5"))


def read_tensor(path: Path, name: str | None) -> tuple[NDArray[Any], str]:
    """The tensor, mapped, and its name; by nothing but the format's definition."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    matrices = [key for key, entry in header.items() if len(entry.get("shape", ())) == 2]
    if name is None and len(matrices) == 1:
        name = matrices[0]
    if name is None or name not in matrices:
        sys.exit(f"--tensor is {name}, expected one of: {', '.join(matrices)}")
    entry = header[name]
    dtype = (
        quantization.marker_dtype("bfloat16") if entry["dtype"] == "BF16" else _NUMPY_NAMES[entry["dtype"]]
    )
    return np.memmap(path, dtype, "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"])), name


def check(path: Path, values: NDArray[Any], name: str, out: Path) -> int:
    """Build, compare, print; the exit status."""
    commands = Commands()
    commands.run("build", path, "--tensor", name, "-o", out)
    info = json.loads(commands.run("info", out, "--json"))
    commands.run("verify", out, "--against", path, "--tensor", name)
    with qstore.open(out) as store:
        figures = compare(values, store)
    wrong_rows = compare_printed_rows(values, commands, out)
    problems = [
        *(
            [f"info says {info['rows']} x {info['dim']}"]
            if (info["rows"], info["dim"]) != values.shape
            else []
        ),
        *([f"info says tensor {info['tensor']!r}"] if info["tensor"] != name else []),
        *([f"{figures.differing_codes:,} codes differ"] if figures.differing_codes else []),
        *([f"{figures.differing_scales:,} scales differ"] if figures.differing_scales else []),
        *([f"qstore get printed other values in rows {wrong_rows}"] if wrong_rows else []),
    ]
    print_figures(values, name, figures, commands, out.stat().st_size)
    print(
        "\n".join(f"DIFFERENT: {problem}" for problem in problems)
        or "every code and scale equals the oracle's"
    )
    return 1 if problems else 0


def oracle(values: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """Codes, scales and float64 values by the specification."""
    codes, scales = np.empty(values.shape, np.uint8), np.empty(len(values), np.float64)
    quantization.quantize(values, codes, scales, False)
    restored = np.empty(values.shape, np.float64)
    quantization.dequantize(codes, scales, restored)
    return codes, scales, restored


def compare(values: NDArray[Any], store: qstore.Store) -> Figures:
    """All codes and scales of a store with the oracle's, and the oracle's values with the originals."""
    figures = Figures()
    for start in range(0, len(values), _STEP):
        held = slice(start, min(start + _STEP, len(values)))
        codes, scales, restored = oracle(values[held])
        figures.differing_codes += int(np.count_nonzero(store.codes[held] != codes))
        figures.differing_scales += int(np.count_nonzero(store.scales[held] != scales))
        exact = quantization.to_float64(values[held])
        error = np.abs(restored - exact)
        figures.squared_error += float(np.square(error).sum())
        figures.squared_norm += float(np.square(exact).sum())
        figures.largest_error = max(figures.largest_error, float(error.max(initial=0)))
        in_steps = error / np.where(scales == 0, 1, scales)[:, None]
        figures.largest_error_in_steps = max(figures.largest_error_in_steps, float(in_steps.max(initial=0)))
    return figures


def compare_printed_rows(values: NDArray[Any], commands: Commands, out: Path) -> list[int]:
    """Rows that ``qstore get`` prints otherwise than the oracle's float32 values."""
    wrong = []
    for row in sorted({0, len(values) // 2, len(values) - 1}):
        printed = np.array(json.loads(commands.run("get", out, str(row), "--format", "json")), np.float64)
        expected = oracle(values[row : row + 1])[2][0].astype(np.float32)
        if not np.array_equal(printed.reshape(-1).astype(np.float32), expected):
            wrong.append(row)
    return wrong


def print_figures(values: NDArray[Any], name: str, figures: Figures, commands: Commands, size: int) -> None:
    """The report."""
    float32_size = values.size * 4
    rms = math.sqrt(figures.squared_error / values.size)
    relative = math.sqrt(figures.squared_error / figures.squared_norm)
    times = ", ".join(f"{command} {seconds:.2f} s" for command, seconds in commands.seconds.items())
    dtype = quantization.element_type(values.dtype)
    print(
        f"tensor          {name}, {len(values):,} x {values.shape[1]} {dtype}; engine {qstore.engine_name()}"
    )
    print(f"size            {size:,} bytes of {float32_size:,} as float32: {100 * size / float32_size:.2f} %")
    print(f"RMS error       {rms:.3e}")
    print(f"relative error  {100 * relative:.3f} % (norm of the difference by norm of the matrix)")
    print(
        f"largest error   {figures.largest_error:.3e}, {figures.largest_error_in_steps:.4f} of the row's step"
    )
    print(f"time            {times}")


if __name__ == "__main__":
    sys.exit(main())
