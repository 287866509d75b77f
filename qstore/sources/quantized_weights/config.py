"""What config.json beside a checkpoint says about blocks and bits."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ...errors import RemoteError, SourceError
from ..addresses import Address, beside
from ..containers.json_object import LONGEST_JSON, parse_json
from ..remote_files import open_file

__all__ = ["Config"]

_NAME = "config.json"


@dataclass(frozen=True)
class Config:
    """What is said there; empty where there is no such file.

    Attributes
    ----------
    found : bool
        Something is said about quantization.
    members : dict
        All of the file, untrusted.
    """

    found: bool = False
    members: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(cls, path: str) -> Config:
        """That of the directory of a checkpoint, or of a file in it; one that cannot be read says nothing."""
        place = os.path.join(path, _NAME) if os.path.isdir(path) else beside(path, _NAME)
        if not isinstance(place, Address) and not os.path.isfile(place):
            return cls()
        try:
            with open_file(place) as file:
                if file.size > LONGEST_JSON:
                    return cls()
                members = parse_json(place, file.read_bytes(0, file.size))
        except SourceError:
            return cls()
        except RemoteError as error:
            if error.status is None:
                raise
            return cls()
        return cls(any(isinstance(members.get(key), dict) for key in _SECTIONS), members)

    @property
    def _sections(self) -> list[dict[str, Any]]:
        return [self.members[key] for key in _SECTIONS if isinstance(self.members.get(key), dict)]

    def blocks(self) -> set[tuple[int, int]]:
        """Rows and columns of blocks that are spoken of (0: any number of rows), for any weights."""
        found = set()
        for told in (*self._sections, *self._groups()):
            for key in ("weight_block_size", "block_structure"):
                pair = told.get(key)
                if isinstance(pair, list) and len(pair) == 2 and all(_is_size(one) for one in pair):
                    found.add((pair[0], pair[1]))
            if _is_size(told.get("group_size")):
                found.add((1, told["group_size"]))
        return found

    def bits(self) -> set[int]:
        """Bits of codes that are spoken of, for any weights."""
        spoken = (*self._sections, *self._groups())
        return {told[key] for told in spoken for key in ("bits", "num_bits") if _is_size(told.get(key))}

    def of_module(self, name: str) -> tuple[int, int] | None:
        """Bits and group size that MLX gives to a module: its own, or those of all."""
        for section in self._sections:
            own = section.get(name)
            for told in (own if isinstance(own, dict) else {}, section):
                if _is_size(told.get("bits")) and _is_size(told.get("group_size")):
                    return told["bits"], told["group_size"]
        return None

    def says(self, key: str) -> Any:
        """A member of the file itself."""
        return self.members.get(key)

    def _groups(self) -> list[dict[str, Any]]:
        """Schemes of compressed-tensors for weights."""
        found = []
        for section in self._sections:
            groups = section.get("config_groups")
            for group in groups.values() if isinstance(groups, dict) else ():
                weights = group.get("weights") if isinstance(group, dict) else None
                if isinstance(weights, dict):
                    found.append(weights)
        return found


_SECTIONS = ("quantization_config", "quantization", "compression_config")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= 1 << 31
