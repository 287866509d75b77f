"""One small build in a folder of its own: how it starts, what must hold after a fault, how it goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
from numpy.typing import NDArray

import qstore
from qstore.format import layout
from qstore.system import write_windows
from qstore.writing.output_paths import journal_path, partial_path

from .tally import Tally

__all__ = ["DIM", "Files", "Interrupt", "Outcome", "Scene", "attempt", "in_child", "matrix", "small_blocks"]

DIM = 32
_BLOCK_ROWS = 64
_GROUP_BLOCKS = 2
_CHUNK_ROWS = 50
_HANG_SECONDS = 30

Files = dict[str, bytes]
"""Names and contents of the files of a folder."""


def small_blocks() -> None:
    """Blocks of 64 rows and groups of two, so that a build of 16 KB has several of both."""
    layout._BLOCK_CODES = _BLOCK_ROWS * DIM
    write_windows._WINDOW = 2 * layout._BLOCK_CODES
    # `qstore.build` does not pass the size of a group on: it is the writer's default that counts.
    vars(qstore.Writer)["__init__"].__kwdefaults__["sync_bytes"] = _GROUP_BLOCKS * _BLOCK_ROWS * DIM


def matrix(blocks: float = 8.3, seed: int = 1) -> NDArray[np.float32]:
    """A matrix of so many blocks."""
    rows = int(blocks * _BLOCK_ROWS)
    return np.random.default_rng(seed).standard_normal((rows, DIM), dtype=np.float32)


class Interrupt(Exception):
    """Stops a build on purpose."""


@dataclass(frozen=True)
class Outcome:
    """How a build ended."""

    kind: Literal["success", "error", "killed", "hung"]
    error: str = ""
    typed: bool = True
    number: int = 0
    text: str = ""


def attempt(action: Callable[[], object]) -> Outcome:
    """Run a build here and say how it ended."""
    try:
        action()
    except Exception as error:
        number = getattr(error, "errno", 0) or 0
        return Outcome(
            "error", type(error).__name__, isinstance(error, qstore.QStoreError), number, str(error)
        )
    return Outcome("success")


def in_child(
    action: Callable[[], object], meanwhile: Callable[[int, Callable[[], object]], object]
) -> Outcome:
    """Run a build in a forked child, which has everything imported already.

    Parameters
    ----------
    action : callable
        The build.
    meanwhile : callable
        Called in this process with the child's number and a function that lets the child begin.
    """
    result_in, result_out = os.pipe()
    go_in, go_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(_HANG_SECONDS)
        os.read(go_in, 1)
        os.write(result_out, json.dumps(asdict(attempt(action))).encode())
        os._exit(0)
    os.close(result_out)
    os.close(go_in)
    try:
        meanwhile(pid, lambda: os.write(go_out, b"g"))
    finally:
        os.close(go_out)  # a child that was not let go begins now
        with open(result_in, "rb") as file:
            raw = file.read()
        status = os.waitpid(pid, 0)[1]
    if raw:
        return Outcome(**json.loads(raw))
    hung = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
    return Outcome("hung" if hung else "killed")


class Scene:
    """A folder with a source, the store it must become, and an older store.

    Parameters
    ----------
    folder : Path
        Empty; the build happens in its folder ``out``.
    streamed : bool
        Build through `qstore.Writer`, which is not told the number of rows, instead of `qstore.build`; rows
        have keys then.
    values : ndarray, optional
        The matrix.
    packed : bool
        Build from a compressed file, which can only be read from front to back.

    Attributes
    ----------
    expected, old : bytes
        The store it must become, and an older one.
    whole : set of str
        Content ids of complete stores.
    """

    def __init__(
        self, folder: Path, streamed: bool = False, values: NDArray[Any] | None = None, packed: bool = False
    ) -> None:
        self.values = matrix() if values is None else values
        self.streamed = streamed
        self.out = folder / "out"
        self.out.mkdir(parents=True)
        self.source = folder / ("source.npz" if packed else "source.npy")
        self._save(self.values)
        self.final = self.out / "store.h5"
        self.partial, self.journal = partial_path(self.final), journal_path(self.final)
        self.whole: set[str] = set()
        self.old = self._store_of(matrix(3.5, seed=2))
        self.expected = self._store_of(self.source if packed else self.values)

    def _save(self, values: NDArray[Any]) -> None:
        (np.savez_compressed if self.source.suffix == ".npz" else np.save)(self.source, values)

    def _store_of(self, source: Path | NDArray[Any]) -> bytes:
        keys = None if isinstance(source, Path) else self._keys(0, len(source))
        qstore.build(source, self.final, threads=1, keys=keys)
        content = self.final.read_bytes()
        with qstore.open(self.final) as store:
            self.whole.add(store.content_id)
        self.final.unlink()
        return content

    def _keys(self, first: int, last: int) -> list[str] | None:
        """Texts that are not in order, some of them longer than others."""
        rows = range(first, last)
        return [f"{row * 7919 % 1009}" + "é" * (row % 9) for row in rows] if self.streamed else None

    def build(
        self, overwrite: bool = False, rows: int | None = None, resume: bool = True, threads: int = 1
    ) -> None:
        """Build the store; with `rows`, stop before the end and leave everything behind."""
        if self.streamed:
            self._stream(overwrite, rows, resume)
            return

        def stop(done: int, total: int | None) -> None:
            if rows is not None and done >= rows:
                raise Interrupt

        with contextlib.nullcontext() if rows is None else contextlib.suppress(Interrupt):
            qstore.build(
                self.source, self.final, overwrite=overwrite, resume=resume, threads=threads, progress=stop
            )

    def _stream(self, overwrite: bool, rows: int | None, resume: bool, data_fails: bool = False) -> None:
        with qstore.Writer(self.final, DIM, overwrite=overwrite, resume=resume, threads=1) as writer:
            while writer.rows < len(self.values):
                first, last = writer.rows, min(writer.rows + _CHUNK_ROWS, len(self.values))
                writer.append(self.values[first:last], keys=self._keys(first, last))
                if rows is not None and writer.rows >= rows:
                    if data_fails:
                        raise qstore.SourceError("what comes now is no row")
                    writer.abort()
                    return

    def move(self, out: Path) -> None:
        """Build in another folder from now on."""
        self.out = out
        self.final = out / self.final.name
        self.partial, self.journal = partial_path(self.final), journal_path(self.final)

    def begin(self, files: Files) -> None:
        """Make these the only files of the folder."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        for name, content in files.items():
            (self.out / name).write_bytes(content)

    def files(self) -> Files:
        """The files of the folder."""
        return {path.name: path.read_bytes() for path in self.out.iterdir()}

    def starts(self) -> dict[str, Files]:
        """Ways in which a build can begin."""
        starts = {"fresh": {}, "replacing": {self.final.name: self.old}}
        starts |= {"halfway": self.halfway(), "failed": self.failed()}
        if self.streamed:
            # It may go on with more rows after all; these are few enough for metadata to stay in its place.
            starts["finished"] = self.finished(len(self.values) - 11)
        return starts

    def halfway(self) -> Files:
        """What an interrupted build leaves behind."""
        self.begin({})
        self.build(rows=len(self.values) // 2)
        return self.files()

    def failed(self) -> Files:
        """What a build leaves behind that failed because of its data, which has been mended since."""
        self.begin({})
        row = len(self.values) // 2
        if not self.streamed:
            holed = self.values.copy()
            holed[row] = np.nan
            self._save(holed)
        with contextlib.suppress(qstore.SourceError):
            if self.streamed:
                self._stream(overwrite=False, rows=row, resume=True, data_fails=True)
            else:
                self.build()
        if not self.streamed:
            self._save(self.values)
        return self.files()

    def finished(self, rows: int | None = None) -> Files:
        """What a build (a stream: of so many rows) leaves behind that is killed just before it publishes."""
        left: list[Files] = []

        def stop(partial: Path, final: Path) -> None:
            left.append(self.files())
            with qstore.open(partial) as store:
                self.whole.add(store.content_id)
            raise Interrupt

        values, self.values = self.values, self.values[:rows]
        self.begin({})
        with mock.patch("qstore.system.durable_files.publish", stop), contextlib.suppress(Interrupt):
            self.build()
        self.values = values
        return left[0]

    def check(self, outcome: Outcome, old: bytes | None, tally: Tally, label: str) -> None:
        """Compare what a build left behind with what was promised.

        Parameters
        ----------
        outcome : Outcome
        old : bytes or None
            What the final name held before.
        tally : Tally
        label : str
            Names the fault in the notes.
        """
        found = self.final.read_bytes() if self.final.exists() else None
        where = f"{label}: {outcome.kind} {outcome.error} {outcome.text}"
        if outcome.kind == "success" and found != self.expected:
            tally.wrong("false_success", where)
        if found not in (old, self.expected):
            tally.wrong("corrupt", f"{where}: the final name holds {_words(found)}")
        if outcome.kind == "hung":
            tally.wrong("other", f"{where}: longer than {_HANG_SECONDS} s")
        if not outcome.typed:
            tally.wrong("other", f"{where}: no error of qstore's")
        if outcome.kind == "error" and found == self.expected != old:
            tally.counts["published_and_error"] += 1
        if self.opened() not in ("does not open", "complete"):
            tally.wrong("half_open", where)

    def opened(self) -> str:
        """What the unfinished file is when it is opened as a store."""
        try:
            with qstore.open(self.partial) as store:
                if not store.verify().ok:
                    return "does not verify"
                return "complete" if store.content_id in self.whole else "verifies as nothing complete"
        except (qstore.QStoreError, OSError):
            return "does not open"

    def go_on(self, tally: Tally, label: str, may_refuse: bool = False, overwrite: bool = True) -> None:
        """Run the same build again: the same bytes and nothing else must be there then."""
        outcome = attempt(lambda: self.build(overwrite=overwrite))
        if may_refuse and (outcome.error == "ResumeError" or "expected float64 as before" in outcome.text):
            tally.counts["refused"] += 1
            outcome = attempt(lambda: self.build(overwrite=overwrite, resume=False))
        else:
            tally.counts["resumed"] += outcome.kind == "success"
        if outcome.kind != "success":
            tally.wrong("other", f"{label}: going on ended with {outcome.error}: {outcome.text}")
            return
        files = self.files()
        if files.get(self.final.name) != self.expected:
            tally.wrong("resume_differs", label)
        if len(files) != 1:
            tally.wrong("other", f"{label}: {sorted(files)} are left")


def _words(found: bytes | None) -> str:
    return "nothing" if found is None else f"{len(found)} other bytes"
