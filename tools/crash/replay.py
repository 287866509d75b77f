"""Power cuts on a model of a disk: of what was not synced, any part may have arrived.

A build's operations are recorded; a cut leaves what was synced before it, and of the writes since then
a random choice of sectors. Names are kept in order: of what was not synced with the directory, a first
part has happened. A sync that fails loses what it should have written for good, although it can still
be read until then: that is what Linux does with the pages of a failed write-back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

from qstore.system import durable_files

from .scene import Files, Outcome, Scene, attempt
from .tally import Tally

__all__ = ["cuts", "failed_syncs"]

_SECTOR = 512


class _Step(NamedTuple):
    kind: Literal["write", "size", "sync", "lost", "create", "rename", "unlink", "directory"]
    file: int = 0
    offset: int = 0
    data: bytes = b""
    name: str = ""
    other: str = ""


@dataclass
class _Record:
    """The operations of one or more builds in a folder, in order."""

    folder: Path
    steps: list[_Step] = field(default_factory=list)
    failing_sync: int = 0
    """Number of the sync that fails, from 1; 0: none."""
    syncs: int = 0

    def note(self, *step: Any, **fields: Any) -> None:
        self.steps.append(_Step(*step, **fields))

    def sync(self, fd: int) -> None:
        """A sync has been asked for; raises if it is the one that fails."""
        self.syncs += 1
        directory = os.path.isdir(f"/proc/self/fd/{fd}")
        if self.syncs == self.failing_sync:
            if not directory:
                self.note("lost", _number(fd))
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.note("directory") if directory else self.note("sync", _number(fd))

    def begin(self, files: Files) -> None:
        """These files are there already, safely."""
        for name, content in files.items():
            number = os.stat(self.folder / name).st_ino
            self.note("create", number, name=name)
            self.note("write", number, 0, content)
            self.note("sync", number)
        self.note("directory")


def _number(fd: int) -> int:
    return os.fstat(fd).st_ino


@contextlib.contextmanager
def _recorded(record: _Record) -> Iterator[None]:
    """Note what the code inside does to the files of the folder."""
    real = {name: getattr(os, name) for name in ("open", "pwrite", "ftruncate", "replace", "unlink", "fsync")}
    # The numbers of removed files would be given again: they stay open.
    kept: list[int] = []

    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        new = bool(flags & os.O_CREAT) and not os.path.exists(path)
        fd: int = real["open"](path, flags, *rest, **options)
        if new:
            record.note("create", _number(fd), name=os.path.basename(path))
            kept.append(os.dup(fd))
        return fd

    def pwrite(fd: int, data: Any, offset: int) -> int:
        raw = bytes(memoryview(data).cast("B"))
        record.note("write", _number(fd), offset, raw)
        written: int = real["pwrite"](fd, raw, offset)
        return written

    def pwritev(fd: int, pieces: Any, offset: int) -> int:
        return pwrite(fd, b"".join(pieces), offset)

    def ftruncate(fd: int, size: int) -> None:
        record.note("size", _number(fd), size)
        real["ftruncate"](fd, size)

    def allocate(fd: int, size: int) -> None:
        if size > os.fstat(fd).st_size:
            ftruncate(fd, size)

    def replace(source: Any, target: Any) -> None:
        real["replace"](source, target)
        record.note("rename", name=os.path.basename(source), other=os.path.basename(target))

    def unlink(path: Any) -> None:
        real["unlink"](path)
        record.note("unlink", name=os.path.basename(path))

    def sync(fd: int) -> None:
        record.sync(fd)

    changed = {
        "open": opened,
        "pwrite": pwrite,
        "pwritev": pwritev,
        "ftruncate": ftruncate,
        "replace": replace,
        "unlink": unlink,
    }
    with contextlib.ExitStack() as stack:
        for name, function in {**changed, "fsync": sync, "fdatasync": sync}.items():
            stack.enter_context(mock.patch.object(os, name, function))
        stack.enter_context(mock.patch.object(durable_files, "allocate", allocate))
        try:
            yield
        finally:
            for fd in kept:
                os.close(fd)


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    pending: list[_Step] = field(default_factory=list)

    def apply(self, step: _Step) -> None:
        if step.kind == "size":
            missing = step.offset - len(self.content)
            del self.content[step.offset :]
            self.content.extend(bytes(max(0, missing)))
        else:
            end = step.offset + len(step.data)
            self.content.extend(bytes(max(0, end - len(self.content))))
            self.content[step.offset : end] = step.data

    def settle(self) -> None:
        """All of it has arrived."""
        for step in self.pending:
            self.apply(step)
        self.pending.clear()

    def cut(self, chance: random.Random) -> None:
        """A random part of it has arrived."""
        likely = chance.choice([0, 0.1, 0.5, 0.9, 1])
        for step in self.pending:
            if step.kind == "size":
                # Shortening is journaled by the file system: what was written later never comes before it.
                if step.offset < len(self.content) and chance.random() >= likely:
                    return
                self.apply(step)
                continue
            for piece in _sectors(step):
                if chance.random() < likely:
                    self.apply(piece)


def _sectors(step: _Step) -> Iterator[_Step]:
    start = 0
    while start < len(step.data):
        stop = start + _SECTOR - (step.offset + start) % _SECTOR
        yield step._replace(offset=step.offset + start, data=step.data[start:stop])
        start = stop


def _after_cut(steps: list[_Step], chance: random.Random) -> Files:
    """A folder as the disk may hold it when the power goes behind these steps."""
    files: dict[int, _File] = {}
    names: list[_Step] = []
    safe = 0
    for step in steps:
        if step.kind in ("write", "size"):
            files.setdefault(step.file, _File()).pending.append(step)
        elif step.kind == "sync":
            files.setdefault(step.file, _File()).settle()
        elif step.kind == "lost":
            files.setdefault(step.file, _File()).pending.clear()
        elif step.kind == "directory":
            safe = len(names)
        else:
            names.append(step)
    folder: dict[str, int] = {}
    for step in names[: chance.randint(safe, len(names))]:
        if step.kind == "create":
            folder[step.name] = step.file
        elif (number := folder.pop(step.name, None)) is not None and step.kind == "rename":
            folder[step.other] = number
    for file in files.values():
        file.cut(chance)
    return {name: bytes(files[number].content) if number in files else b"" for name, number in folder.items()}


def _run(scene: Scene, record: _Record, **options: Any) -> Outcome:
    with _recorded(record):
        return attempt(lambda: scene.build(overwrite=True, **options))


def _scenes(folder: Path) -> Iterator[tuple[str, Scene, Files]]:
    for streamed in (False, True):
        scene = Scene(folder / f"replay-{streamed}", streamed)
        for name, files in scene.starts().items():
            yield f"{'stream' if streamed else 'file'}, {name}", scene, files
    scene = Scene(folder / "replay-packed", packed=True)
    yield "packed file, halfway", scene, scene.halfway()
    yield "packed file, failed", scene, scene.failed()


def cuts(folder: Path, quick: bool, seed: int) -> Tally:
    """Cut the power behind every operation of a build, several times each, and once it has succeeded."""
    tally = Tally("power cuts on a model")
    chance = random.Random(seed)
    for label, scene, files in _scenes(folder):
        scene.begin(files)
        record = _Record(scene.out)
        record.begin(files)
        first = len(record.steps)
        success = _run(scene, record)
        if success.kind != "success":
            raise RuntimeError(f"the undisturbed build failed: {success}")
        last = len(record.steps)
        for end, times in _ends(first, last, quick):
            # Where the end is reached, the build has claimed success: the file must be there for good.
            outcome = success if end == last else Outcome("killed")
            for _ in range(times):
                _cut(scene, record.steps[:end], outcome, files, chance, tally, f"{label}, step {end - first}")
        for _ in range(3 if quick else 20):
            _cut(scene, record.steps, success, files, chance, tally, f"{label}, after the end")
    return tally


def _ends(first: int, last: int, quick: bool) -> Iterator[tuple[int, int]]:
    """Where to cut, and how often: the last steps make the file a store, so they get more."""
    for end in range(first, last + 1):
        if end > last - 8:
            yield end, 6 if quick else 30
        elif not quick or end % 3 == 0:
            yield end, 1 if quick else 6


def _cut(
    scene: Scene,
    steps: list[_Step],
    outcome: Outcome,
    start: Files,
    chance: random.Random,
    tally: Tally,
    label: str,
) -> None:
    scene.begin(_after_cut(steps, chance))
    tally.counts["injected"] += 1
    scene.check(outcome, start.get(scene.final.name), tally, label)
    scene.go_on(tally, label)


def failed_syncs(folder: Path, quick: bool, seed: int) -> Tally:
    """A sync fails, then the power goes; or the build is run again, succeeds, and then the power goes."""
    tally = Tally("failed syncs")
    chance = random.Random(seed)
    for label, scene, files in _scenes(folder):
        number = 0
        while True:
            number += 1
            scene.begin(files)
            record = _Record(scene.out, failing_sync=number)
            record.begin(files)
            failed = _run(scene, record)
            if record.syncs < number:
                break
            where = f"{label}, sync {number} fails"
            tally.counts["injected"] += 1
            scene.check(failed, files.get(scene.final.name), tally, where)
            end = len(record.steps)
            again = _run(scene, record)
            for _ in range(1 if quick else 4):
                _cut(scene, record.steps[:end], failed, files, chance, tally, f"{where}, cut")
                _cut(scene, record.steps, again, files, chance, tally, f"{where}, cut after going on")
    return tally
