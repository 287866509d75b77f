"""What qstore runs on: versions, engine, processor. For `qstore env`, test headers and benchmarks."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
from dataclasses import dataclass

from .engine.file_rows import how
from .engine.kernels import engine_name
from .system.reported import Reported
from .system.threads import THREADS_VARIABLE, processors

__all__ = ["Environment", "environment", "headline"]

_VARIABLES = ("QSTORE_NO_EXTENSION", "QSTORE_REQUIRE_EXTENSION", THREADS_VARIABLE)


@dataclass(frozen=True, repr=False)
class Environment(Reported):
    """Facts about this process and machine.

    Attributes
    ----------
    qstore, python : str
        Versions.
    numpy, h5py, hdf5, tqdm : str or None
        Versions; None where the library is missing or does not load.
    engine : str
        The kernels in use, with the instructions C has chosen: ``"C (avx2)"``, ``"NumPy"``.
    cold_reads : str
        How rows that are not in memory are read: ``"preadv2 (RWF_NOWAIT), posix_fadvise, pread"``, or what of
        that the system allows.
    extension_problem : str or None
        Why the C extension is not in use.
    variables : dict
        Those environment variables of qstore that are set.
    cpu : str
        Model of the processor.
    cores : int
        Processors this process may use.
    platform : str
    """

    qstore: str
    python: str
    numpy: str | None
    h5py: str | None
    hdf5: str | None
    tqdm: str | None
    engine: str
    cold_reads: str
    extension_problem: str | None
    variables: dict[str, str]
    cpu: str
    cores: int
    platform: str


def environment() -> Environment:
    """Collect the facts. Imports h5py, for the version of the HDF5 library in it."""
    from . import __version__

    return Environment(
        qstore=__version__,
        python=platform.python_version(),
        numpy=_version("numpy"),
        h5py=_version("h5py"),
        hdf5=_hdf5_version(),
        tqdm=_version("tqdm"),
        engine=engine_name(),
        cold_reads=how(),
        extension_problem=_extension_problem(),
        variables={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        cpu=_cpu_model(),
        cores=processors(),
        platform=platform.platform(),
    )


def headline() -> str:
    """The facts that timings and test results depend on, in one line."""
    found = environment()
    return (
        f"qstore {found.qstore}, engine {found.engine}, Python {found.python}, numpy {found.numpy}, "
        f"h5py {found.h5py} (HDF5 {found.hdf5}), {found.cores} × {found.cpu}"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hdf5_version() -> str | None:
    try:
        import h5py
    except ImportError:
        return None
    return str(h5py.version.hdf5_version)


def _extension_problem() -> str | None:
    if os.environ.get("QSTORE_NO_EXTENSION") == "1":
        return "switched off by QSTORE_NO_EXTENSION=1"
    try:
        importlib.import_module("qstore._native")
    except ImportError as error:
        return f"{error}; install a C compiler and reinstall qstore from source"
    return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
