"""``qstore env``: what qstore runs on."""

from __future__ import annotations

import argparse

from .arguments import Command, add_json
from .printing import print_facts, print_json

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Show versions, the engine in use (C or NumPy, and why), and the machine: what a bug report should hold.
QSTORE_NO_EXTENSION=1 switches the C extension off; QSTORE_REQUIRE_EXTENSION=1 makes its absence an error;
QSTORE_THREADS=N has N threads work where nothing else is said, instead of one a processor."""

_EXAMPLES = """\
  qstore env
  QSTORE_NO_EXTENSION=1 qstore env --json"""


def _run(arguments: argparse.Namespace) -> int:
    from ..environment import environment

    found = environment().to_dict()
    if arguments.json:
        print_json(found)
        return 0
    variables = found.pop("variables")
    problem = found.pop("extension_problem")
    facts = [(name, "missing" if value is None else value) for name, value in found.items()]
    if problem:
        facts.append(("no extension", problem))
    print_facts([*facts, *variables.items()])
    return 0


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=add_json,
    run=_run,
)
