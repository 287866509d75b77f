"""Rows by name: key files, keys on their way into a store, the index in the file, look-ups, checks.

Comes in: texts or whole numbers, one a row. Goes out: row numbers of keys, keys of rows. `supply`, `files`
and `packed` serve writing, `index` makes what lies in the file, `lookup` reads it, `checking` verifies it.

May use: sources, format, engine, system, errors.
"""
