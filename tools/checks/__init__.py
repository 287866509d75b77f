"""Checks that take long, or need real input: each a command of its own, ``python tools/checks/NAME.py``."""
