"""The opcodes that Python's picklers write since protocol 1, as steps of a machine.

They are those of the standard library's `pickletools`. Not among them are those of Python 2 (INST, OBJ,
STRING), the extension registry, buffers from outside, and persistent ids as text.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .pickle_machine import Function, Machine, Opaque, Pairs, PickleRefused, Record, RecordType

__all__ = ["PLAIN", "STEPS", "STOP"]

STOP = ord(".")

PLAIN = frozenset(b"N\x88\x89KMJ\x8aILG\x8cX\x8dCB\x8eqrhj")
"""Steps that take a number, a text or a reference from the pickle: it becomes at most 18 times as large."""

# Lists that go on behind so many values are logs and vocabularies, no arguments of anything.
_SHORT_LIST = 1000

# Of a name that a text of megabytes can be asked for in every step.
_MOST_SHOWN = 80


def _proto(machine: Machine) -> None:
    version = machine.number(1)
    if version > 5:
        raise PickleRefused(f"its pickle has protocol {version}: expected at most 5")


def _frame(machine: Machine) -> None:
    count = machine.number(8)
    if count > len(machine.data) - machine.position:
        raise PickleRefused(
            f"its pickle ends early: expected a frame of {count} bytes, "
            f"found {len(machine.data) - machine.position}"
        )


def _mark(machine: Machine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    machine.stack.pop()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _push(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _push_new(make: Callable[[], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(make())


def _push_integer(size: int, signed: bool = False) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.number(size, signed))


def _push_bytes(size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)))


def _push_text(size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.number(size)).decode())


def _push_float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _push_long(machine: Machine) -> None:
    machine.stack.append(machine.number(machine.number(1), signed=True))


def _push_written_integer(machine: Machine) -> None:
    line = machine.line()
    machine.stack.append(line == b"01" if line in (b"00", b"01") else int(line))


def _push_written_long(machine: Machine) -> None:
    machine.stack.append(int(machine.line().removesuffix(b"L")))


def _push_opaque_bytes(size: int, name: str) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        machine.take(machine.number(size))
        machine.stack.append(Opaque(name))

    return step


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        if len(machine.stack) < count:
            raise IndexError("pop from empty stack")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return step


def _tuple(machine: Machine) -> None:
    values = machine.since_mark()
    machine.stack.append(tuple(values))


def _frozen_set(machine: Machine) -> None:
    machine.since_mark()
    machine.stack.append(Opaque("frozenset"))


def _into_list(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is list:
        target.extend(values)
    elif type(target) is not Opaque:  # what goes into one is dropped
        raise _wrong_target("a list", target)


def _append(machine: Machine) -> None:
    value = machine.stack.pop()
    _into_list(machine, [value])


def _appends(machine: Machine) -> None:
    values = machine.since_mark()
    target = machine.stack[-1]
    if type(target) is list and len(target) >= _SHORT_LIST:
        values = [None if type(value) in (int, float) else value for value in values]
    _into_list(machine, values)


def _into_dict(machine: Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is Pairs:
        target.items.extend(zip(values[::2], values[1::2], strict=True))
    elif type(target) is not Opaque:
        raise _wrong_target("a dict", target)


def _set_item(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _into_dict(machine, [key, value])


def _set_items(machine: Machine) -> None:
    values = machine.since_mark()
    _into_dict(machine, values)


def _add_items(machine: Machine) -> None:
    machine.since_mark()
    if type(machine.stack[-1]) is not Opaque:
        raise _wrong_target("a set", machine.stack[-1])


def _build(machine: Machine) -> None:
    # That of an OrderedDict is not needed: torch keeps the versions of modules there.
    state = machine.stack.pop()
    if type(machine.stack[-1]) is Record:
        machine.stack[-1].state = state
    else:
        _into_dict(machine, [])


def _put(size: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        # Picklers number from 0 on without gaps. A list then does, which cannot be made large by a number.
        index = machine.number(size)
        value = machine.stack[-1]
        if index == len(machine.memo):
            machine.memo.append(value)
        else:
            machine.memo[index] = value

    return step


def _memoize(machine: Machine) -> None:
    machine.memo.append(machine.stack[-1])


def _get(size: int) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(machine.memo[machine.number(size)])


def _global(machine: Machine) -> None:
    module, name = machine.line().decode(), machine.line().decode()
    machine.stack.append(_look_up(machine, module, name))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise PickleRefused("its pickle asks for something whose name is no text")
    machine.stack.append(_look_up(machine, module, name))


def _look_up(machine: Machine, module: str, name: str) -> Any:
    found = machine.names.get((module, name))
    if found is not None:
        return found
    prefix = "" if module in ("builtins", "__builtin__") else f"{module[:_MOST_SHOWN]}."
    return Opaque(prefix + name[:_MOST_SHOWN])


def _reduce(machine: Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if type(arguments) is tuple and isinstance(function, Function):
        machine.stack.append(function.call(arguments))
    else:
        machine.stack.append(_made(function, arguments))


def _new_object(machine: Machine) -> None:
    arguments, made_of = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_made(made_of, arguments))


def _new_object_with_names(machine: Machine) -> None:
    machine.stack.pop()
    _new_object(machine)


def _made(made_of: Any, arguments: Any) -> Opaque | Record:
    """What a class or function of another program would make: nothing is made."""
    if type(made_of) is RecordType and arguments == ():
        return Record(made_of.name)
    if type(made_of) is not Opaque or type(arguments) is not tuple:
        raise PickleRefused(
            f"its pickle calls {type(made_of).__name__} with {type(arguments).__name__}: "
            f"expected a class or a function, and a tuple of arguments"
        )
    return made_of


def _persistent(machine: Machine) -> None:
    machine.stack.append(machine.persistent(machine.stack.pop()))


def _wrong_target(expected: str, found: Any) -> PickleRefused:
    return PickleRefused(f"its pickle puts values into a {type(found).__name__}: expected {expected}")


STEPS: dict[int, Callable[[Machine], None]] = {
    ord(code): step
    for code, step in {
        "\x80": _proto,
        "\x95": _frame,
        "(": _mark,
        "0": _pop,
        "1": _pop_mark,
        "N": _push(None),
        "\x88": _push(True),
        "\x89": _push(False),
        ")": _push(()),
        "]": _push_new(list),
        "}": _push_new(Pairs),
        "K": _push_integer(1),
        "M": _push_integer(2),
        "J": _push_integer(4, signed=True),
        "\x8a": _push_long,
        "\x8b": _push_opaque_bytes(4, "int"),
        "I": _push_written_integer,
        "L": _push_written_long,
        "G": _push_float,
        "\x8c": _push_text(1),
        "X": _push_text(4),
        "\x8d": _push_text(8),
        "C": _push_bytes(1),
        "B": _push_bytes(4),
        "\x8e": _push_bytes(8),
        "\x96": _push_opaque_bytes(8, "bytearray"),
        "\x8f": _push_new(lambda: Opaque("set")),
        "\x91": _frozen_set,
        "\x85": _tuple_of(1),
        "\x86": _tuple_of(2),
        "\x87": _tuple_of(3),
        "t": _tuple,
        "a": _append,
        "e": _appends,
        "s": _set_item,
        "u": _set_items,
        "\x90": _add_items,
        "b": _build,
        "q": _put(1),
        "r": _put(4),
        "\x94": _memoize,
        "h": _get(1),
        "j": _get(4),
        "c": _global,
        "\x93": _stack_global,
        "R": _reduce,
        "\x81": _new_object,
        "\x92": _new_object_with_names,
        "Q": _persistent,
    }.items()
}
