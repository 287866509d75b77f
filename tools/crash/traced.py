"""Faults at a build's system calls, injected by strace: SIGKILL at every one, errors at those that matter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .scene import Files, Outcome, Scene, in_child
from .tally import Tally

__all__ = ["errors", "kills", "why_not"]

_LINE = re.compile(r"^(\d+) +(\w+)\(")

# What each call may honestly report. EINTR and the like are retried by Python, so success is right, too.
_ERRORS = {
    "pwrite64": ["EIO", "ENOSPC", "EINTR", "EDQUOT"],
    "pwritev2": ["EIO", "ENOSPC", "EINTR", "EDQUOT"],
    "fdatasync": ["EIO", "ENOSPC", "EINTR", "EDQUOT"],
    "fsync": ["EIO", "ENOSPC", "EINTR", "EDQUOT"],
    "rename": ["EIO", "ENOSPC", "EINTR", "EDQUOT", "EACCES"],
    "renameat2": ["EIO", "ENOSPC", "EINTR", "EDQUOT", "EACCES"],
    "ftruncate": ["EIO", "ENOSPC", "EINTR", "EDQUOT"],
    "fallocate": ["EIO", "ENOSPC", "EINTR", "EDQUOT", "EOPNOTSUPP", "ENOSYS"],
    "flock": ["EIO", "EINTR", "ENOLCK", "EAGAIN"],
    "openat": ["EIO", "EMFILE", "ENOSPC", "EINTR"],
    "unlink": ["EIO", "EACCES"],
    "pread64": ["EIO", "EINTR"],
    "preadv2": ["EIO", "EINTR"],
    "close": ["EIO"],
}
# Errors that stay once they have come.
_LASTING = {
    "pwrite64": ["EIO", "ENOSPC"],
    "pwritev2": ["EIO", "ENOSPC"],
    "fdatasync": ["EIO"],
    "fsync": ["EIO"],
    "openat": ["EMFILE"],
}


def why_not() -> str:
    """Reason why strace cannot be used; empty if it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = _traced(lambda: None, [], Path(os.devnull))
    return "" if tried is not None else "strace may not attach to a process here"


def _traced(action: Callable[[], object], options: list[str], log: Path) -> Outcome | None:
    """Run a build under strace; None where it cannot attach.

    The child waits until strace is attached, so only the build's own calls are seen and counted.
    """
    attached = False

    def meanwhile(pid: int, go: Callable[[], object]) -> None:
        nonlocal attached
        command = ["strace", "-f", "-o", str(log), *options, "-p", str(pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            line = tracer.stderr.readline() if tracer.stderr else ""
            attached = "attached" in line
            go()
            tracer.communicate()  # it writes a line for each thread: closing the pipe now would kill it

    outcome = in_child(action, meanwhile)
    return outcome if attached else None


def _positions(scene: Scene, files: Files, log: Path) -> Counter[str]:
    """How often an undisturbed build issues each call, in the thread that issues it most."""
    scene.begin(files)
    outcome = _traced(lambda: scene.build(overwrite=True), [], log)
    if outcome is None or outcome.kind != "success":
        raise RuntimeError(f"the undisturbed build under strace failed: {outcome}")
    calls: Counter[tuple[str, str]] = Counter(
        (match[1], match[2]) for line in log.read_text().splitlines() if (match := _LINE.match(line))
    )
    most: Counter[str] = Counter()
    for (_, name), count in calls.items():
        most[name] = max(most[name], count)
    return most


def _scenes(folder: Path, quick: bool) -> Iterator[tuple[str, Scene, Files]]:
    """Builds from a file and a stream, from each start, and from a packed file; two in the short form."""
    for streamed in (False, True):
        scene = Scene(folder / f"traced-{streamed}", streamed)
        for name, files in scene.starts().items():
            if not quick or name == ("finished" if streamed else "replacing"):
                yield f"{'stream' if streamed else 'file'}, {name}", scene, files
    if not quick:
        scene = Scene(folder / "traced-packed", packed=True)
        yield "packed file, halfway", scene, scene.halfway()


def _inject(scene: Scene, files: Files, expression: str, log: Path, tally: Tally, label: str) -> None:
    scene.begin(files)
    name = expression.partition(":")[0]
    options = ["-e", f"trace={name}", "-e", f"inject={expression}"]
    outcome = _traced(lambda: scene.build(overwrite=True), options, log)
    if outcome is None:
        raise RuntimeError("strace could not attach any more")
    if outcome.kind != "killed" and "(INJECTED)" not in log.read_text():
        return
    tally.counts["injected"] += 1
    label = f"{label}, {expression}"
    scene.check(outcome, files.get(scene.final.name), tally, label)
    scene.go_on(tally, label)


def kills(folder: Path, quick: bool, seed: int) -> Tally:
    """SIGKILL at every system call of a build, one after the other."""
    tally = Tally("kill at every system call")
    if reason := why_not():
        tally.skipped = reason
        return tally
    log = folder / "strace.log"
    kinds: Counter[str] = Counter()
    for label, scene, files in _scenes(folder, quick):
        positions = _positions(scene, files, log)
        for name, count in sorted(positions.items()):
            before = tally.counts["injected"]
            # The short form takes every position of the calls that change files, and some of the others.
            step = 1 if not quick else 2 if name in _ERRORS else 12
            for position in range(1, count + 1, step):
                _inject(scene, files, f"{name}:signal=KILL:when={position}", log, tally, label)
            kinds[name] += tally.counts["injected"] - before
    tally.facts["calls"] = " ".join(f"{name}:{count}" for name, count in kinds.most_common() if count)
    return tally


def errors(folder: Path, quick: bool, seed: int) -> Tally:
    """Errors at the n-th call, once and lasting, and a write that takes nothing."""
    tally = Tally("errors of system calls")
    if reason := why_not():
        tally.skipped = reason
        return tally
    log = folder / "strace.log"
    for label, scene, files in _scenes(folder, quick):
        positions = _positions(scene, files, log)
        for expression in _expressions(positions, quick):
            _inject(scene, files, expression, log, tally, label)
    return tally


def _expressions(positions: Counter[str], quick: bool) -> Iterator[str]:
    for name, numbers in _ERRORS.items():
        for position in range(1, positions[name] + 1):
            chosen = numbers[position % len(numbers) :][:1] if quick else numbers
            if quick and position % 2 and name in ("pread64", "close", "openat"):
                continue
            for number in chosen:
                yield f"{name}:error={number}:when={position}"
            lasting = () if quick and position % 8 else _LASTING.get(name, ())
            for number in lasting:
                yield f"{name}:error={number}:when={position}+"
            if name in ("pwrite64", "pwritev2") and not (quick and position % 8):
                yield f"{name}:retval=0:when={position}"
