"""``qstore completion``: words of the command line that a shell completes, as a script for that shell."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .arguments import Command
from .parser import COMMANDS, command_parser
from .printing import print_line

__all__ = ["COMMAND"]

_DESCRIPTION = """\
Print a script that lets a shell complete commands, options and their values. It is made from the commands
as they are: run this again after an upgrade, or have the shell run it whenever it starts."""

_EXAMPLES = """\
  eval "$(qstore completion bash)"                                      in ~/.bashrc
  eval "$(qstore completion zsh)"                                       in ~/.zshrc, after compinit
  qstore completion fish > ~/.config/fish/completions/qstore.fish       once"""


_FIRST_WORDS = {**COMMANDS, "help": "tell more about a command"}


@dataclass(frozen=True)
class _Option:
    """An option, and what follows it: nothing, some word, or one or several of `choices`."""

    names: list[str]
    summary: str
    takes_word: bool
    takes_several: bool
    choices: list[str]


@dataclass(frozen=True)
class _Words:
    """What a command takes: options, and words of which `choices` are known; files where there are none."""

    options: list[_Option]
    choices: list[str]


def _words_of(name: str) -> _Words:
    options, choices = [], []
    for action in command_parser(name)._actions:
        known = [str(choice) for choice in action.choices or ()]
        if action.option_strings:
            summary = (action.help or "") % vars(action)
            names = [*action.option_strings]
            options.append(_Option(names, summary, action.nargs != 0, action.nargs in ("+", "*"), known))
        else:
            choices += known
    return _Words(options, choices)


def _all_words() -> dict[str, _Words]:
    return {name: _words_of(name) for name in COMMANDS} | {"help": _Words([], [*COMMANDS])}


def _cases(words: _Words) -> Iterator[tuple[str, list[str]]]:
    """Words behind which a value stands, as a pattern of bash and zsh, and what it may be."""
    for option in words.options:
        if option.takes_word:
            before = [*option.names, *(option.choices if option.takes_several else ())]
            yield "|".join(before), option.choices


def _bash() -> Iterator[str]:
    yield "_qstore() {"
    yield "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words="
    yield "    if [[ $current == = ]]; then current=; fi  # bash splits --option=value"
    yield "    if [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi"
    yield "    case $COMP_CWORD:${COMP_WORDS[1]} in"
    yield f"    1:*) words={shlex.quote(' '.join([*_FIRST_WORDS, '--help', '--version']))} ;;"
    for name, words in _all_words().items():
        names = [name for option in words.options for name in option.names]
        yield f"    *:{name})"
        yield "        case $before:$current in"
        for pattern, choices in _cases(words):
            yield f"        {pattern.replace('|', ':*|')}:*) words={shlex.quote(' '.join(choices))} ;;"
        yield f"        *:-*) words={shlex.quote(' '.join(names))} ;;"
        yield f"        *) words={shlex.quote(' '.join(words.choices))} ;;"
        yield "        esac ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield "complete -o default -F _qstore qstore  # files where there is nothing else"


def _zsh() -> Iterator[str]:
    yield "#compdef qstore"
    yield "_qstore() {"
    yield "    local -a found"
    yield "    if (( CURRENT == 2 )); then"
    yield f"        found=({_described(_FIRST_WORDS)})"
    yield "        _describe command found"
    yield "        return"
    yield "    fi"
    yield "    case $words[2] in"
    for name, words in _all_words().items():
        options = {name: option.summary for option in words.options for name in option.names}
        yield f"    ({name})"
        yield "        case $words[CURRENT-1]:$words[CURRENT] in"
        for pattern, choices in _cases(words):
            yield f"        ({pattern.replace('|', ':*|')}:*) found=({shlex.join(choices)}) ;;"
        yield f"        (*:-*) found=({_described(options)}) ;;"
        yield f"        (*) found=({shlex.join(words.choices)}) ;;"
        yield "        esac ;;"
    yield "    esac"
    yield "    if (( $#found )); then _describe word found; else _files; fi"
    yield "}"
    yield 'if [[ $funcstack[1] == _qstore ]]; then _qstore "$@"; else compdef _qstore qstore; fi'


def _described(words: dict[str, str]) -> str:
    """``word:what it means``, as _describe of zsh takes it."""
    return shlex.join(f"{word}:{summary}" for word, summary in words.items())


def _fish() -> Iterator[str]:
    yield "complete -c qstore -e"
    for name, summary in _FIRST_WORDS.items():
        yield f"complete -c qstore -n __fish_use_subcommand -x -a {name} -d {_fish_quoted(summary)}"
    for name, words in _all_words().items():
        begin = f"complete -c qstore -n '__fish_seen_subcommand_from {name}'"
        if words.choices:
            yield f"{begin} -x -a '{' '.join(words.choices)}'"
        for option in words.options:
            names = " ".join(f"-{'l' if one[1] == '-' else 's'} {one.lstrip('-')}" for one in option.names)
            values = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" * option.takes_word
            yield f"{begin} {names}{values} -d {_fish_quoted(option.summary)}"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


_SCRIPTS: dict[str, Callable[[], Iterator[str]]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=_SCRIPTS, help=f"one of {', '.join(_SCRIPTS)}")


def _run(arguments: argparse.Namespace) -> int:
    for line in _SCRIPTS[arguments.shell]():
        print_line(line)
    return 0


COMMAND = Command(
    description=_DESCRIPTION,
    examples=_EXAMPLES,
    add_arguments=_add_arguments,
    run=_run,
)
