"""What an interrupted build leaves behind, damaged or exchanged, and sources that change."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.writing.unfinished_store import UnfinishedStore

from .scene import Files, Interrupt, Scene, attempt, matrix
from .tally import Tally

__all__ = ["journals", "partials", "sources"]


def _try(scene: Scene, files: Files, label: str, tally: Tally, may_refuse: bool = False) -> None:
    """Go on from these files."""
    scene.begin(files)
    tally.counts["injected"] += 1
    # Flipped bits of data are for `verify` to find, as in any store; between the data they harm nothing.
    if scene.opened() == "verifies as nothing complete":
        tally.wrong("half_open", label)
    scene.go_on(tally, label, may_refuse=may_refuse)


def _flipped(content: bytes, chance: random.Random, count: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(count):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _damaged(
    content: bytes, others: list[bytes], chance: random.Random, quick: bool
) -> Iterator[tuple[str, bytes]]:
    """Truncated, flipped, spliced, lengthened and exchanged contents."""
    step = max(1, len(content) // 25) if quick else max(1, len(content) // 2000)
    for length in range(0, len(content), step):
        yield f"truncated to {length}", content[:length]
    for number in range(20 if quick else 600):
        yield f"flips {number}", _flipped(content, chance, 1 + number % 3)
    for number, other in enumerate(others):
        yield f"that of another build, {number}", other
        first_record = content.find(b"blk1")
        for cut in (first_record, *range(0, len(content), step * 7)):
            yield f"spliced with {number} at {cut}", content[:cut] + other[cut:]
    yield "followed by zeros", content + bytes(5000)
    yield "followed by itself", content + content
    yield "zeros", bytes(len(content))
    yield "noise", chance.randbytes(len(content))


def _others(scene: Scene, folder: Path) -> list[Files]:
    """What builds of other data with the same parameters, and of other parameters, leave behind."""
    found = []
    values = scene.values
    longer = np.vstack([values, values])
    for number, other in enumerate([matrix(8.3, seed=5), values * 2, longer, values.astype(np.float64)]):
        build = Scene(folder / f"other-{number}", scene.streamed, other)
        scene.whole |= build.whole
        found.append(build.halfway())
    return found


def _scenes(folder: Path) -> Iterator[tuple[Scene, list[Files]]]:
    for streamed in (False, True):
        scene = Scene(folder / f"scene-{streamed}", streamed)
        yield scene, _others(scene, folder / f"others-{streamed}")


def _starts(scene: Scene) -> Iterator[tuple[str, Files]]:
    yield "halfway", scene.halfway()
    yield "complete", scene.finished()
    yield "failed", scene.failed()


def journals(folder: Path, quick: bool, seed: int) -> Tally:
    """A torn, flipped, foreign or missing journal beside a good unfinished file."""
    tally = Tally("damaged journal")
    chance = random.Random(seed)
    for scene, others in _scenes(folder):
        name = scene.journal.name
        for start, files in _starts(scene):
            foreign = [other[name] for other in others]
            if scene.streamed:
                # A stream has no identity: that its caller gives the same rows again is the caller's word.
                foreign = [other for number, other in enumerate(foreign) if number != 1]
            for label, content in _damaged(files[name], foreign, chance, quick):
                _try(scene, {**files, name: content}, f"{start} journal {label}", tally, may_refuse=True)
            _try(scene, {scene.partial.name: files[scene.partial.name]}, f"{start}, no journal", tally)
            for number, other in enumerate(others):
                # Nothing unfinished is there: a journal alone must not be in the way of anything.
                label = f"{start}, only a journal, {number}"
                _try(scene, {name: other[name]}, label, tally)
                label = f"published, a journal, {number}"
                _try(scene, {name: other[name], scene.final.name: scene.expected}, label, tally)
    return tally


def partials(folder: Path, quick: bool, seed: int) -> Tally:
    """A torn, flipped, foreign or missing unfinished file beside a good journal."""
    tally = Tally("damaged unfinished file")
    chance = random.Random(seed)
    _grown(folder, tally)
    for scene, others in _scenes(folder):
        name = scene.partial.name
        for start, files in _starts(scene):
            foreign = [other[name] for other in others]
            for label, content in _damaged(files[name], foreign, chance, quick):
                _try(scene, {**files, name: content}, f"{start} partial {label}", tally)
            _try(scene, {scene.journal.name: files[scene.journal.name]}, f"{start}, no partial", tally)
            for number in range(5 if quick else 200):
                both = {key: _flipped(content, chance, 1) for key, content in files.items()}
                _try(scene, both, f"{start}, both flipped {number}", tally, may_refuse=True)
            for number, other in enumerate(others):
                label = f"{start}, all of another build, {number}"
                # Twice the values give the same codes, a stream of them cannot be told from the first.
                if not (scene.streamed and number < 3):
                    _try(scene, other, label, tally, may_refuse=True)
    return tally


Change = Callable[[Scene], None]


def _save(scene: Scene, values: NDArray[Any], stamp: int | None = None) -> None:
    np.save(scene.source, values)
    if stamp is not None:
        os.utime(scene.source, ns=(stamp, stamp))


def _grown(folder: Path, tally: Tally) -> None:
    """A stream that was finished but not published, and then goes on with more rows."""
    for rows in range(100, 531, 43):
        scene = Scene(folder / f"grown-{rows}", streamed=True)
        _try(scene, scene.finished(rows), f"finished with {rows} rows, then {len(scene.values)}", tally)


def sources(folder: Path, quick: bool, seed: int) -> Tally:
    """A source that changes between two attempts or during one."""
    tally = Tally("changed source")
    chance = random.Random(seed)
    _changed_between(folder, chance, 10 if quick else 150, tally)
    _changed_during(folder, chance, 5 if quick else 60, tally)
    _changed_back(folder, tally)
    return tally


def _changed_between(folder: Path, chance: random.Random, count: int, tally: Tally) -> None:
    """A row changes: refused where it is already in, built where it is not. Sizes are always refused."""
    for number in range(count):
        scene = Scene(folder / f"between-{number}")
        files = scene.halfway()
        values = scene.values.copy()
        recorded = _recorded_rows(scene)
        is_in = number % 4 < 2
        row = chance.randrange(recorded) if is_in else chance.randrange(recorded, len(values))
        values[row] = values[row] * 2 if number % 2 else values[row, ::-1]
        resized = number % 5 == 4
        if resized:
            values = np.vstack([values, values[:1]]) if number % 2 else values[:-1]
        _save(scene, values)
        after = Scene(folder / f"between-{number}-after", values=values)
        scene.expected = after.expected
        label = f"row {row} of {recorded} recorded ones changed, {len(values)} rows now"
        refused = tally.counts["refused"]
        _try(scene, files, label, tally, may_refuse=is_in or resized)
        if (is_in or resized) and tally.counts["refused"] == refused:
            tally.wrong("other", f"{label}: not refused")


def _recorded_rows(scene: Scene) -> int:
    """How many rows of the unfinished store the next attempt would find."""
    found = []
    begin = UnfinishedStore._begin

    def stop(unfinished: UnfinishedStore, *rest: Any) -> None:
        begin(unfinished, *rest)
        found.append(unfinished.rows)
        raise Interrupt

    with mock.patch.object(UnfinishedStore, "_begin", stop), contextlib.suppress(Interrupt):
        scene.build()
    return found[0]


def _changed_during(folder: Path, chance: random.Random, count: int, tally: Tally) -> None:
    """Truncated, or exchanged for other values, while it is read: an error, not a mixture."""
    for number in range(count):
        scene = Scene(folder / f"during-{number}")
        scene.begin({})
        moment = chance.randrange(64, len(scene.values) - 64)
        cut = bool(number % 2)

        def change(
            done: int, total: int | None, scene: Scene = scene, moment: int = moment, cut: bool = cut
        ) -> None:
            if done < moment:
                return
            if cut:
                os.truncate(scene.source, scene.source.stat().st_size // 9)
            else:
                _save(scene, scene.values[::-1])

        outcome = attempt(lambda: qstore.build(scene.source, scene.final, threads=1, progress=change))  # noqa: B023
        tally.counts["injected"] += 1
        label = f"{'truncated' if cut else 'exchanged'} at row {moment}"
        if outcome.kind == "success":
            tally.wrong("false_success", f"{label}: a mixture was published")
        elif outcome.error != "SourceError":
            tally.wrong("other", f"{label}: {outcome.error}: {outcome.text}")


def _changed_back(folder: Path, tally: Tally) -> None:
    """The second of three attempts sees rows that the first and the third do not."""
    scene = Scene(folder / "back")
    scene.begin({})
    _save(scene, scene.values, stamp=1)
    scene.build(rows=100)
    changed = scene.values.copy()
    changed[200:] *= 3
    _save(scene, changed, stamp=2)
    scene.build(rows=400)
    _save(scene, scene.values, stamp=1)
    tally.counts["injected"] += 2
    scene.go_on(tally, "changed and changed back", may_refuse=True)
