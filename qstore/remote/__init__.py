"""Stores that lie elsewhere, read in ranges: HTTP servers, object stores, whatever fsspec knows.

Comes in: a URL, row numbers, keys. Goes out: what `reading.backing` promises, of few requests: `planning`
joins places to ranges, `fetcher` has them read by `system.remote_objects`, which checks every response,
`row_cache` keeps rows.

May use: reading, keys, format, engine, system, errors.
"""

from .remote_store import RemoteStore, inspect_url

__all__ = ["RemoteStore", "inspect_url"]
