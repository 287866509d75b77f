"""Programs that run many times, each in a process of its own: forks of one that has imported qstore."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["forked"]

_PARENT = """\
import json, os, sys, traceback
import h5py, qstore
for name in qstore.__all__:
    getattr(qstore, name)
program = compile(json.loads(sys.stdin.readline()), "program", "exec")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv[1:] = json.loads(line)
        os.dup2(2, 1)
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def forked(program: str, folder: Path) -> Iterator[Callable[..., int]]:
    """Gives a function: it runs the program in that folder with these arguments, and returns the status."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def run(*words: object) -> int:
            stdin.write(json.dumps([str(word) for word in words]) + "\n")
            stdin.flush()
            return int(stdout.readline())

        stdin.write(json.dumps(program) + "\n")
        yield run
