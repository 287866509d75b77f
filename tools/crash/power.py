"""Power cuts on a real file system: ext4 on a loop device, shut down at random moments."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .scene import Files, Outcome, Scene, in_child
from .space import mounted
from .tally import Tally

__all__ = ["cuts"]

# _IOR('X', 125, __u32) of linux/ext4.h: from now on nothing reaches the disk, not even the journal.
_SHUTDOWN = 0x8004587D
_FLAGS = {"default": 0, "log flushed": 1, "log not flushed": 2}
_IMAGE_BYTES = 24 << 20


def cuts(folder: Path, quick: bool, seed: int) -> Tally:
    """Shut the file system down under a build, mount it again, check, go on."""
    tally = Tally("power cuts on ext4")
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    try:
        with _file_system(image, disk):
            _shut_down(disk, 2)
    except (OSError, subprocess.CalledProcessError) as error:
        tally.skipped = f"no ext4 on a loop device can be shut down here: {error}"
        return tally
    chance = random.Random(seed)
    for streamed in (False, True):
        scene = Scene(folder / f"side-{streamed}", streamed)
        starts = scene.starts()
        scene.move(disk / "out")
        seconds = _duration(scene, image)
        for name, files in starts.items():
            for number in range(4 if quick else 60):
                wait = None if number % 4 == 3 else chance.uniform(0, seconds)
                _cut(
                    scene,
                    files,
                    image,
                    list(_FLAGS)[number % 3],
                    wait,
                    chance,
                    tally,
                    f"{'stream' if streamed else 'file'}, {name}",
                )
    return tally


@contextlib.contextmanager
def _file_system(image: Path, disk: Path) -> Iterator[None]:
    """A new and empty ext4."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", str(image)], check=True)
    with _loop(image, disk):
        yield


@contextlib.contextmanager
def _loop(image: Path, disk: Path) -> Iterator[None]:
    disk.rmdir()
    with mounted(disk, "-o", "loop", str(image)):
        yield


def _shut_down(disk: Path, flag: int) -> None:
    fd = os.open(disk, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flag))
    finally:
        os.close(fd)


def _duration(scene: Scene, image: Path) -> float:
    with _file_system(image, scene.out.parent):
        scene.begin({})
        begun = time.perf_counter()
        in_child(scene.build, lambda pid, go: go())
        return time.perf_counter() - begun


def _cut(
    scene: Scene,
    files: Files,
    image: Path,
    flag: str,
    wait: float | None,
    chance: random.Random,
    tally: Tally,
    label: str,
) -> None:
    """Cut after so many seconds; None: as soon as the build has reported success."""
    disk = scene.out.parent
    with _file_system(image, disk):
        scene.begin(files)
        os.sync()
        outcome = _build_until(scene, lambda: _shut_down(disk, _FLAGS[flag]), wait, chance)
    label = f"{label}, {flag}, {'after the end' if wait is None else f'after {wait:.4f} s'}"
    tally.counts["injected"] += 1
    tally.facts["cut before the end"] = tally.facts.get("cut before the end", 0) + (outcome.kind != "success")
    with _loop(image, disk):
        scene.check(outcome, files.get(scene.final.name), tally, label)
        scene.go_on(tally, label)


def _build_until(scene: Scene, cut: Callable[[], None], wait: float | None, chance: random.Random) -> Outcome:
    def meanwhile(pid: int, go: Callable[[], object]) -> None:
        go()
        if wait is None:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        else:
            time.sleep(wait / 2)
            if chance.random() < 0.3:  # some of what is unsynced has often reached the disk
                os.sync()
            time.sleep(wait / 2)
        cut()

    return in_child(lambda: scene.build(overwrite=True), meanwhile)
