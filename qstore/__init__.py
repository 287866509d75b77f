"""Embedding matrices on disk in 8 bits: one plain HDF5 file, any row back at memory speed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .analysis.stats import StoreStats
    from .building.concatenation import ConcatReport, concat
    from .building.many import build_all, plan_all
    from .building.one import BuildReport, build
    from .building.plans import BuildPlan, plan
    from .building.publishing import append_shards, publish_shards
    from .building.shards import build_shards, plan_shards
    from .building.verify_against import AgainstReport, verify_against
    from .engine.kernels import dequantize, engine_name, quantize
    from .errors import (
        BusyError,
        ChangedError,
        ClosedError,
        ExistsError,
        ExportError,
        FormatError,
        IncompleteError,
        MissingExtraError,
        MissingKeyError,
        NonFiniteError,
        NoViewError,
        OutputError,
        QStoreError,
        RemoteError,
        RemoteNotFoundError,
        ResumeError,
        SettingError,
        ShardError,
        SourceError,
        TensorError,
        VersionError,
    )
    from .exporting.to_file import ExportReport, export
    from .format.fidelity import Fidelity
    from .format.layout import Shard
    from .reading.verify import VerifyReport
    from .reports.comparison import DriftedRow, KeyChanges, StoreComparison, compare
    from .reports.html_page import report
    from .reports.pictures import plot
    from .sources import TensorInfo, list_tensors
    from .store import Store
    from .store import open as open
    from .writer import Writer

__version__ = "0.1.0"

# Without `open`: ``from qstore import *`` would replace Python's.
__all__ = [
    "AgainstReport",
    "BuildPlan",
    "BuildReport",
    "BusyError",
    "ChangedError",
    "ClosedError",
    "ConcatReport",
    "DriftedRow",
    "ExistsError",
    "ExportError",
    "ExportReport",
    "Fidelity",
    "FormatError",
    "IncompleteError",
    "KeyChanges",
    "MissingExtraError",
    "MissingKeyError",
    "NoViewError",
    "NonFiniteError",
    "OutputError",
    "QStoreError",
    "RemoteError",
    "RemoteNotFoundError",
    "ResumeError",
    "SettingError",
    "Shard",
    "ShardError",
    "SourceError",
    "Store",
    "StoreComparison",
    "StoreStats",
    "TensorError",
    "TensorInfo",
    "VerifyReport",
    "VersionError",
    "Writer",
    "append_shards",
    "build",
    "build_all",
    "build_shards",
    "compare",
    "concat",
    "dequantize",
    "engine_name",
    "export",
    "list_tensors",
    "plan",
    "plan_all",
    "plan_shards",
    "plot",
    "publish_shards",
    "quantize",
    "report",
    "verify_against",
]

# Names are imported when they are first used: a reader does not wait for what only builders need.
_HOMES = {
    "building.verify_against": ("AgainstReport", "verify_against"),
    "format.layout": ("Shard",),
    "building.one": ("BuildReport", "build"),
    "building.plans": ("BuildPlan", "plan"),
    "building.many": ("build_all", "plan_all"),
    "building.shards": ("build_shards", "plan_shards"),
    "reports.comparison": ("DriftedRow", "KeyChanges", "StoreComparison", "compare"),
    "building.concatenation": ("ConcatReport", "concat"),
    "errors": (
        "BusyError",
        "ChangedError",
        "ClosedError",
        "ExistsError",
        "ExportError",
        "FormatError",
        "IncompleteError",
        "MissingExtraError",
        "MissingKeyError",
        "NoViewError",
        "NonFiniteError",
        "OutputError",
        "QStoreError",
        "RemoteError",
        "RemoteNotFoundError",
        "ResumeError",
        "SettingError",
        "ShardError",
        "SourceError",
        "TensorError",
        "VersionError",
    ),
    "exporting.to_file": ("ExportReport", "export"),
    "format.fidelity": ("Fidelity",),
    "engine.kernels": ("dequantize", "engine_name", "quantize"),
    "reports.pictures": ("plot",),
    "building.publishing": ("append_shards", "publish_shards"),
    "reports.html_page": ("report",),
    "sources": ("TensorInfo", "list_tensors"),
    "analysis.stats": ("StoreStats",),
    "store": ("Store", "open"),
    "reading.verify": ("VerifyReport",),
    "writer": ("Writer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_PACKAGES = ("dask", "errors", "sources", "torch")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_PACKAGES, "open", "__all__", "__doc__", "__version__"})
