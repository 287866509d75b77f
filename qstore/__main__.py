"""``python -m qstore``: the same as the ``qstore`` command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
