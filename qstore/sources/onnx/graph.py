"""What a model's graph is made of: its initializers, and the nodes that take values.

Layout: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto. Only the fields that tell names, types, places
and whole numbers are read.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace

from ...errors import SourceError
from ..checks import shortened
from ..files import RawFile
from .protobuf import Reader, signed

__all__ = ["BITS", "TYPES", "Initializer", "Model", "Node", "read_model"]

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT = 1, 5, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_NUMBER, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 3, 6, 11
_DIMS, _TYPE, _FLOATS, _INTS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 1, 2, 4, 5, 8, 9, 10, 13, 14
_MOST_DEEP = 16

TYPES = {  # number in the file: (name here, bits)
    1: ("float32", 32),
    2: ("uint8", 8),
    3: ("int8", 8),
    4: ("uint16", 16),
    5: ("int16", 16),
    6: ("int32", 32),
    7: ("int64", 64),
    9: ("bool", 8),
    10: ("float16", 16),
    11: ("float64", 64),
    12: ("uint32", 32),
    13: ("uint64", 64),
    14: ("complex64", 64),
    15: ("complex128", 128),
    16: ("bfloat16", 16),
    17: ("float8_e4m3fn", 8),
    18: ("float8_e4m3fnuz", 8),
    19: ("float8_e5m2", 8),
    20: ("float8_e5m2fnuz", 8),
    21: ("uint4", 4),
    22: ("int4", 4),
    23: ("float4_e2m1fn", 4),
    24: ("float8_e8m0fnu", 8),
    25: ("uint2", 2),
    26: ("int2", 2),
}
"""The element types of ONNX. Those of less than 8 bits follow one another, from the lowest bits on."""

BITS = dict(TYPES.values())
"""Name of a type to the bits of an item."""

# Values that have no bytes of their own may lie as numbers of these types, packed.
_PLAIN = {_FLOATS: 1, _DOUBLES: 11}


@dataclass
class Initializer:
    """A tensor of the graph.

    Attributes
    ----------
    name : str
    shape : list of int
    kind : int
        A key of :data:`TYPES`, or a number that is not known.
    data : (int, int) or None
        Where its bytes begin in the model, and how many there are.
    numbers : (int, int) or None
        The same of numbers in a field of 32 bits each, packed, where there are no bytes.
    external : dict of str to str
        What is said of the place of external data.
    is_external : bool
    """

    name: str = ""
    shape: list[int] = field(default_factory=list)
    kind: int = 0
    data: tuple[int, int] | None = None
    numbers: tuple[int, int] | None = None
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False

    @property
    def dtype(self) -> str:
        """Name of its type."""
        return TYPES[self.kind][0] if self.kind in TYPES else f"type {self.kind} of ONNX"


@dataclass(frozen=True)
class Node:
    """An operator.

    Attributes
    ----------
    kind, domain : str
        Its name, and whose it is; "" is ONNX itself.
    inputs, outputs : tuple of str
        Names of values; "" where one is left out. Those of a graph in the graph that only it knows begin with
        its number and NUL.
    numbers : dict of str to int
        Those attributes that are whole numbers.
    """

    kind: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: dict[str, int]

    @property
    def title(self) -> str:
        """Its name and whose it is, for messages."""
        return f"{self.domain}.{self.kind}" if self.domain else self.kind

    def input(self, place: int) -> str:
        """Name of an input; "" where it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""


@dataclass(frozen=True)
class Model:
    """What was read of a model.

    Attributes
    ----------
    initializers : dict of str to Initializer
        Those of the main graph.
    nodes : list of Node
        Those of all graphs.
    crc32 : int
        Of all that is said of the initializers and nodes.
    """

    initializers: dict[str, Initializer]
    nodes: list[Node]
    crc32: int


def read_model(file: RawFile) -> Model:
    """Read what a model says of its tensors.

    Raises
    ------
    SourceError
        It is malformed, cut short or too large.
    """
    reader = Reader(file)
    graphs = [
        (begin, end)
        for number, wire, begin, end in reader.fields(0, file.size)
        if (number, wire) == (_MODEL_GRAPH, 2)
    ]
    if len(graphs) != 1:
        raise SourceError(f"{file.path} is no ONNX model: expected one graph, found {len(graphs)}")
    found = _Graphs(reader)
    found.add(*graphs[0])
    listed = repr((list(found.initializers.values()), found.nodes))
    return Model(found.initializers, found.nodes, zlib.crc32(listed.encode("utf-8", "replace")))


class _Graphs:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._count = 0
        self.initializers: dict[str, Initializer] = {}
        self.nodes: list[Node] = []

    def add(self, begin: int, end: int, depth: int = 0) -> None:
        """Read one graph, and those in the attributes of its nodes."""
        path = self._reader.file.path
        if depth > _MOST_DEEP:
            raise SourceError(f"{path} has graphs more than {_MOST_DEEP} deep in each other: no ONNX model")
        own = f"{self._count}\0" if depth else ""
        self._count += 1
        known: set[str] = set()
        nodes: list[Node] = []
        first = len(self.nodes)
        for part, wire, start, stop in self._reader.fields(begin, end):
            if wire != 2:
                continue
            if part == _GRAPH_INITIALIZER:
                one = _initializer(self._reader, start, stop)
                known.add(one.name)
                if depth:
                    continue
                if one.name in self.initializers:
                    raise SourceError(f"{path} has two tensors named {shortened(repr(one.name))}")
                self.initializers[one.name] = one
            elif part == _GRAPH_INPUT:
                known.update(
                    self._reader.text(*place)
                    for number, kind, *place in self._reader.fields(start, stop)
                    if (number, kind) == (1, 2)
                )
            elif part == _GRAPH_NODE:
                nodes.append(self._node(start, stop, depth))
        known.update(name for node in nodes for name in node.outputs)
        known.discard("")
        if not own:
            self.nodes += nodes
            return

        def here(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(own + name if name in known else name for name in names)

        # What deeper graphs know themselves has its number already.
        self.nodes[first:] = [
            replace(node, inputs=here(node.inputs), outputs=here(node.outputs))
            for node in (*self.nodes[first:], *nodes)
        ]

    def _node(self, begin: int, end: int, depth: int) -> Node:
        reader = self._reader
        texts: dict[int, list[str]] = {
            _NODE_INPUT: [],
            _NODE_OUTPUT: [],
            _NODE_TYPE: [""],
            _NODE_DOMAIN: [""],
        }
        numbers: dict[str, int] = {}
        for number, wire, first, last in reader.fields(begin, end):
            if wire == 2 and number in texts:
                texts[number].append(reader.text(first, last))
            elif wire == 2 and number == _NODE_ATTRIBUTE:
                name, value = "", None
                for part, kind, start, stop in reader.fields(first, last):
                    if (part, kind) == (_ATTRIBUTE_NAME, 2):
                        name = reader.text(start, stop)
                    elif (part, kind) == (_ATTRIBUTE_NUMBER, 0):
                        value = signed(start)
                    elif part in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and kind == 2:
                        self.add(start, stop, depth + 1)
                if value is not None:
                    numbers[name] = value
        domain = texts[_NODE_DOMAIN][-1]
        return Node(
            texts[_NODE_TYPE][-1],
            "" if domain == "ai.onnx" else domain,
            tuple(texts[_NODE_INPUT]),
            tuple(texts[_NODE_OUTPUT]),
            numbers,
        )


def _initializer(reader: Reader, begin: int, end: int) -> Initializer:
    one = Initializer()
    plain: tuple[int, int, int] | None = None
    for number, wire, first, last in reader.fields(begin, end):
        if number == _DIMS:
            one.shape += [first] if wire == 0 else reader.varints(first, last)
        elif number == _TYPE and wire == 0:
            one.kind = first
        elif number == _NAME and wire == 2:
            one.name = reader.text(first, last)
        elif number == _RAW and wire == 2:
            one.data = first, last - first
        elif number in _PLAIN and wire == 2:
            plain = number, first, last - first
        elif number == _INTS and wire == 2:
            one.numbers = first, last - first
        elif number == _LOCATION and wire == 0:
            one.is_external = first == 1
        elif number == _EXTERNAL and wire == 2:
            entry = {
                part: reader.text(*place) for part, kind, *place in reader.fields(first, last) if kind == 2
            }
            one.external[entry.get(1, "")] = entry.get(2, "")
    if one.data is None and plain is not None and _PLAIN[plain[0]] == one.kind:
        one.data = plain[1], plain[2]
    if len(one.shape) > 64 or any(length >= 1 << 48 for length in one.shape):
        raise SourceError(
            f"{reader.file.path}: tensor {shortened(repr(one.name))} has a shape that cannot be"
        )
    return one
