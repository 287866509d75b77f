"""The extension trusts nobody: it checks every argument itself, and lets go of what it held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from every_engine import LEVELS, NEEDS_EXTENSION, native
from kernel_checks import (
    I64,
    U8,
    read_only,
)

QUANTIZE = [np.zeros((4, 6), np.float32), "float32", np.zeros((4, 6), U8), np.zeros(4), False]
DEQUANTIZE = [np.zeros((4, 6), U8), np.zeros(4), np.zeros((4, 6), np.float32)]
GATHER = [np.zeros((4, 6), U8), np.zeros(4), np.zeros(3, I64), np.zeros((3, 6), np.float32)]
POOL = [np.zeros((4, 6), U8), np.zeros(4), np.zeros(3, I64), np.zeros(2, I64), None, "sum", np.zeros((2, 6))]
SURVEY = [
    np.zeros((4, 6), U8),
    np.zeros(4),
    np.zeros((2, 4), I64),
    np.zeros((2, 6)),
    np.zeros(6, I64),
    np.zeros(256, I64),
]
LOOK_UP = [
    np.zeros((4, 6), U8),
    np.zeros(256, np.float32),
    np.zeros((4, 3), np.float32),
    2,
    np.zeros((4, 6), np.float32),
]
ROW_ERRORS = [np.zeros((4, 6), np.float32), "float32", np.zeros((4, 6), U8), np.zeros(4), np.zeros((4, 9))]
UNPACK = ["Q8_0", np.zeros((4, 68), U8), np.zeros((4, 64), np.float32)]
BAD_ARGUMENTS: list[tuple[str, list[Any], int, Any]] = [
    ("quantize", QUANTIZE, 0, np.zeros((4, 6))),
    ("quantize", QUANTIZE, 0, np.zeros((4, 6), ">f4")),
    ("quantize", QUANTIZE, 0, np.zeros((3, 6), np.float32)),
    ("quantize", QUANTIZE, 0, np.zeros((4, 7), np.float32)),
    ("quantize", QUANTIZE, 0, np.zeros((4, 12), np.float32)[:, ::2]),
    ("quantize", QUANTIZE, 0, np.zeros((4, 6), np.float32)[:, ::-1]),
    ("quantize", QUANTIZE, 0, np.zeros(24, np.float32)),
    ("quantize", QUANTIZE, 0, None),
    ("quantize", QUANTIZE, 1, "bfloat16"),
    ("quantize", QUANTIZE, 1, "complex64"),
    ("quantize", QUANTIZE, 1, 3),
    ("quantize", QUANTIZE, 2, read_only(np.zeros((4, 6), U8))),
    ("quantize", QUANTIZE, 2, np.zeros((4, 6), np.int8)),
    ("quantize", QUANTIZE, 2, np.zeros((4, 5), U8)),
    ("quantize", QUANTIZE, 2, np.zeros((4, 12), U8)[:, ::2]),
    ("quantize", QUANTIZE, 3, np.zeros(5)),
    ("quantize", QUANTIZE, 3, np.zeros(4, np.float32)),
    ("quantize", QUANTIZE, 3, read_only(np.zeros(4))),
    ("quantize", QUANTIZE, 3, np.zeros((4, 1))),
    ("dequantize", DEQUANTIZE, 0, np.zeros((4, 6), np.uint16)),
    ("dequantize", DEQUANTIZE, 0, np.zeros((4, 12), U8)[:, ::2]),
    ("dequantize", DEQUANTIZE, 1, np.zeros(3)),
    ("dequantize", DEQUANTIZE, 1, np.zeros(4, I64)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 6), np.int32)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((5, 6), np.float32)),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 5), np.float32)),
    ("dequantize", DEQUANTIZE, 2, read_only(np.zeros((4, 6), np.float32))),
    ("dequantize", DEQUANTIZE, 2, np.zeros((4, 12), np.float32)[:, ::2]),
    ("look_up", LOOK_UP, 0, np.zeros((4, 6), np.int8)),
    ("look_up", LOOK_UP, 0, np.zeros((5, 6), U8)),
    ("look_up", LOOK_UP, 0, np.zeros((4, 12), U8)[:, ::2]),
    ("look_up", LOOK_UP, 1, np.zeros(255, np.float32)),
    ("look_up", LOOK_UP, 1, np.zeros(256)),
    ("look_up", LOOK_UP, 2, np.zeros((3, 3), np.float32)),
    ("look_up", LOOK_UP, 2, np.zeros((4, 2), np.float32)),
    ("look_up", LOOK_UP, 2, np.zeros((4, 3))),
    ("look_up", LOOK_UP, 3, 0),
    ("look_up", LOOK_UP, 3, -1),
    ("look_up", LOOK_UP, 3, "2"),
    ("look_up", LOOK_UP, 3, 1 << 64),
    ("look_up", LOOK_UP, 4, read_only(np.zeros((4, 6), np.float32))),
    ("look_up", LOOK_UP, 4, np.zeros((4, 5), np.float32)),
    ("gather", GATHER, 0, np.zeros((4, 6), np.int8)),
    ("gather", GATHER, 0, np.zeros((4, 7), U8)),
    ("gather", GATHER, 1, np.zeros(3)),
    ("gather", GATHER, 2, np.zeros(3, np.int32)),
    ("gather", GATHER, 2, np.zeros(3, np.uint64)),
    ("gather", GATHER, 2, np.zeros(4, I64)),
    ("gather", GATHER, 2, np.zeros((3, 1), I64)),
    ("gather", GATHER, 3, read_only(np.zeros((3, 6), np.float32))),
    ("gather", GATHER, 3, np.zeros((3, 6), np.complex64)),
    ("pool", POOL, 1, np.zeros(5)),
    ("pool", POOL, 2, np.zeros(3)),
    ("pool", POOL, 3, np.zeros(2, np.int32)),
    ("pool", POOL, 3, np.zeros(3, I64)),
    ("pool", POOL, 4, np.zeros(2)),
    ("pool", POOL, 4, np.zeros(3, I64)),
    ("pool", POOL, 5, "max"),
    ("pool", POOL, 5, None),
    ("pool", POOL, 6, np.zeros((2, 6), np.float16)),
    ("pool", POOL, 6, np.zeros((2, 5))),
    ("pool", POOL, 6, read_only(np.zeros((2, 6)))),
    ("survey", SURVEY, 0, np.zeros((5, 6), U8)),
    ("survey", SURVEY, 0, np.zeros((4, 12), U8)[:, ::2]),
    ("survey", SURVEY, 1, np.zeros(4, np.float32)),
    ("survey", SURVEY, 2, np.zeros((2, 5), I64)),
    ("survey", SURVEY, 2, np.zeros((1, 4), I64)),
    ("survey", SURVEY, 2, np.zeros((2, 8), I64)[:, ::2]),
    ("survey", SURVEY, 2, read_only(np.zeros((2, 4), I64))),
    ("survey", SURVEY, 3, np.zeros((2, 5))),
    ("survey", SURVEY, 3, read_only(np.zeros((2, 6)))),
    ("survey", SURVEY, 4, np.zeros(5, I64)),
    ("survey", SURVEY, 4, np.zeros(6, np.int32)),
    ("survey", SURVEY, 5, np.zeros(255, I64)),
    ("survey", SURVEY, 5, read_only(np.zeros(256, I64))),
    ("row_errors", ROW_ERRORS, 0, np.zeros((4, 6))),
    ("row_errors", ROW_ERRORS, 0, np.zeros((5, 6), np.float32)),
    ("row_errors", ROW_ERRORS, 0, np.zeros((4, 12), np.float32)[:, ::2]),
    ("row_errors", ROW_ERRORS, 1, "float64"),
    ("row_errors", ROW_ERRORS, 2, np.zeros((4, 5), U8)),
    ("row_errors", ROW_ERRORS, 2, np.zeros((4, 6), np.int8)),
    ("row_errors", ROW_ERRORS, 3, np.zeros(3)),
    ("row_errors", ROW_ERRORS, 4, np.zeros((4, 8))),
    ("row_errors", ROW_ERRORS, 4, np.zeros((3, 9))),
    ("row_errors", ROW_ERRORS, 4, read_only(np.zeros((4, 9)))),
    ("unpack_blocks", UNPACK, 0, "Q8_1"),
    ("unpack_blocks", UNPACK, 0, "Q4_0"),
    ("unpack_blocks", UNPACK, 0, 8),
    ("unpack_blocks", UNPACK, 1, np.zeros((4, 68), np.int8)),
    ("unpack_blocks", UNPACK, 1, np.zeros((4, 67), U8)),
    ("unpack_blocks", UNPACK, 1, np.zeros((4, 69), U8)),
    ("unpack_blocks", UNPACK, 1, np.zeros((3, 68), U8)),
    ("unpack_blocks", UNPACK, 1, np.zeros((4, 136), U8)[:, ::2]),
    ("unpack_blocks", UNPACK, 2, np.zeros((4, 64))),
    ("unpack_blocks", UNPACK, 2, np.zeros((4, 65), np.float32)),
    ("unpack_blocks", UNPACK, 2, np.zeros((4, 128), np.float32)[:, :64]),
    ("unpack_blocks", UNPACK, 2, read_only(np.zeros((4, 64), np.float32))),
    ("unpack_blocks", UNPACK, 2, np.zeros(257, U8)[1:].view(np.uint8)),
]


@NEEDS_EXTENSION
def test_a_table_refuses_bad_arguments() -> None:
    codes, scales, out = np.zeros((4, 6), U8), np.ones(4), np.empty(6)
    for bad in [
        (codes.astype(np.int8), scales),
        (np.zeros((4, 12), U8)[:, ::2], scales),
        (codes, np.ones(3)),
        (None, 1),
    ]:
        with pytest.raises((TypeError, ValueError)):
            native.Table(*bad)
    for arguments in ((), (codes,), (codes, scales, out)):
        with pytest.raises(TypeError):
            native.Table(*arguments)
    with pytest.raises(TypeError, match="keyword"):
        native.Table(codes, scales=scales)
    table = native.Table(codes, scales)
    for number, wrong in [
        (1.5, out),
        (0, np.zeros(5)),
        (0, np.zeros(12)[::2]),
        (0, np.zeros((1, 6))),
        (0, read_only(np.zeros(6))),
        (0, np.zeros(6, np.int64)),
    ]:
        with pytest.raises((TypeError, ValueError)):
            table.row(number, wrong)
    for call in ((), (0,), (0, out, out)):
        with pytest.raises(TypeError, match="arguments"):
            table.row(*call)
    with pytest.raises(OverflowError):
        table.row(1 << 64, out)


@NEEDS_EXTENSION
def test_a_table_holds_its_buffers_as_long_as_it_lives() -> None:
    memory = bytearray(24)
    table = native.Table(np.frombuffer(memory, U8).reshape(4, 6), np.ones(4))
    with pytest.raises(BufferError):
        memory.append(0)
    out = np.ones(6)
    table.row(2, out)
    assert (out == -128).all()
    del table
    memory.append(0)


@NEEDS_EXTENSION
@pytest.mark.parametrize(("name", "good", "place", "bad"), BAD_ARGUMENTS)
def test_extension_refuses_bad_arguments(name: str, good: list[Any], place: int, bad: Any) -> None:
    function = getattr(native, name)
    function(*good)
    with pytest.raises((TypeError, ValueError)):
        function(*good[:place], bad, *good[place + 1 :])
    with pytest.raises(TypeError, match="arguments"):
        function(*good[:-1])
    with pytest.raises(TypeError, match="arguments"):
        function(*good, None)


@NEEDS_EXTENSION
def test_extension_lets_go_of_buffers() -> None:
    buffer = bytearray(24)
    values = memoryview(buffer).cast("B", (4, 6))
    native.quantize(values, "uint8", *QUANTIZE[2:])
    with pytest.raises(TypeError):
        native.quantize(values, "int8", *QUANTIZE[2:])
    values.release()
    buffer.append(0)  # BufferError while a view is held


@NEEDS_EXTENSION
def test_extension_refuses_unknown_levels() -> None:
    with pytest.raises(ValueError, match="this machine has no level 'avx1024'"):
        native.set_level("avx1024")
    assert native.level() in LEVELS


@NEEDS_EXTENSION
def test_extension_takes_empty_arrays() -> None:
    for shape in ((0, 5), (5, 0), (0, 0)):
        assert (
            native.quantize(np.zeros(shape), "float64", np.zeros(shape, U8), np.zeros(shape[0]), False) == -1
        )
        native.dequantize(np.zeros(shape, U8), np.zeros(shape[0]), np.zeros(shape))
        codes, figures = np.zeros(shape, U8), np.zeros((shape[0], 9))
        native.row_errors(np.zeros(shape), "float64", codes, np.zeros(shape[0]), figures)
        assert (
            native.gather(np.zeros(shape, U8), np.zeros(shape[0]), np.zeros(0, I64), np.zeros((0, shape[1])))
            == -1
        )
        native.unpack_blocks("Q4_K", np.zeros((shape[0], 0), U8), np.zeros((shape[0], 0), np.float32))
    out = np.ones((2, 5))
    assert (
        native.pool(np.zeros((0, 5), U8), np.zeros(0), np.zeros(0, I64), np.zeros(2, I64), None, "mean", out)
        == -1
    )
    assert not out.any()
