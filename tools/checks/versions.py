"""The short form of the tests on every Python that is here, each with the newest libraries it installs.

python tools/checks/versions.py                        every Python that is found
python tools/checks/versions.py --bare                 without the optional libraries
python tools/checks/versions.py python3.13 /opt/p/bin/python -- tests/engine tests/reading

Each Python gets an environment of its own in a temporary folder: what qstore needs, the optional libraries
that have a wheel for it, and the package itself, one wheel for all, built by the Python that runs this.
Versions are printed, and how each run ended; the exit status is 1 where one failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numpy", "h5py", "tqdm", "pytest", "hypothesis")
OPTIONAL = (
    "pandas",
    "pyarrow",
    "zarr",
    "xarray",
    "dask[array]",
    "matplotlib",
    "fsspec",
    "aiohttp",
    "safetensors",
)
TESTS = (
    "tests/engine",
    "tests/reading",
    "tests/format",
    "tests/writing",
    "tests/arrays",
    "tests/exporting",
    "tests/dask",
)


def pythons() -> list[str]:
    """Every Python from 3.11 on, one program a version: on the path, and those of pyenv."""
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep)]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[str, str] = {}
    for place in places:
        for program in sorted(place.glob("python3.[0-9]*")):
            if re.fullmatch(r"python3\.\d+t?", program.name) and (version := version_of(str(program))):
                found.setdefault(version, str(program))
    return [found[version] for version in sorted(found, key=lambda text: int(text.split(".")[1]))]


def version_of(program: str) -> str | None:
    """Such as "3.13.1"; None for what does not run, and for what is older than qstore needs."""
    code = "import sys; print(*sys.version_info[:3], sep='.'); sys.exit(sys.version_info < (3, 11))"
    try:
        told = subprocess.run([program, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def wheel_in(folder: Path) -> Path:
    """The package as a wheel, which holds the extension for all of them."""
    copy = folder / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(copy)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(copy)]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("qstore-*.whl")
    return wheel


def environment_of(program: str, folder: Path, wheel: Path, bare: bool) -> Path | None:
    """The interpreter of a new environment; None where what qstore needs does not install."""
    subprocess.run([program, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--only-binary=:all:",
    ]
    if subprocess.run([*install, *NEEDED, str(wheel)], check=False).returncode:
        return None
    if bare or subprocess.run([*install, *OPTIONAL], check=False, capture_output=True).returncode == 0:
        return python
    for library in OPTIONAL:  # those that have a wheel
        if subprocess.run([*install, library], check=False, capture_output=True).returncode:
            print(f"  no {library} for it", flush=True)
    return python


def passes(program: str, wheel: Path, tests: list[str], folder: Path, bare: bool) -> bool:
    """Whether the tests pass on this Python, which is printed with what it runs on."""
    print(f"{program}: Python {version_of(program)}", flush=True)
    python = environment_of(program, folder / "venv", wheel, bare)
    if python is None:
        print("  FAILED: what qstore needs does not install", flush=True)
        return False
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("QSTORE_") and name != "PYTHONPATH"
    }
    env = {**clean, "QSTORE_REQUIRE_EXTENSION": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    listed = [str(python), "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
    names = {name.partition("[")[0] for name in (*NEEDED, *OPTIONAL)}
    lines = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    print("  " + ", ".join(line for line in lines if line.partition("==")[0].lower() in names), flush=True)
    # The tests of the clone, the package of the environment.
    source = folder.parent / "source"
    shutil.rmtree(source / "qstore", ignore_errors=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing was printed"]
    for line in told:
        if line.startswith(("FAILED", "ERROR")):
            print(f"  {line}", flush=True)
    print(f"  {'passed' if done.returncode == 0 else 'FAILED'}: {told[-1]}", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run the tests on each Python; 1 where they failed on one."""
    bare = "--bare" in arguments
    arguments = [argument for argument in arguments if argument != "--bare"]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    programs, tests = arguments[:cut] or pythons(), arguments[cut + 1 :]
    if not programs:
        print("no Python from 3.11 on is here")
        return 1
    with tempfile.TemporaryDirectory() as work:
        wheel = wheel_in(Path(work))
        results = []
        for number, program in enumerate(programs):
            folder = Path(work) / str(number)
            folder.mkdir()
            results.append(passes(program, wheel, tests or list(TESTS), folder, bare))
            shutil.rmtree(folder)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
