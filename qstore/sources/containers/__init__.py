"""What files of several formats are made of.

gzip streams, zip archives, JSON headers, plain rows in a file, indexes of checkpoints in several files.
"""
