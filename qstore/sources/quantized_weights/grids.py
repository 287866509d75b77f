"""Which block of a matrix each scale holds for: by shapes, and by config.json where they leave several."""

from __future__ import annotations

from collections.abc import Collection

from ..base import TensorInfo

__all__ = ["Misfit", "block_of", "in_words"]

# What DeepSeek, transformers and compressed-tensors make.
_USUAL_BLOCK = 128


class Misfit(Exception):
    """Tensors that belong together by name do not fit: the reason, for the refusal."""


def block_of(
    what: TensorInfo, shape: tuple[int, int], told: Collection[tuple[int, int]] = ()
) -> tuple[int, int]:
    """Rows and columns of the block that each number of a tensor holds for.

    Parameters
    ----------
    what : TensorInfo
        One number for all: shape (), (1,) or (1, 1). One a row: (rows,), (rows, 1). For groups of columns:
        (rows, groups), which divide the columns. For blocks: (rows / a, columns / b), rounded up.
    shape : (int, int)
        Of the matrix.
    told : collection of (int, int)
        Blocks that config.json speaks of.

    Raises
    ------
    Misfit
        No block gives such a shape, or several do.

    Examples
    --------
    >>> block_of(TensorInfo("s", (10, 2), "float32"), (10, 64))
    (1, 32)
    >>> block_of(TensorInfo("s", (3, 4), "float32"), (300, 512))
    (128, 128)
    """
    rows, columns = shape
    found = what.shape
    if found in ((), (1,), (1, 1)) and rows != 1:
        return max(rows, 1), columns
    if found in ((rows,), (rows, 1)) or (found in ((), (1,)) and rows == 1):
        return 1, columns
    if len(found) != 2 or not 0 < found[0] <= rows or not 0 < found[1] <= columns:
        raise Misfit(_unfit(what, shape))
    if found[0] == rows:
        if columns % found[1]:
            raise Misfit(_unfit(what, shape))
        return 1, _agreeing(what, columns // found[1], told)
    fitting = {
        block for block in told if _fits(block[0], rows, found[0]) and _fits(block[1], columns, found[1])
    }
    if told and not fitting and any(block[0] > 1 for block in told):
        raise Misfit(f"{_unfit(what, shape)}; config.json speaks of blocks of {in_words(told)}")
    if not fitting:
        fitting = _squares(shape, found)
    if len(fitting) != 1:
        several = f"{what.name} could be for blocks of {in_words(fitting)}"
        raise Misfit(
            f"{several if fitting else _unfit(what, shape)}; where blocks are no squares of a power of two, "
            f"config.json beside the file must say how large they are, as weight_block_size in its "
            f"quantization_config"
        )
    return fitting.pop()


def _agreeing(what: TensorInfo, group: int, told: Collection[tuple[int, int]]) -> int:
    """The size of a group, which config.json must not contradict where it speaks of groups alone."""
    groups = {block[1] for block in told if block[0] == 1}
    if groups and groups == {block[1] for block in told} and group not in groups:
        raise Misfit(
            f"{what.name} has shape {what.shape}, one for {group} columns, but config.json speaks of groups "
            f"of {', '.join(map(str, sorted(groups)))}"
        )
    return group


def _fits(block: int, length: int, count: int) -> bool:
    return -(-length // block) == count


def _squares(shape: tuple[int, int], counts: tuple[int, ...]) -> set[tuple[int, int]]:
    """Squares that cut a matrix into so many blocks; where that is one alone, any size fits: the usual."""
    sizes = (_USUAL_BLOCK,) if 1 in counts else tuple(1 << power for power in range(4, 31))
    return {
        (size, size)
        for size in sizes
        if _fits(size, shape[0], counts[0]) and _fits(size, shape[1], counts[1])
    }


def _unfit(what: TensorInfo, shape: tuple[int, int]) -> str:
    rows, columns = shape
    return (
        f"{what.name} has shape {what.shape}: expected (1,), ({rows},), ({rows}, 1), ({rows}, groups) that "
        f"divide {columns} columns, or one for each block"
    )


def in_words(blocks: Collection[tuple[int, int]]) -> str:
    """Blocks as "128 x 128 or 64 x 64"."""
    return " or ".join(f"{rows} x {columns}" for rows, columns in sorted(blocks))
