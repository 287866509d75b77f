"""Runs the scripts of findings/, one after the other, and says which of them no longer see what they state.

python tools/findings.py [NAME ...] [--folder FOLDER] [--minutes LIMIT]

Each installs the packages that it pins into a temporary folder, from the index that pip and npm are set up
for. Exit status: 0 if all see what they state, 1 if one has changed or could not be run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "run"]

FOLDER = Path(__file__).parents[1] / "findings"
SAME, CHANGED = 0, 1


def run(script: Path, limit_s: float) -> tuple[str, str]:
    """Run one script and say how it ended.

    Parameters
    ----------
    script : Path
        A Bash script: it ends with 0 where all is as it states, with 1 where it is not.
    limit_s : float
        Seconds after which it is ended, with all that it has started.

    Returns
    -------
    tuple of str
        "same", "changed", "could not be run" or "took too long", and what the script has printed.
    """
    with subprocess.Popen(
        ["bash", str(script)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            printed, _ = process.communicate()
            return "took too long", printed
    word = {SAME: "same", CHANGED: "changed"}.get(process.returncode, "could not be run")
    return word, printed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run those that are named, or all: a line for each, and what it printed where that is not the same."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="scripts, without .sh (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where they lie")
    parser.add_argument("--minutes", type=float, default=10, help="limit for each (default: 10)")
    options = parser.parse_args(arguments)
    found = {script.stem: script for script in sorted(options.folder.glob("*.sh"))}
    names = options.names or list(found)
    unknown = [name for name in names if name not in found]
    if unknown or not names:
        parser.error(f"no {', '.join(unknown) or 'scripts'} in {options.folder}")

    counts: dict[str, int] = {}
    for name in names:
        begun = time.monotonic()
        word, printed = run(found[name], options.minutes * 60)
        counts[word] = counts.get(word, 0) + 1
        print(f"{word:16}  {name}  {time.monotonic() - begun:.0f} s", flush=True)
        if word != "same":
            print("    " + printed.rstrip().replace("\n", "\n    "), flush=True)
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 0 if set(counts) == {"same"} else 1


if __name__ == "__main__":
    sys.exit(main())
