"""Stores written in other formats: what is to be exported, and one module for each format.

Comes in: an open store and a path. Goes out: a file that is there whole or not at all. `to_file` does it,
`selection` gives the rows block by block, `formats` is the list of formats.

May use: building and everything below it.
"""
