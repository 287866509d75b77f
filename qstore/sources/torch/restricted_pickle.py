"""Pickles read as plain data: an interpreter of the few opcodes that checkpoints need, on values of our own.

`pickle.Unpickler` finds classes and calls them, and keeps it safe only as long as every hook is right.
Here there is nothing to find: a name is looked up in a table of ours, REDUCE calls only what that table
marks as a function, BUILD does nothing, and mappings are lists of pairs, so that no value is ever hashed.
Names that are not in the table stand for opaque objects, of which nothing is made; opcodes that are not in
the table are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from ..checks import shortened
from .pickle_machine import Function, Machine, Opaque, Pairs, PickleRefused, Record, RecordType
from .pickle_opcodes import PLAIN, STEPS, STOP

__all__ = ["Function", "Opaque", "Pairs", "PickleRefused", "Record", "RecordType", "read_pickle"]

# A tensor of a state dict takes about 25 steps that count: 160,000 of them. A step makes at most 120 bytes:
# 0.5 GB. Steps that do not count, of plain values, make at most 18 bytes for each byte of the pickle.
MOST_STEPS = 4_000_000


def read_pickle(
    data: bytes,
    names: Mapping[tuple[str, str], Any],
    persistent: Callable[[Any], Any],
    most_steps: int | None = None,
) -> Any:
    """The object that a pickle describes.

    Parameters
    ----------
    data : bytes
    names : mapping
        (module, name) to what stands for it: a :class:`Function`, a :class:`RecordType`, or any constant.
    persistent : callable
        Gets each persistent id, returns what stands for it.
    most_steps : int, optional
        Without those that only take plain values and references from the pickle, of which there may be as
        many as it has bytes. By default enough for a state dict of 160,000 tensors.

    Returns
    -------
    object
        Numbers, str, bytes, None, tuples, lists, :class:`Pairs`, :class:`Record`, :class:`Opaque` and what
        `names` and `persistent` gave. Numbers in long lists are None: such lists hold their places alone.

    Raises
    ------
    PickleRefused

    Examples
    --------
    >>> import pickle
    >>> read_pickle(pickle.dumps({"a": [1, 2.5]}), {}, lambda key: key)
    Pairs(items=[('a', [1, 2.5])])
    >>> read_pickle(pickle.dumps(print), {}, lambda key: key)
    Opaque(name='print')
    """
    machine = Machine(data, names, persistent)
    try:
        return _run(machine, most_steps or MOST_STEPS)
    except PickleRefused:
        raise
    except (IndexError, struct.error, ValueError) as error:
        # An empty stack, a number that is cut short, text that is no UTF-8.
        raise PickleRefused(
            f"its pickle is malformed at byte {machine.position}: {shortened(str(error))}"
        ) from error


def _run(machine: Machine, most_steps: int) -> Any:
    steps = 0
    while True:
        code = machine.data[machine.position]
        machine.position += 1
        if code not in PLAIN:
            if code == STOP:
                return machine.stack.pop()
            steps += 1
            if steps > most_steps:
                raise PickleRefused(
                    f"its pickle is too long: expected at most {most_steps} steps besides those for plain "
                    f"values"
                )
        step = STEPS.get(code)
        if step is None:
            raise PickleRefused(
                f"its pickle has opcode {bytes([code])!r} at byte {machine.position - 1}: "
                f"expected plain data, which has no need of it"
            )
        step(machine)
