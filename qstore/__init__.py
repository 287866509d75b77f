"""Embedding matrices on disk in 8 bits: one plain HDF5 file, any row back at memory speed."""

from .against import AgainstReport, verify_against
from .build import BuildPlan, BuildReport, build, plan
from .errors import (
    BusyError,
    ClosedError,
    ExistsError,
    FormatError,
    MissingExtraError,
    NonFiniteError,
    OutputError,
    QStoreError,
    ResumeError,
    SourceError,
    TensorError,
    VersionError,
)
from .kernels import dequantize, engine_name, quantize
from .sources import TensorInfo, list_tensors
from .store import Store, open
from .verify import VerifyReport
from .writer import Writer

__version__ = "0.1.0"

__all__ = [
    "AgainstReport",
    "BuildPlan",
    "BuildReport",
    "BusyError",
    "ClosedError",
    "ExistsError",
    "FormatError",
    "MissingExtraError",
    "NonFiniteError",
    "OutputError",
    "QStoreError",
    "ResumeError",
    "SourceError",
    "Store",
    "TensorError",
    "TensorInfo",
    "VerifyReport",
    "VersionError",
    "Writer",
    "build",
    "dequantize",
    "engine_name",
    "list_tensors",
    "open",
    "plan",
    "quantize",
    "verify_against",
]
