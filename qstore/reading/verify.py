"""Does a store still hold what was written? Every block against its checksum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..format import layout
from ..format.checksums import crc32
from ..keys.checking import key_problems
from ..keys.lookup import key_index_of
from ..keys.repeats import KeyFile, find_repeats
from ..system.progress import Progress, rows_progress
from ..system.reported import Reported
from ..system.threads import in_order, thread_count
from .parts import Part

__all__ = ["VerifyReport", "verify_parts", "with_key_counts"]


@dataclass(frozen=True, repr=False)
class VerifyReport(Reported):
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
        The keys are whole, and the index finds each at the first row that has it; None where rows have none.
    problems : tuple of str
        The same in words.
    unkeyed_rows : int
        Rows that have no key, where the others have one.
    repeated_rows : int
        Rows that are not found by their key, as an earlier one of the whole store has the same. Looked for
        where nothing is wrong with the keys.
    repeated_example : tuple of (str or int, int, int) or None
        The key of one of these, its number, and that of the row that is found.
    """

    ok: bool
    rows: int
    blocks: int
    block_rows: int
    broken_blocks: tuple[int, ...]
    content_id_ok: bool
    keys_ok: bool | None
    problems: tuple[str, ...]
    unkeyed_rows: int = 0
    repeated_rows: int = 0
    repeated_example: tuple[str | int, int, int] | None = None


def verify_parts(
    parts: Iterable[Part],
    rows: int,
    dim: int,
    checksums: NDArray[np.uint32],
    content_id: str,
    progress: Progress = None,
    keys: Mapping[str, NDArray[Any]] | None = None,
    fidelity: NDArray[np.float64] | None = None,
    threads: int | None = None,
) -> VerifyReport:
    """Compare every block of a matrix of shape (rows, dim), given in parts, with its checksums (B, 2).

    Each part but the last holds whole blocks. Keys and measured errors are checked, too, if there are any.
    Parts are taken on the caller's thread; `threads` of them sum up blocks.
    """
    step = layout.block_rows(dim)
    broken: list[int] = []
    problems: list[str] = []

    def check(block: Part) -> tuple[int, int, str]:
        names = _differing(block.codes, block.scales, checksums[block.first // step])
        return block.first, len(block.codes), names

    workers = min(thread_count(threads), max(1, len(checksums)))
    with rows_progress(progress, rows) as on_rows:
        for row, count, names in in_order(check, _blocks(parts, step), workers):
            if names:
                number = row // step
                broken.append(number)
                problems.append(
                    f"block {number} (rows {row} to {row + count - 1}): {names} differ from the checksum"
                )
            on_rows(count)
    in_keys = key_problems(keys) if keys else []
    problems.extend(in_keys)
    expected = layout.content_id(rows, dim, checksums, keys["checksums"] if keys else None)
    content_id_ok = expected == content_id
    if not content_id_ok:
        problems.append("the content id does not belong to the checksums")
    if fidelity is not None and not layout.fidelity_intact(fidelity):
        problems.append("/fidelity, what was measured at the build, differs from its checksum")
    report = VerifyReport(
        ok=not problems,
        rows=rows,
        blocks=len(checksums),
        block_rows=step,
        broken_blocks=tuple(broken),
        content_id_ok=content_id_ok,
        keys_ok=not in_keys if keys else None,
        problems=tuple(problems),
    )
    files = [KeyFile("the store", 0, rows, lambda: keys or {})]
    return with_key_counts(report, files if report.keys_ok and rows else [])


def with_key_counts(report: VerifyReport, files: Sequence[KeyFile]) -> VerifyReport:
    """The report with the rows counted that have no key, and those that are not found by theirs."""
    if not files:
        return report
    kind = key_index_of(files[0].path, files[0].arrays()).kind
    repeats = find_repeats(kind, files)
    example = next(repeats, None)
    return replace(
        report,
        unkeyed_rows=sum(key_index_of(file.path, file.arrays()).unkeyed_rows() for file in files),
        repeated_rows=sum(1 for _ in repeats) + (example is not None),
        repeated_example=None if example is None else (example.key, example.row, example.first),
    )


def _blocks(parts: Iterable[Part], step: int) -> Iterator[Part]:
    for first, codes, scales in parts:
        for start in range(0, len(codes), step):
            held = slice(start, start + step)
            yield Part(first + start, codes[held], scales[held])


def _differing(codes: NDArray[np.uint8], scales: NDArray[np.float64], crcs: NDArray[np.uint32]) -> str:
    checked = (("codes", codes, crcs[0]), ("scales", scales, crcs[1]))
    return " and ".join(name for name, data, crc in checked if crc32(data) != crc)
