"""The short form of the fault suite for writing; ``python tools/crash`` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qstore

SUITE = Path(__file__).parents[2] / "tools" / "crash"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(qstore.__file__).parents[1])}
VIOLATIONS = ("corrupt", "half_open", "false_success", "resume_differs", "other")
# Part, and how many faults its short form injects at least.
PARTS = {
    "kills": 40,
    "errors": 60,
    "short": 500,
    "full": 10,
    "limit": 10,
    "power": 25,
    "replay": 60,
    "failed-sync": 60,
    "journal": 200,
    "partial": 200,
    "source": 15,
    "rivals": 80,
    "interrupted": 20,
}
NEED_STRACE = ("kills", "errors")


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """What each part counted. All run in one process of their own: the suite forks and patches."""
    done = subprocess.run(
        [sys.executable, str(SUITE), "--quick", "--json", "--seed", "1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    if missing := PARTS.keys() - found.keys():
        pytest.fail(f"the suite ended with {done.returncode} before {sorted(missing)}:\n{done.stderr}")
    return found


@pytest.mark.parametrize("part", PARTS)
def test_no_fault_does_harm(results: dict[str, dict[str, Any]], part: str) -> None:
    found = results[part]
    if found["skipped"]:
        if part in NEED_STRACE and os.environ.get("QSTORE_CI") == "1":
            pytest.fail(found["skipped"])
        pytest.skip(found["skipped"])
    violations = {kind: found[kind] for kind in VIOLATIONS if found[kind]}
    assert not violations, f"seed {found['seed']}: " + "\n".join(found["notes"])
    assert found["injected"] >= PARTS[part]
    assert found["resumed"] > 0
