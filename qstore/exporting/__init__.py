"""Stores written in other formats: what is to be exported, and one module for each format."""

from .exporting import ExportReport, export
from .formats import FORMATS

__all__ = ["FORMATS", "ExportReport", "export"]
