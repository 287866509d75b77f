"""Does a store still hold what was written? Every block against its checksum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import layout
from .crc import crc32
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
    problems : tuple of str
        The same in words.
    """

    ok: bool
    rows: int
    blocks: int
    block_rows: int
    broken_blocks: tuple[int, ...]
    content_id_ok: bool
    problems: tuple[str, ...]


def verify_blocks(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float64],
    checksums: NDArray[np.uint32],
    content_id: str,
    progress: Progress = None,
) -> VerifyReport:
    """Compare every block of codes (N, D) and scales (N,) with its checksums (B, 2)."""
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
    content_id_ok = layout.content_id(rows, dim, checksums) == content_id
    if not content_id_ok:
        problems.append("the content id does not belong to the checksums")
    return VerifyReport(
        not problems, rows, len(checksums), step, tuple(broken), content_id_ok, tuple(problems)
    )
