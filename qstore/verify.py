"""Does a store still hold what was written? Every block against its checksum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import layout
from .checksums import crc32
from .key_checking import key_problems
from .progress import Progress, rows_progress

__all__ = ["VerifyReport", "verify_blocks"]


@dataclass(frozen=True)
class VerifyReport:
    """Result of checking a store against its own checksums.

    Attributes
    ----------
    ok : bool
    rows, blocks, block_rows : int
        What was checked; block b holds rows b·block_rows to (b+1)·block_rows − 1.
    broken_blocks : tuple of int
        Blocks whose codes or scales differ from their checksum.
    content_id_ok : bool
        The content id belongs to these checksums.
    keys_ok : bool or None
        The keys are whole and the index finds each; None where rows have none.
    problems : tuple of str
        The same in words.
    """

    ok: bool
    rows: int
    blocks: int
    block_rows: int
    broken_blocks: tuple[int, ...]
    content_id_ok: bool
    keys_ok: bool | None
    problems: tuple[str, ...]


def verify_blocks(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    checksums: NDArray[np.uint32],
    content_id: str,
    progress: Progress = None,
    keys: Mapping[str, NDArray[Any]] | None = None,
    fidelity: NDArray[np.float64] | None = None,
) -> VerifyReport:
    """Compare every block of codes (N, D) and scales (N,) with its checksums (B, 2); check the rest, too."""
    rows, dim = codes.shape
    step = layout.block_rows(dim)
    broken: list[int] = []
    problems: list[str] = []
    with rows_progress(progress, rows) as on_rows:
        for number, (codes_crc, scales_crc) in enumerate(checksums.tolist()):
            held = slice(number * step, min(rows, (number + 1) * step))
            checked = (("codes", codes[held], codes_crc), ("scales", scales[held], scales_crc))
            parts = [name for name, data, crc in checked if crc32(data) != crc]
            if parts:
                broken.append(number)
                problems.append(
                    f"block {number} (rows {held.start} to {held.stop - 1}): "
                    f"{' and '.join(parts)} differ from the checksum"
                )
            on_rows(held.stop - held.start)
    in_keys = key_problems(keys) if keys else []
    problems.extend(in_keys)
    expected = layout.content_id(rows, dim, checksums, keys["checksums"] if keys else None)
    content_id_ok = expected == content_id
    if not content_id_ok:
        problems.append("the content id does not belong to the checksums")
    if fidelity is not None and not layout.fidelity_intact(fidelity):
        problems.append("/fidelity, what was measured at the build, differs from its checksum")
    return VerifyReport(
        ok=not problems,
        rows=rows,
        blocks=len(checksums),
        block_rows=step,
        broken_blocks=tuple(broken),
        content_id_ok=content_id_ok,
        keys_ok=not in_keys if keys else None,
        problems=tuple(problems),
    )
