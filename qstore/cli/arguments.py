"""Arguments that several commands take, and how their text is read."""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import QStoreError
from ..system.stand_ins import HEAD_BYTES, stand_in
from .failures import UsageError

if TYPE_CHECKING:
    from ..reading.stored_keys import StoredKeys
    from ..store import Store

__all__ = [
    "Command",
    "add_against",
    "add_asked_keys",
    "add_json",
    "add_quiet",
    "add_raw",
    "add_rows",
    "add_step",
    "add_tensor",
    "add_threads",
    "against_of",
    "any_slice",
    "asked_keys",
    "at_least",
    "compared_keys_of",
    "compared_step_of",
    "consecutive",
    "no_word",
    "one_row",
    "row_key",
    "rows_of_words",
    "scaling_of",
    "source_of",
    "step_of",
    "stored_keys",
    "tensor_of",
]


class Command(NamedTuple):
    """What a module of this package gives the parser.

    Attributes
    ----------
    description, examples : str
        Shown above and below the arguments in the help.
    add_arguments : callable
        Adds the command's arguments to its parser.
    run : callable
        Does it, and returns the exit status.
    """

    description: str
    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int]


def add_threads(parser: argparse.ArgumentParser) -> None:
    """``--threads``."""
    parser.add_argument(
        "--threads",
        metavar="N",
        type=at_least(1),
        help="default: QSTORE_THREADS, or the number of processors",
    )


def at_least(least: int) -> Callable[[str], int]:
    """Reader of whole numbers from `least` on."""

    def whole_number(text: str) -> int:
        number = int(text) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text) else least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return number

    return whole_number


def row_key(text: str) -> int | slice:
    """A row number, or a slice as :func:`any_slice` reads it.

    Examples
    --------
    >>> row_key("-1"), row_key("2:10:3"), row_key("-5:")
    (-1, slice(2, 10, 3), slice(-5, None, None))
    """
    return (
        any_slice(text) if ":" in text else _whole(text, text, _row_or_key("a row number, or rows A:B", text))
    )


def one_row(text: str) -> int:
    """A row number."""
    return _whole(text, text, _row_or_key("a row number", text))


def no_word(text: str) -> str:
    """Nothing: a word where options are expected."""
    raise argparse.ArgumentTypeError(
        f"{text!r} is no option: expected the query as --row R, --key K (--key {shlex.quote(text)}), --keys "
        f"F.txt or --vector F.npy"
    )


def _row_or_key(expected: str, text: str) -> str:
    return f"{expected}; a row is found by its key with --key {shlex.quote(text.strip())}"


def any_slice(text: str) -> slice:
    """``A:B`` or ``A:B:STEP``, each part optional and possibly negative, as in Python."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not a slice A:B or A:B:STEP")
    bounds = [_whole(part, text, "a slice A:B or A:B:STEP") if part.strip() else None for part in parts]
    if bounds[2:] == [0]:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} has step 0")
    return slice(*bounds)


def consecutive(text: str) -> slice:
    """A slice without a step."""
    if ":" not in text:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not a range of rows A:B")
    found = any_slice(text)
    if found.step not in (None, 1):
        raise argparse.ArgumentTypeError(f"{text.strip()!r} has a step: only consecutive rows can be taken")
    return found


def _whole(part: str, text: str, expected: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", part):
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not {expected}")
    return int(part)


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON value instead of text")


def add_quiet(parser: argparse.ArgumentParser, silenced: str = "no progress bar and no summary") -> None:
    """``-q``."""
    parser.add_argument("-q", "--quiet", action="store_true", help=silenced)


def add_tensor(parser: argparse.ArgumentParser) -> None:
    """``--tensor``, ``--join``, ``--scale`` and ``--as-stored``."""
    parser.add_argument("--tensor", metavar="NAME", help="which tensor of SRC, if it holds several")
    parser.add_argument(
        "--join",
        action="store_true",
        help="--tensor is a pattern, and all tensors of SRC that match are one matrix, in the order of the "
        "number in their names: --tensor 'table.shard_*.weight' --join",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--scale",
        metavar="TENSOR",
        help="which tensor of SRC scales the codes of this one, where its name does not tell",
    )
    group.add_argument(
        "--as-stored",
        action="store_true",
        help="take the numbers of a quantized weight as they are, without the scales beside it",
    )


def tensor_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_tensor` read, as the library takes it."""
    if arguments.join and arguments.tensor is None:
        raise UsageError("--join goes with --tensor PATTERN, which says what to join")
    return {"tensor": arguments.tensor, "join": arguments.join, **scaling_of(arguments)}


def scaling_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same without the tensor."""
    return {"scale": arguments.scale, "as_stored": arguments.as_stored}


def add_raw(parser: argparse.ArgumentParser) -> None:
    """``--raw DTYPE:DIM[:OFFSET]``."""
    parser.add_argument(
        "--raw",
        metavar="DTYPE:DIM[:OFFSET]",
        help="SRC is plain rows of DIM values of this type, such as float32:768, from byte OFFSET on",
    )


def add_keys(parser: argparse.ArgumentParser) -> None:
    """``--keys FILE``, ``--no-keys``, ``--key-encoding`` and ``--missing-keys``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--keys",
        metavar="FILE",
        help="a key for each row of SRC: text, one a line (vocab.txt); a JSON list, vocab.json, "
        "tokenizer.json or JSON lines; a vocabulary of SentencePiece, fairseq or tiktoken, or the one in a "
        ".gguf file, such as SRC; or whole numbers in a .npy file",
    )
    group.add_argument(
        "--no-keys",
        action="store_true",
        help="leave out the keys that SRC itself has (word vectors, Parquet)",
    )
    parser.add_argument(
        "--key-encoding",
        metavar="ENCODING[:ERRORS]",
        help="how the words of SRC, or the lines of FILE, are text: latin-1, gb18030, …; utf-8:replace keeps "
        "those that are none with a mark in them (default: utf-8, and such words are an error)",
    )
    parser.add_argument(
        "--missing-keys",
        choices=("error", "none"),
        default="error",
        help="stop where rows have no key, as those behind the last of fewer keys (default), or let them "
        "have none",
    )


def keys_of(arguments: argparse.Namespace) -> Any:
    """What :func:`add_keys` read, as the library takes it."""
    return False if arguments.no_keys else arguments.keys


def compared_keys_of(arguments: argparse.Namespace) -> Any:
    """The same where :func:`add_against` says what to compare."""
    keys = keys_of(arguments)
    told = keys is not None or arguments.key_encoding is not None or arguments.missing_keys != "error"
    if arguments.against is None and told:
        raise UsageError(
            "--keys, --no-keys, --key-encoding and --missing-keys say what to compare keys with: give "
            "--against SRC too"
        )
    return keys


def add_against(parser: argparse.ArgumentParser) -> None:
    """``--against SRC…`` and what says which part of it."""
    parser.add_argument("--against", metavar="SRC", nargs="+", help="what the store was built from")
    add_tensor(parser)
    add_raw(parser)
    add_rows(parser)


def against_of(arguments: argparse.Namespace) -> Any:
    """What ``--against`` names, as a source; None where it is not there."""
    told = (
        arguments.tensor,
        arguments.rows,
        arguments.join or None,
        arguments.scale,
        arguments.as_stored or None,
    )
    if arguments.against is None and told != (None,) * len(told):
        raise UsageError(
            "--tensor, --join, --scale, --as-stored and --rows say what of SRC to compare: "
            "give --against SRC too"
        )
    if arguments.raw is not None and len(arguments.against or ()) != 1:
        raise UsageError("--raw goes with one --against SRC")
    paths = arguments.against
    return paths if paths is None or len(paths) > 1 else source_of(paths[0], arguments.raw)


def source_of(path: str, raw: str | None) -> Any:
    """What `path` is to be built from or compared with: a file, or plain rows as ``--raw`` says."""
    if raw is None:
        return path
    from ..sources import RawSource

    return RawSource.from_text(path, raw)


def add_step(parser: argparse.ArgumentParser) -> None:
    """``--step S`` and ``--zero-point Z``."""
    parser.add_argument(
        "--step",
        metavar="S",
        type=_step,
        help="SRC holds whole numbers that fit 8 bits: they are stored as they are, without any rounding, "
        "and read as number times S; what does not fit is an error",
    )
    parser.add_argument(
        "--zero-point",
        metavar="Z",
        type=_zero_point,
        help="with --step: numbers may be Z - 128 to Z + 127, and are read as (number - Z) times S; "
        "default: 0",
    )


def step_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_step` read, as the library takes it."""
    if arguments.step is None and arguments.zero_point is not None:
        raise UsageError("--zero-point goes with --step: say with which step, for example --step 1")
    return {"step": arguments.step, "zero_point": arguments.zero_point or 0}


def compared_step_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same where :func:`add_against` says what to compare."""
    if arguments.against is None and arguments.step is not None:
        raise UsageError("--step says how SRC was stored: give --against SRC too")
    return step_of(arguments)


def _step(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")
    return found


def _zero_point(text: str) -> int:
    found = _whole(text, text, "a whole number")
    if not -128 <= found <= 255:
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is not from -128 to 255")
    return found


def add_rows(parser: argparse.ArgumentParser) -> None:
    """``--rows``."""
    parser.add_argument("--rows", metavar="A:B", type=consecutive, help="only these rows of SRC")


def _number(store: Store, word: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,4000}", word):
        raise UsageError(f"{store.path}: the keys of this store are whole numbers, and {word!r:.80} is none")
    return int(word)


def add_asked_keys(parser: Any, what: str) -> None:
    """``--key K`` and ``--keys FILE``, which ask for rows by their keys."""
    parser.add_argument("--key", dest="asked", metavar="K", action="append", default=[], help=what)
    parser.add_argument(
        "--keys", dest="key_file", metavar="FILE", help="a file of such keys, one a line; - is stdin"
    )


def asked_keys(arguments: argparse.Namespace) -> list[str]:
    """What :func:`add_asked_keys` read: those of the command line, then those of the file."""
    return [*arguments.asked, *(lines_of(arguments.key_file) if arguments.key_file is not None else ())]


def lines_of(path: str) -> list[str]:
    """The lines of a file of keys; of stdin, where it is called -."""
    raw = sys.stdin.buffer.read() if path == "-" else _read(path)
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise QStoreError(f"{path}: line {line} is not UTF-8: expected keys in UTF-8, one a line") from None
    content = content.removeprefix("\ufeff").replace("\r\n", "\n")
    return content.removesuffix("\n").split("\n") if content else []


def _read(path: str) -> bytes:
    from ..sources.files import check_no_url

    check_no_url(path)
    with open(path, "rb") as file:
        content = file.read()
    other = stand_in(path, content[:HEAD_BYTES])
    if other is not None:
        raise QStoreError(f"{path} is {other}")
    if path.lower().endswith((".json", ".jsonl", ".ndjson", ".npy", ".gguf")):
        raise QStoreError(f"{path} is no text file by its name: expected keys as text in UTF-8, one a line")
    return content


def stored_keys(store: Store) -> StoredKeys:
    """The keys of a store that must have some."""
    try:
        return store.keys()
    except IndexError as error:
        raise QStoreError(str(error)) from None


def rows_of_words(store: Store, words: list[str]) -> list[int]:
    """Rows by keys; all must be known before the first one is written."""
    if not words:
        return []
    try:
        keys = [_number(store, word) for word in words] if store.key_kind == "integer" else words
        rows: list[int] = store.rows_of(keys).tolist()
    except IndexError as error:
        raise QStoreError(str(error)) from None
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, QStoreError) else UsageError(f"{store.path}: {error}") from None
    return rows
