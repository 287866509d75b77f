"""Make the files in tests/data: good stores, and stores with exactly one defect.

The files are frozen: the tests read what is in the repository and never call this. Run it to add files;
it writes only those that are missing, and complains about those that would come out different (Linux,
h5py 3.16).

    python tools/make_fixtures.py [--data tests/data] [--replace]
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from defects import all_defects, fidelity_defects
from defects_of_keys import key_defects
from hdf5_edit import add_message, patched, with_header
from hdf5_seal import LINK
from numpy.typing import NDArray

import qstore


def main() -> None:
    """Write what is missing; name what would come out different."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).parent.parent / "tests" / "data")
    parser.add_argument("--replace", action="store_true", help="write different files over frozen ones")
    options = parser.parse_args()
    files = {Path("v1", name): content for name, content in good_files().items()}
    files |= {Path("malformed", name): content for name, content in malformed_files().items()}
    for name, content in files.items():
        write(options.data / name, content, options.replace)


def write(path: Path, content: bytes, replace: bool) -> None:
    """Write a file that is not there yet, or an index that only gets longer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or replace or (path.suffix == ".json" and _only_longer(path.read_bytes(), content)):
        path.write_bytes(content)
    elif path.read_bytes() != content:
        print(f"{path} is frozen and would come out different now")


def _only_longer(old: bytes, new: bytes) -> bool:
    members = json.loads(new)
    return all(members.get(name) == value for name, value in json.loads(old).items())


def built(source: NDArray[np.float32]) -> bytes:
    """The bytes of a store of `source`, with what a build measures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.h5")
        qstore.build(source, path)
        return path.read_bytes()


def plain(source: NDArray[np.float32], keys: Any = None) -> bytes:
    """The same without, but with keys."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.h5")
        with qstore.Writer(path, source.shape[1], source_dtype="float32") as writer:
            writer.append_codes(*qstore.quantize(source), keys=keys)
        return path.read_bytes()


# Good files -------------------------------------------------------------------------------------------


# Any Unicode, an empty text, NULs, two normal forms of one word, and two texts of one hash.
TEXT_KEYS = ["queen", "", "\0", "a\0b", "é", "e\u0301", "𝄞", "77kepQFQ8Kl", "!0IC=VloaY"]


def good_files() -> dict[str, bytes]:
    """Stores of every kind, and ``expected.json`` with what must be read from them."""
    files: dict[str, bytes] = {}
    expected: dict[str, Any] = {}
    for name, source in good_sources().items():
        content, codes, scales = store_of(source)
        files[f"{name}.h5"] = content
        expected[f"{name}.h5"] = described(content, codes, scales, source)
        if name == "five-rows":
            newer = newer_minor(content)
            files["newer-minor.h5"] = newer
            expected["newer-minor.h5"] = described(newer, codes, scales, {"dtype": "float32"})
    files["expected.json"] = as_json(expected)
    return files


def newer_minor(content: bytes) -> bytes:
    """A store as a later minor version could write it: another version, and one more name."""
    where = content.index(b"version\0") + len(b"version\0")
    version = content.index(struct.pack("<II", 1, 0), where)
    body = struct.pack("<BBB", 1, 0, len("fidelity")) + b"fidelity" + struct.pack("<Q", 16384)
    return with_header(patched(content, version, struct.pack("<II", 1, 9)), 4096, add_message(LINK, body))


def good_sources() -> dict[str, dict[str, Any]]:
    """What each good file is made from, in JSON's types so that a test can make it again."""
    values = wave(300, 16)
    bfloat16 = [[0x3F80, 0xBF00, 0x4049], [0, 0x8000, 1]]
    measured: dict[str, dict[str, Any]] = {
        "measured-two-rows": {"dtype": "float32", "values": [[1, -0.5, 0.25], [2, 3, -4]]},
        "measured-300-rows": {"dtype": "float32", "values": values, "tensor": "w"},
        "measured-bfloat16": {"dtype": "bfloat16", "values": bfloat16},
        "measured-float64": {"dtype": "float64", "values": [[1e300, -1e-300], [5e-324, 0.0], [0.0, 0.0]]},
    }
    return {
        **{name: {**source, "measured": True} for name, source in measured.items()},
        "one-value": {"dtype": "float32", "values": [[-2.5]]},
        "two-rows": {"dtype": "float32", "values": [[1, -0.5, 0.25], [2, 3, -4]]},
        "five-rows": {"dtype": "float32", "values": wave(5, 3)},
        "300-rows": {"dtype": "float32", "values": values},
        "no-rows": {"dtype": "float32", "values": [], "dim": 16},
        "no-rows-of-3": {"dtype": "float32", "values": [], "dim": 3},
        "name-not-ascii": {"dtype": "float32", "values": wave(4, 2), "tensor": "词向量/β"},
        "codes-from-0": {
            "codes": [[0, 128, 255], [1, 127, 0], [128, 128, 128]],
            "scales": [0.5, 2.0**-1040, 0.0],
        },
        "bfloat16": {"dtype": "bfloat16", "values": bfloat16},
        "float64": {"dtype": "float64", "values": [[1e300, -1e-300], [5e-324, 0.0], [1e-310, -1e-311]]},
        "int64": {
            "dtype": "int64",
            "values": [[20000, 3000, 1000, 1000], [1999999, 20000, 1999999, 1999999]],
        },
        "text-keys": {"dtype": "float32", "values": wave(9, 3), "keys": TEXT_KEYS},
        "300-text-keys": {
            "dtype": "float32",
            "values": wave(300, 4),
            "keys": [f"word {row * 7919 % 300}" for row in range(300)],
        },
        "integer-keys": {
            "dtype": "float32",
            "values": wave(6, 3),
            "keys": [0, -1, 1 << 62, -(1 << 63), (1 << 63) - 1, 17403],
        },
        "one-empty-key": {"dtype": "float32", "values": [[1, 2]], "keys": [""]},
        "no-rows-text-keys": {"dtype": "float32", "values": [], "dim": 3, "keys": []},
    }


def wave(rows: int, dim: int) -> list[list[float]]:
    """Values exact in float32 that need no random generator."""
    numbers = np.arange(rows * dim)
    return (((numbers * 7919) % 4099 - 2049) / 512.0).reshape(rows, dim).tolist()


def matrix_of(source: Mapping[str, Any]) -> NDArray[Any]:
    """The matrix of an entry of :func:`good_sources`."""
    if source["dtype"] == "bfloat16":
        return np.array(source["values"], np.uint16).view(np.dtype([("bfloat16", "<u2")]))
    values = np.array(source["values"], source["dtype"])
    return values if values.ndim == 2 else values.reshape(0, source["dim"])


def store_of(source: Mapping[str, Any]) -> tuple[bytes, NDArray[np.uint8], NDArray[np.float64]]:
    """Bytes of the store, and the codes and scales that belong in it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store.h5")
        if "codes" in source:
            codes, scales = np.array(source["codes"], np.uint8), np.array(source["scales"], np.float64)
            with qstore.Writer(path, codes.shape[1]) as writer:
                writer.append_codes(codes, scales)
            return path.read_bytes(), codes, scales
        matrix, tensor = matrix_of(source), source.get("tensor", "")
        codes, scales = quantized(source)
        with qstore.Writer(path, matrix.shape[1], tensor=tensor, source_dtype=source["dtype"]) as writer:
            if source.get("measured"):
                writer.append(matrix)
            else:  # format 1.0 had no errors beside the matrix
                writer.append_codes(codes, scales, keys=source.get("keys"))
        return path.read_bytes(), codes, scales


def quantized(source: Mapping[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Codes and scales by the formula, written down once more."""
    values = exact_values(source)
    scales = np.abs(values).max(axis=1, initial=0) / 127
    codes = np.full(values.shape, 128, np.uint8)
    held = scales > 0
    codes[held] = np.clip(np.floor(values[held] / scales[held, None] + 128 + 0.5), 1, 255)
    return codes, scales


def exact_values(source: Mapping[str, Any]) -> NDArray[np.float64]:
    """The matrix in float64."""
    if source["dtype"] == "bfloat16":
        bits = np.array(source["values"], np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return matrix_of(source).astype(np.float64)


def described(
    content: bytes, codes: NDArray[np.uint8], scales: NDArray[np.float64], source: Mapping[str, Any]
) -> dict[str, Any]:
    """What ``expected.json`` keeps of a good file. Values are in hexadecimal: no digit is lost."""
    with np.errstate(over="ignore", under="ignore"):
        values = (codes.astype(np.float64) - 128) * scales[:, None]
        float32 = values.astype("<f4")
    with tempfile.NamedTemporaryFile(suffix=".h5") as file:
        Path(file.name).write_bytes(content)
        with qstore.open(file.name) as store:
            identity = store.content_id
            fidelity = store.fidelity
    measured = {} if fidelity is None else {"fidelity": fidelity_in_words(fidelity)}
    return {
        **measured,
        "shape": list(codes.shape),
        "tensor": source.get("tensor", ""),
        "source_dtype": source.get("dtype", "quantized"),
        "content_id": identity,
        "sha256": hashlib.sha256(content).hexdigest(),
        "codes_sha256": hashlib.sha256(codes.tobytes()).hexdigest(),
        "scales": [scale.hex() for scale in scales[:5].tolist()],
        "first_row": [value.hex() for value in values[0].tolist()] if len(values) else [],
        "last_row": [value.hex() for value in values[-1].tolist()] if len(values) else [],
        "float32_sha256": hashlib.sha256(float32.tobytes()).hexdigest(),
        "source": dict(source),
    }


def fidelity_in_words(fidelity: qstore.Fidelity) -> dict[str, Any]:
    """A few of the figures."""
    return {
        "rows": fidelity.rows,
        "max_error": fidelity.max_error.hex(),
        "rms_error": fidelity.rms_error.hex(),
        "worst_rows": [[row, error.hex()] for row, error in fidelity.worst_rows],
    }


def as_json(content: Any) -> bytes:
    """JSON with one line a member of the outermost object."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


# Malformed files --------------------------------------------------------------------------------------


def malformed_files() -> dict[str, bytes]:
    """All one-defect files, and ``expected.json`` with class and words of the error of each."""
    values = np.array([[1, -0.5, 0.25], [2, 3, -4]], np.float32)
    defects = all_defects(plain(values), plain(values[:0])) | fidelity_defects(built(values))
    defects |= key_defects(plain(values, ["a", "é"]), plain(values, [7, -7]))
    # Mostly zeros: in this form all of them together are smaller than five of them as they are.
    files = {f"{name}.h5.gz": gzip.compress(defect.content, mtime=0) for name, defect in defects.items()}
    expected = {name: [defect.error, defect.message] for name, defect in defects.items()}
    return {**files, "expected.json": as_json(expected)}


if __name__ == "__main__":
    main()
