"""Files of keys in JSON: lists, vocabularies, the ``tokenizer.json`` of Hugging Face, a value a line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import SourceError
from ..sources.containers.json_object import once_each
from .stream import KeyStream
from .vocabulary import in_order

__all__ = ["read_json", "read_json_lines", "refuse_json_line"]


def read_json(path: str, padded: bool) -> KeyStream:
    """The keys of a file that is one JSON value; see :func:`.files.read_key_file`."""
    try:
        with open(path, "rb") as file:
            content = json.load(file, object_pairs_hook=once_each)
    except (ValueError, RecursionError) as error:
        lines = "; for a value a line, give it a name that ends with .jsonl"
        more = lines if str(error).startswith("Extra data") else ""
        raise SourceError(f"{path} is no JSON: {error}{more}") from None
    if isinstance(content, list):
        return KeyStream.of(content)
    if not isinstance(content, dict):
        raise SourceError(
            f"{path} holds a {type(content).__name__}, expected a list or an object {{key: row}}"
        )
    pairs = _tokens(path, content) if isinstance(content.get("model"), dict) else list(content.items())
    return in_order(path, pairs, padded)


def _tokens(path: str, tokenizer: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """(token, row) of a tokenizer.json: Unigram has a list of [token, score], all other models an object."""
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        pairs = list(vocabulary.items())
    elif isinstance(vocabulary, list) and all(isinstance(entry, list) and entry for entry in vocabulary):
        pairs = [(entry[0], row) for row, entry in enumerate(vocabulary)]
    else:
        raise SourceError(
            f"{path} has no vocabulary (model.vocab): expected a tokenizer.json of Hugging Face"
        )
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise SourceError(f"{path}: added_tokens is no list of objects")
    return pairs + [(token.get("content"), token.get("id")) for token in added]


def read_json_lines(path: str, pieces: Iterator[tuple[int, list[bytes]]]) -> Iterator[str | int]:
    """Yield the text or whole number of each line."""
    for first, lines in pieces:
        for number, line in enumerate(lines, first + 1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SourceError(
                    f"{path}: line {number} is no JSON: {error}; expected a text or a whole number a line"
                ) from None
            if isinstance(value, (dict, list)):
                refuse_json_line(path, number, value)
            if not isinstance(value, (str, int)) or isinstance(value, bool):
                raise SourceError(
                    f"{path}: line {number} is {value!r:.80}, expected a text or a whole number in JSON"
                )
            yield value


def refuse_json_line(path: str, number: int, value: dict[str, Any] | list[Any]) -> None:
    """Raise what says how keys are made of such lines."""
    members = list(value) if isinstance(value, dict) else list(range(len(value)))
    held = dict(zip(members, value.values() if isinstance(value, dict) else value, strict=True))
    texts = [name for name in members if isinstance(held[name], str)] or members or ["key"]
    script = (
        f"import json, sys; json.dump([json.loads(line)[{texts[0]!r}] for line in sys.stdin], sys.stdout)"
    )
    what = f"an object with {', '.join(map(repr, members)):.200}" if isinstance(value, dict) else "a list"
    raise SourceError(
        f"{path}: line {number} is {what} in JSON, and which part is the key it does not say: make a list of "
        f"the keys, such as `python3 -c {shlex.quote(script)} < {shlex.quote(path)} > keys.json`"
    )
