"""Rows by name: key files, keys on their way into a store, the index in the file, look-ups, checks.

Comes in: texts or whole numbers, one a row, as users have them (`given`). Goes out: row numbers of keys,
keys of rows. `supply`, `files`, `packed` and `stream` serve writing, `index` makes what lies in the file,
`lookup` reads it, `checking` verifies it, `repeats` finds the same key in two rows, of many files too.

May use: sources, format, engine, system, errors.
"""
