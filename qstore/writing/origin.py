"""What a store is built of, as its journal records it: may an interrupted build be gone on with?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ResumeError

__all__ = ["Origin"]


@dataclass
class Origin:
    """What a store is built of.

    Attributes
    ----------
    tensor : str
        Name of the tensor.
    source_dtype : str or None
        Element type; None until the first rows tell.
    parameters : dict
        JSON-able values that an interrupted build must share.
    stamp : int or None
        Time of the source's last change, which it need not share.
    """

    tensor: str
    source_dtype: str | None
    parameters: dict[str, Any]
    stamp: int | None

    def header(self) -> dict[str, Any]:
        """What the journal begins with."""
        return {**self.parameters, "source_dtype": self.source_dtype, "stamp": self.stamp}

    def attributes(self, content_id: str) -> dict[str, str]:
        """What the file says of itself."""
        return {"content_id": content_id, "tensor": self.tensor, "source_dtype": self.source_dtype or ""}

    def adopt(self, header: dict[str, Any], unfinished: object) -> bool:
        """Go on with the build whose journal begins with `header`; True if its source had another stamp.

        Raises
        ------
        ResumeError
            The build of `unfinished` had other parameters.
        """
        found, wanted = dict(header), dict(self.parameters)
        stale: bool = found.pop("stamp", None) != self.stamp
        recorded = found.pop("source_dtype", None)
        self.source_dtype = self.source_dtype or recorded
        differing = [name for name in sorted(found | wanted) if found.get(name) != wanted.get(name)]
        if recorded != self.source_dtype:
            found["source_dtype"], wanted["source_dtype"] = recorded, self.source_dtype
            differing.append("source_dtype")
        if differing:
            raise ResumeError(
                f"{unfinished} was begun with other parameters: "
                + ", ".join(f"{name} was {found.get(name)!r}, is {wanted.get(name)!r}" for name in differing)
                + "; restore them, or start again (--restart, resume=False)"
            )
        return stale
