"""The operating system's part: files that survive a crash, page cache, threads, remote objects.

Comes in: descriptors, paths, offsets, tasks. Goes out: bytes that are surely on the disk, pages that were
asked for ahead of use, results in order. Knows nothing of matrices or of the format.

May use: errors.
"""
