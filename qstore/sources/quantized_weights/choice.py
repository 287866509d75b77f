"""What a caller decides by hand about weights that look quantized."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SourceError
from ...system.options import flag, shown

__all__ = ["AS_FOUND", "Choice"]


@dataclass(frozen=True)
class Choice:
    """How the numbers of a tensor are to be taken.

    Attributes
    ----------
    scale : str or None
        Name of the tensor that scales it, whatever its name would say.
    as_stored : bool
        The numbers as they are, whatever lies beside them.

    Raises
    ------
    SourceError
        Both are given.
    TypeError
        One is no name, or neither True nor False.
    """

    scale: str | None = None
    as_stored: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not isinstance(self.scale, str):
            raise TypeError(f"scale is {shown(self.scale)}, expected the name of a tensor")
        if flag("as_stored", self.as_stored) and self.scale is not None:
            raise SourceError(
                f"scale={self.scale!r} (--scale) and as_stored=True (--as-stored) do not go together: "
                f"expected the numbers scaled, or as they are; leave one out"
            )


AS_FOUND = Choice()
"""By the conventions alone."""
