"""Matrices in memory: anything with a shape that gives slices of rows, and iterables of chunks."""
