"""What the lines of a text file are: keys, keys beside a number that is known, or something to ask about."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from enum import Enum
from typing import Any

from ..errors import SourceError
from .json_files import refuse_json_line

__all__ = ["LineForm", "form_of"]

_SCORED = re.compile(rb"(?P<key>.*)\t(-\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|0(?:\.0+)?)", re.DOTALL)
_COUNTED = re.compile(rb"(?P<key>.+) \d+(?: #fairseq:overwrite)?", re.DOTALL)
_RANKED = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
_NUMBERED = re.compile(rb"(?P<key>\S+)[ \t](?P<row>\d{1,18})")
_AFTER_NUMBER = re.compile(rb"(?P<row>\d{1,18})(?: |\t(?![^\t]*\t)|,(?!.*[,\"]))(?P<key>.+)", re.DOTALL)
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DICTIONARY = re.compile(r"dict(\.[\w-]+)?\.txt", re.IGNORECASE)
_JSON_LINES = 100


class LineForm(Enum):
    """What is known of each line: in words, and what the key in it is."""

    KEYS = "a key", None
    SENTENCEPIECE = "a piece, a tab and its score, as in the .vocab of SentencePiece", _SCORED
    FAIRSEQ = "a word, a space and its count, as in the dict.txt of fairseq", _COUNTED
    NUMBERED = "a word, a space or tab and the number of its row", _NUMBERED
    AFTER_NUMBER = "the number of its row, a space, tab or comma and the key", _AFTER_NUMBER
    TIKTOKEN = "a token in base64, a space and its row, as in a .tiktoken file", _RANKED

    @property
    def before(self) -> tuple[bytes, ...]:
        """Keys of rows that stand before those of the file."""
        return (b"<s>", b"<pad>", b"</s>", b"<unk>") if self is LineForm.FAIRSEQ else ()

    def keys(self, path: str, lines: Sequence[bytes], row: int) -> list[bytes]:
        """The keys in lines, whose first one is number `row`, counted from 0.

        Raises
        ------
        SourceError
            A line is not as those before.
        """
        words, pattern = self.value
        if pattern is None:
            return list(lines)
        found = [pattern.fullmatch(line) for line in lines]
        for number, (line, match) in enumerate(zip(lines, found, strict=True), row):
            if match is None or int(match.groupdict().get("row", number)) != number:
                raise SourceError(
                    f"{path}: line {number + 1} is {line.decode()!r:.80}, expected {words}, like the lines "
                    f"before; {_whole_lines(path)}"
                )
        return [match["key"] for match in found if match is not None]


def form_of(path: str, lines: Sequence[bytes]) -> LineForm:
    """What a file is that begins with these lines: some MiB of them, or all.

    Raises
    ------
    SourceError
        They are columns, or JSON, and it cannot be told which part is the key: says what to do.
    """
    name, held = os.path.basename(path), [line for line in lines if line]
    if not held:
        return LineForm.KEYS
    ranked = all(_RANKED.fullmatch(line) and line.index(b" ") % 4 == 0 for line in held)
    if name.lower().endswith(".tiktoken") or (ranked and any(b"=" in line for line in held)):
        return LineForm.TIKTOKEN
    if name.lower().endswith(".vocab") and _SCORED.fullmatch(held[0]):
        return LineForm.SENTENCEPIECE
    if any(b"\t-" in line for line in held) and all(map(_SCORED.fullmatch, held)):
        return LineForm.SENTENCEPIECE
    if _DICTIONARY.fullmatch(name) and _COUNTED.fullmatch(held[0]):
        return LineForm.FAIRSEQ
    for form in LineForm.NUMBERED, LineForm.AFTER_NUMBER:
        if _are_numbered(lines, form.value[1]):
            return form
    _refuse_json(path, held)
    _refuse_columns(path, held)
    return LineForm.KEYS


def _are_numbered(lines: Sequence[bytes], pattern: re.Pattern[bytes]) -> bool:
    """Two lines or more; words that are all the same are part of what is numbered.

    Numbers behind those of the rows may as well be counts of what is in front, or a column of their own.
    """
    words = []
    for row, line in enumerate(lines):
        match = pattern.fullmatch(line)
        if match is None or int(match["row"]) != row:
            return False
        words.append(match["key"])
    if pattern is _AFTER_NUMBER and (all(map(_NUMBER.fullmatch, words)) or _has_columns(b" ", words)):
        return False
    return len(set(words)) == len(words) > 1


def _refuse_json(path: str, lines: Sequence[bytes]) -> None:
    if not all(line[:1] in b'{["' for line in lines[:_JSON_LINES]):
        return
    values = list(map(_parsed, lines[:_JSON_LINES]))
    if all(isinstance(value, (dict, list)) for value in values):
        refuse_json_line(path, 1, values[0])
    if all(isinstance(value, str) for value in values):
        raise SourceError(
            f"{path}: its lines are texts in JSON, as {lines[0].decode()!r:.80}: where keys are what they "
            f"say, give it a name that ends with .jsonl; {_whole_lines(path)}"
        )


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _refuse_columns(path: str, lines: Sequence[bytes]) -> None:
    """Raise where the lines have columns, below their names in the first line or not."""
    for separator, cut in ((b"\t", "cut -f"), (b" ", "cut -d' ' -f"), (b",", "cut -d, -f")):
        for names in (0, 1):
            numbered = _begin_with_numbers(separator, lines[names:])
            if numbered or _has_columns(separator, lines[names:]):
                where, column = ("the first", "1") if not numbered else ("the second", "2")
                if numbered and separator == b" ":
                    where, column = "all behind the first", "2-"
                cut += column
                read = f"tail -n +2 {shlex.quote(path)} | {cut}" if names else f"{cut} {shlex.quote(path)}"
                columns, line = lines[-1].count(separator) + 1, lines[-1].decode()
                raise SourceError(
                    f"{path}: each line has {columns} columns, as {line!r:.80}, and which one is the key it "
                    f"does not say: where {where} is, in the order of rows, `{read} > keys.txt` makes a "
                    f"file of a key a line; {_whole_lines(path)}"
                )


def _has_columns(separator: bytes, lines: Sequence[bytes]) -> bool:
    """As many separators in each line; where keys may hold these, a column of numbers behind other firsts."""
    if len(lines) < 2 or separator not in lines[0] or len({line.count(separator) for line in lines}) > 1:
        return False
    if separator == b"\t":
        return True
    first, *others = zip(*(line.split(separator) for line in lines), strict=True)
    numbers = any(all(map(_NUMBER.fullmatch, column)) for column in others)
    return numbers and len(set(first)) == len(lines)


def _begin_with_numbers(separator: bytes, lines: Sequence[bytes]) -> bool:
    """Whole numbers, each another one, and then what differs in all lines and is not all numbers."""
    if len(lines) < 2 or len({line.count(separator) for line in lines}) > 1:
        return False
    parts = [line.partition(separator) for line in lines]
    rests = {rest for _, _, rest in parts}
    return (
        len({first for first, _, _ in parts if first.isdigit()}) == len(rests) == len(lines)
        and all(rests)
        and not all(map(_NUMBER.fullmatch, rests))
    )


def _whole_lines(path: str) -> str:
    script = 'import json, sys; json.dump([line.rstrip("\\n") for line in sys.stdin], sys.stdout)'
    command = f"python3 -c {shlex.quote(script)} < {shlex.quote(path)} > keys.json"
    return f"where whole lines are the keys, `{command}` makes one of these"
