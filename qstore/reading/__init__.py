"""The data behind a Store: one mapped file (`local_store`), or several (`sharded_store`).

The HDF5 library never sees the file. Comes in: checked facts and places, NumPy keys, row numbers, row
names. Goes out: values, codes, views, reports of `verify`. `backing` is what every kind of data answers to,
`indexing` makes rows and columns of a NumPy key.

May use: keys, format, engine, system, errors.
"""
