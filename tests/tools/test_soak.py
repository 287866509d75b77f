"""The short form of the concurrency soak; ``python tools/checks/soak.py`` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import qstore

SOAK = Path(__file__).parents[2] / "tools" / "checks" / "soak.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(qstore.__file__).parents[1])}


def test_every_row_read_is_from_one_whole_version() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--seconds", "3", "--processes", "2", "--json"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout)
    assert (counts["torn"], counts["failures"]) == (0, 0)
    assert counts["publishes"] > 1
    assert counts["overtaken"] > 0
