"""Stores that lie elsewhere, read in ranges: HTTP servers, object stores, whatever fsspec knows."""

from .remote_store import RemoteStore, inspect_url

__all__ = ["RemoteStore", "inspect_url"]
