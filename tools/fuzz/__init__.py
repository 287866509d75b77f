"""Mutated files thrown at qstore: see ``python tools/fuzz --help``."""
