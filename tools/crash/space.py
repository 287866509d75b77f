"""No room: a small file system that fills up, a limit on file sizes, writes and reads that fall short."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from .scene import Outcome, Scene, attempt, in_child
from .tally import Tally

__all__ = ["file_size_limit", "full_disk", "mounted", "short_results"]

_PAGE = 4096
_ENOUGH = "4m"


@contextlib.contextmanager
def mounted(where: Path, *arguments: str) -> Iterator[None]:
    """Mount something at a new folder; `OSError` where that is not allowed."""
    where.mkdir()
    done = subprocess.run(["mount", *arguments, str(where)], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(errno.EPERM, f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def full_disk(folder: Path, quick: bool, seed: int) -> Tally:
    """A tmpfs of every size that is too small, grown after the build has failed."""
    tally = Tally("disk full")
    if os.geteuid() or shutil.which("mount") is None:
        tally.skipped = "mounting needs root"
        return tally
    for streamed in (False, True):
        disk = folder / f"disk-{streamed}"
        try:
            with mounted(disk, "-t", "tmpfs", "-o", f"size={_ENOUGH}", "qstore-crash"):
                _fill_up(disk, folder / f"side-{streamed}", streamed, quick, tally)
        except PermissionError as error:
            tally.skipped = str(error)
    return tally


def _fill_up(disk: Path, side: Path, streamed: bool, quick: bool, tally: Tally) -> None:
    scene = Scene(side, streamed)
    scene.move(disk / "out")
    # Metadata ends where the file does; the journal comes on top.
    pages = len(scene.expected) // _PAGE + 4
    stages = {name: files for name, files in scene.starts().items() if name != "halfway"}
    for name, files in stages.items():
        for room in range(1, pages, 3 if quick else 1):
            scene.begin(files)
            _resize(disk, f"{_used(disk) + room * _PAGE}")
            outcome = attempt(lambda: scene.build(overwrite=True))
            _resize(disk, _ENOUGH)
            _judge(
                scene, outcome, files.get(scene.final.name), f"{name}, {room} pages free", errno.ENOSPC, tally
            )


def _used(disk: Path) -> int:
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def _judge(scene: Scene, outcome: Outcome, old: bytes | None, label: str, number: int, tally: Tally) -> None:
    label = f"{label}, {'stream' if scene.streamed else 'file'}"
    tally.counts["injected"] += outcome.kind != "success"
    if outcome.kind == "error" and outcome.number != number:
        tally.wrong("other", f"{label}: expected {os.strerror(number)}, got {outcome.error}: {outcome.text}")
    scene.check(outcome, old, tally, label)
    scene.go_on(tally, label)


def file_size_limit(folder: Path, quick: bool, seed: int) -> Tally:
    """RLIMIT_FSIZE at many sizes: a write is cut short there, the next one fails."""
    tally = Tally("file size limit")
    for streamed in (False, True):
        scene = Scene(folder / f"limit-{streamed}", streamed)
        step = 4999 if quick else 499
        for limit in range(0, len(scene.expected) + step, step):
            scene.begin({})

            outcome = in_child(partial(_build_within, scene, limit), lambda pid, go: go())
            _judge(scene, outcome, None, f"limit {limit}", errno.EFBIG, tally)
    return tally


def _build_within(scene: Scene, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    scene.build()


def short_results(folder: Path, quick: bool, seed: int) -> Tally:
    """Every write and read of a build takes or gives only a part of what was asked."""
    tally = Tally("short writes and reads")
    chance = random.Random(seed)
    for streamed in (False, True):
        scene = Scene(folder / f"short-{streamed}", streamed)
        for label, files in scene.starts().items():
            for _ in range(3 if quick else 20):
                scene.begin(files)
                with _short_calls(chance, tally):
                    outcome = attempt(partial(scene.build, overwrite=True))
                if outcome.kind != "success":
                    tally.wrong("other", f"{label}: short results ended with {outcome.error}: {outcome.text}")
                scene.check(outcome, files.get(scene.final.name), tally, label)
                scene.go_on(tally, label)
    return tally


@contextlib.contextmanager
def _short_calls(chance: random.Random, tally: Tally) -> Iterator[None]:
    pwrite, pwritev, pread, preadv = os.pwrite, os.pwritev, os.pread, os.preadv

    def part(size: int) -> int:
        if size < 2 or chance.random() < 0.3:
            return size
        tally.counts["injected"] += 1
        return chance.randrange(1, size)

    def short_pwrite(fd: int, data: Any, offset: int) -> int:
        view = memoryview(data).cast("B")
        return pwrite(fd, view[: part(len(view))], offset)

    def short_pwritev(fd: int, pieces: Sequence[Any], offset: int) -> int:
        data = b"".join(pieces)
        return pwritev(fd, [data[: part(len(data))]], offset)

    def short_pread(fd: int, size: int, offset: int) -> bytes:
        return pread(fd, part(size), offset)

    def short_preadv(fd: int, buffers: Sequence[Any], offset: int, *flags: int) -> int:
        view = memoryview(buffers[0]).cast("B")
        return preadv(fd, [view[: part(len(view))]], offset, *flags)

    with (
        mock.patch.object(os, "pwrite", short_pwrite),
        mock.patch.object(os, "pwritev", short_pwritev),
        mock.patch.object(os, "pread", short_pread),
        mock.patch.object(os, "preadv", short_preadv),
    ):
        yield
