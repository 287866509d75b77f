"""Work on all rows of a store: exact search, statistics.

Comes in: parts of codes and scales, queries. Goes out: the nearest rows with their exact scores, figures.
Nothing is decided here about files; memory is bounded by blocks.

May use: writing, reading, format, engine, system, errors.
"""
