"""What is said while work goes on, beside results and errors: by `logging`, under the name "qstore"."""

from __future__ import annotations

__all__ = ["tell", "warn"]

_NAME = "qstore"


def tell(text: str) -> None:
    """Say what was done; seen where the level INFO is."""
    from logging import getLogger  # 9 ms that reading rows does not need

    getLogger(_NAME).info("%s", text)


def warn(text: str) -> None:
    """Say what its user may not expect; on stderr where nobody has set up `logging`."""
    from logging import getLogger

    getLogger(_NAME).warning("%s", text)
