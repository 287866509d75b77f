"""Make docs/cli.md from the parser of the qstore command: ``python tools/make_cli_page.py [--check]``."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"

_WIDTH = 100

_INTRODUCTION = """\
# The `qstore` command

This page is made from the help texts by `tools/make_cli_page.py`; do not edit it by hand.

`python -m qstore` is the same command. In `--json` output the keys are the attributes of the report
classes in the library, and further keys may be added. Numbers are JSON numbers.
"""


def make_page() -> str:
    """Text of the page; the same on every version of Python."""
    # argparse reads these when it formats, not when it is imported.
    os.environ.update(COLUMNS=str(_WIDTH), NO_COLOR="1")
    from qstore.cli.parser import COMMANDS, command_parser, make_parser

    commands = [f"## `qstore {name}`\n\n{_block(command_parser(name))}" for name in COMMANDS]
    sections = [_INTRODUCTION, _block(make_parser()), *commands]
    return "\n".join(sections).rstrip() + "\n"


def _block(parser: argparse.ArgumentParser) -> str:
    # Versions of Python break the lines of the usage in different places.
    _, _, rest = parser.format_help().partition("\n\n")
    usage = textwrap.fill(
        " ".join(parser.format_usage().split()),
        _WIDTH,
        subsequent_indent=" " * len("usage: "),
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"```text\n{usage}\n\n{rest.rstrip()}\n```\n"


def main() -> int:
    """Write the page, or with ``--check`` only say whether it is up to date."""
    page = make_page()
    if sys.argv[1:] == ["--check"]:
        stale = not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page
        if stale:
            print(f"{PAGE} is not up to date: run python tools/make_cli_page.py", file=sys.stderr)
        return int(stale)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
