"""The record of a build of shards: it lies beside them until they are published, and says what they are."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..engine.nonfinite import NonFiniteValues
from ..errors import ExistsError, ResumeError
from ..format.manifest import MANIFEST
from ..system import durable_files
from ..system.messages import warn
from ..writing.origin import parameter_word

__all__ = ["RECORD", "Start", "Told", "add_finished", "begin", "mark_failed", "shard_name", "start_of"]

RECORD = f"{MANIFEST}.building"
"""While this file is there, every shard beside it is one of the build that it describes."""

_FAILED = "failed"


def shard_name(number: int) -> str:
    """File name of a shard: in order for those who sort names as text, up to 100,000 shards."""
    return f"part-{number:05}.h5"


class Told(NamedTuple):
    """What the build of a shard had to say: a line of the record, written when the shard is published."""

    nonfinite: NonFiniteValues
    warnings: tuple[str, ...]

    def line(self, name: str) -> bytes:
        """As the record is read, whatever stands before it: an interrupted line has no end."""
        told = {"shard": name, "nonfinite": self.nonfinite.encoded().decode(), "warnings": self.warnings}
        return b"\n" + json.dumps(told).encode()


@dataclass(frozen=True)
class Start:
    """How a build of shards begins.

    Attributes
    ----------
    fresh : bool
        What is in the directory is removed.
    finished : dict
        What shards have told that are finished ones of a file that has not been changed, by their names.
    failed : bool
        The build that is gone on with had failed because of its data: it does not insist on its keys.
    reason : str
        Why shards of an unfinished build are of no use; empty where there are none.
    """

    fresh: bool
    finished: dict[str, Told] = field(default_factory=dict)
    failed: bool = False
    reason: str = ""


def start_of(place: Path, parameters: Mapping[str, Any], overwrite: bool, resume: bool) -> Start:
    """How a build with these parameters begins in `place`, which is looked at only.

    Raises
    ------
    ExistsError
        There is a store, and it may not be replaced.
    ResumeError
        An interrupted build had other parameters.
    """
    found, finished = _recorded(place / RECORD)
    if found is None:
        if not overwrite:
            _check_empty(place)
        return Start(fresh=True)
    if not resume:
        return Start(fresh=True)
    failed = found.pop(_FAILED, False)
    wanted = _as_json(parameters)
    (old, old_time), (new, new_time) = _without_time(found), _without_time(wanted)
    differing = [
        name
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and not (failed and _is_harmless(name, old.get(name)))
    ]
    words = ", ".join(dict.fromkeys(map(parameter_word, differing)))
    if differing and not failed:
        raise ResumeError(
            f"the build of {place} was begun with other parameters: {words} differ; restore "
            f"them, or start again (--restart, resume=False)"
        )
    if differing:
        return Start(fresh=True, reason=f"the build that failed had other parameters: {words}")
    if old_time != new_time:
        return Start(fresh=True, reason="the source has been changed meanwhile")
    return Start(fresh=False, finished=finished if new_time is not None else {}, failed=bool(failed))


def _is_harmless(name: str, found: Any) -> bool:
    """Whether finished shards are as good with another value: what was an error did not come up in them."""
    return name in ("nonfinite", "missing_keys", "key_errors") and found in ("error", "strict")


def begin(place: Path, parameters: Mapping[str, Any], start: Start) -> None:
    """Make the directory ready."""
    record = place / RECORD
    with durable_files.output_errors(place):
        place.mkdir(exist_ok=True)
        if start.reason:
            warn(f"{place}: begins again: {start.reason}")
        if start.fresh:
            # The manifest first, and the record last: no step of this leaves shards that could be mistaken.
            for path in (place / MANIFEST, record, *place.glob("part-[0-9]*.h5*")):
                durable_files.free_path(path)
            durable_files.sync_directory(place)
        if _recorded(record)[0] != _as_json(parameters):
            _write(record, parameters, start.finished)


def add_finished(place: Path, name: str, told: Told) -> None:
    """Note that this shard has been published."""
    with durable_files.output_errors(place), open(place / RECORD, "ab") as record:
        record.write(told.line(name))


def mark_failed(place: Path, parameters: Mapping[str, Any]) -> None:
    """Note that the build ends because of its data: who goes on may change what it is built of."""
    with contextlib.suppress(OSError):  # whatever made it fail is the error to raise
        _, finished = _recorded(place / RECORD)
        _write(place / RECORD, {**parameters, _FAILED: True}, finished)


def _write(record: Path, content: Mapping[str, Any], finished: Mapping[str, Told]) -> None:
    with durable_files.atomic_output(record) as file:
        file.write(json.dumps(content).encode())
        for name, told in finished.items():
            file.write(told.line(name))


def _as_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(parameters))
    return found


def _without_time(parameters: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    rest = dict(parameters)
    return rest, rest.pop("stamp", None)


def _recorded(record: Path) -> tuple[dict[str, Any] | None, dict[str, Told]]:
    """Parameters of the build that was begun, and the shards that it finished; None without a good record.

    A shard that is finished but not in the record is built again: what it told is lost.
    """
    try:
        first, *lines = record.read_bytes().split(b"\n")
        found = json.loads(first)
    except (FileNotFoundError, ValueError):
        return None, {}
    finished = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            nonfinite = NonFiniteValues.decoded(told["nonfinite"])
            if nonfinite is not None:
                finished[told["shard"]] = Told(nonfinite, tuple(map(str, told["warnings"])))
    return (found if isinstance(found, dict) else None), finished


def _check_empty(place: Path) -> None:
    for path in (place / MANIFEST, place / shard_name(0)):
        if os.path.lexists(path):
            raise ExistsError(
                errno.EEXIST,
                f"{path} exists; pass overwrite=True (--force) to replace the shards in {place}, or choose "
                f"another directory",
                str(path),
            )
