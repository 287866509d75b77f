"""Stores written in other formats: what is to be exported, and one module for each format."""

from .formats import FORMATS
from .to_file import ExportReport, export

__all__ = ["FORMATS", "ExportReport", "export"]
