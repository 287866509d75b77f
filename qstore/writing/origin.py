"""What a store is built of, as its journal records it: may an interrupted build be gone on with?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..engine.arguments import as_text
from ..errors import ResumeError
from ..format import layout
from .journal import Journal

__all__ = ["Origin", "parameter_word"]

# Parameters that have other names outside: what they are, and what None is.
_ROWS = {
    "first_row": ("the first of the rows (rows=, --rows)", "the first of the source"),
    "last_row": ("the end of the rows (rows=, --rows)", "the end of the source"),
}
# What sources tell of themselves in words that a user has.
_OF_SOURCES = {
    "kind": "format",
    "shape": "shape",
    "dtype": "element type",
    "tensor": "tensor",
    "size": "size in bytes",
    "version": "version (ETag or time)",
    "keys": "column of keys",
    "key_encoding": "encoding of the keys",
}


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

    @classmethod
    def of(
        cls,
        dim: int,
        tensor: str,
        source_dtype: str | None,
        nonfinite: str,
        missing_keys: str,
        parameters: dict[str, Any],
        stamp: int | None,
    ) -> Origin:
        """Origin of a store of `dim` columns: what a writer does is a parameter, too."""
        return cls(
            as_text("tensor", tensor, layout.NAME_LIMIT),
            None if source_dtype is None else as_text("source_dtype", source_dtype, layout.DTYPE_LIMIT),
            {
                "dim": dim,
                "tensor": tensor,
                "nonfinite": nonfinite,
                "missing_keys": missing_keys,
                **parameters,
            },
            stamp,
        )

    def header(self) -> dict[str, Any]:
        """What the journal begins with."""
        return {**self.parameters, "source_dtype": self.source_dtype, "stamp": self.stamp}

    def attributes(self, content_id: str) -> dict[str, str]:
        """What the file says of itself."""
        return {"content_id": content_id, "tensor": self.tensor, "source_dtype": self.source_dtype or ""}

    @property
    def keyless(self) -> bool:
        """Whether rows are to have no keys, although what was left behind may have some."""
        return self.parameters.get("keys", "") is None

    def judge(self, journal: Journal, rows: int | None, unfinished: object) -> str:
        """Why the rows that this journal of `unfinished` tells of are of no use here; empty if they may be.

        A build that has failed because of its data need not share parameters that leave these rows as they
        are, and with others its rows are of no use any more. One that was interrupted insists on them.

        Parameters
        ----------
        journal : Journal
            Its parameters have been read.
        rows : int or None
            Rows that are to come in all.
        unfinished : object
            Name for errors.

        Raises
        ------
        ResumeError
            It was interrupted, and had other parameters or more rows.
        """
        reason = self._differing(journal.given, journal.failed)
        if not reason and rows is not None and journal.listed > rows:
            reason = f"{journal.listed:,} rows are done, expected at most {rows:,}"
        if reason and not journal.failed:
            raise ResumeError(
                f"{unfinished} was begun with other parameters: {reason}; restore them, or start again "
                f"(--restart, resume=False)"
            )
        return reason and f"the build that failed had other parameters: {reason}"

    def _differing(self, header: dict[str, Any], failed: bool) -> str:
        """Which parameters differ, and how."""
        found, wanted = dict(header), self.header()
        for parameters in (found, wanted):
            parameters.pop("stamp", None)
        if self.source_dtype is None:
            wanted["source_dtype"] = found.get("source_dtype")
        differing = (
            (name, found.get(name), wanted.get(name))
            for name in sorted(found | wanted)
            if found.get(name) != wanted.get(name)
            and not (failed and _is_harmless(name, found.get(name), wanted.get(name)))
        )
        return ", ".join(text for name, old, new in differing for text in _in_words(name, old, new))

    def adopt(self, header: dict[str, Any]) -> bool:
        """Go on with the build whose journal tells this; True if its source had another stamp."""
        self.source_dtype = self.source_dtype or header.get("source_dtype")
        return bool(header.get("stamp") != self.stamp)


def _in_words(name: str, found: Any, wanted: Any) -> list[str]:
    """How a parameter differs, in words of the public interface."""
    if name == "source":
        return _of_sources(found, wanted)
    if name in _ROWS:
        found, wanted = (_ROWS[name][1] if row is None else f"row {row}" for row in (found, wanted))
        return [f"{_ROWS[name][0]} was {found}, is {wanted}"]
    return [f"{name} was {found!r}, is {wanted!r}"]


def _of_sources(found: Any, wanted: Any) -> list[str]:
    """What two sources tell of themselves, and where that differs."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return ["the source was of another kind, an iterable or a file or an array"]
    names = {name for name in found | wanted if found.get(name) != wanted.get(name)}
    if "shape" in names:
        names.discard("size")  # it follows from the shape
    plain = [name for name in _OF_SOURCES if name in names]
    texts = [
        f"the {_OF_SOURCES[name]} of the source was {_value(found.get(name))}, is {_value(wanted.get(name))}"
        for name in plain
    ]
    # Checksums of headers and the like follow from these where these differ.
    return texts or ["the source was another one: other files, another order of them, or other headers"]


def _value(value: Any) -> str:
    if isinstance(value, list):  # a shape, as JSON keeps it
        value = tuple(value)
    return "unknown" if value is None else str(value) if isinstance(value, tuple) else repr(value)


def _is_harmless(name: str, found: Any, wanted: Any) -> bool:
    """Whether finished rows are as good with this parameter as with that one.

    What was an error did not come up in them, and keys that are not wanted are left out.
    """
    return (
        name == "last_row"
        or (name in ("nonfinite", "missing_keys", "key_errors") and found in ("error", "strict"))
        or (name == "keys" and wanted is None)
    )


def parameter_word(name: str) -> str:
    """What a parameter of a build is called outside."""
    return "rows (rows=, --rows)" if name in _ROWS else name
