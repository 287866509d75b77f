"""The exceptions qstore raises. Every one is a :class:`QStoreError`."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BusyError",
    "ChangedError",
    "ClosedError",
    "ExistsError",
    "ExportError",
    "FormatError",
    "IncompleteError",
    "MissingExtraError",
    "MissingKeyError",
    "NoViewError",
    "NonFiniteError",
    "OutputError",
    "QStoreError",
    "RemoteError",
    "RemoteNotFoundError",
    "ResumeError",
    "SettingError",
    "ShardError",
    "SourceError",
    "TensorError",
    "VersionError",
]


class QStoreError(Exception):
    """Base of all errors that qstore raises on purpose."""


class FormatError(QStoreError, ValueError):
    """A file is not a valid store: the message says what was expected and what was found."""


class VersionError(FormatError):
    """A store was written in a newer major version of the format: upgrade qstore."""


class ShardError(FormatError):
    """A shard is missing, or is not the file that belongs there."""


class NoViewError(QStoreError, AttributeError):
    """An array of a store does not lie in one piece: ``store.parts()`` gives the pieces one by one."""


class SourceError(QStoreError, ValueError):
    """The data to build from cannot be read or does not have the shape or type it must have."""


class TensorError(SourceError):
    """The source holds several matrices, or none of the asked name.

    Attributes
    ----------
    candidates : tuple of str
        Names that would have worked, the closest ones first.
    """

    def __init__(self, message: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class IncompleteError(SourceError):
    """Some files of a checkpoint in several are missing or cannot be read.

    Attributes
    ----------
    tensors : tuple of TensorInfo
        What the other files hold.
    missing : tuple of str or None
        Names of the tensors that cannot be read; None where they are not known.
    """

    def __init__(
        self, message: str, tensors: tuple[Any, ...] = (), missing: tuple[str, ...] | None = None
    ) -> None:
        super().__init__(message)
        self.tensors = tensors
        self.missing = missing


class NonFiniteError(SourceError):
    """A value to quantize is NaN or infinite.

    Attributes
    ----------
    row, column : int
        Where it stands in the whole matrix.
    """

    def __init__(self, value: float, row: int, column: int) -> None:
        super().__init__(
            f"row {row}, column {column} is {value}: only finite values can be quantized; "
            f'mend the source, or pass nonfinite="zero" (--nonfinite zero) to store 0 instead'
        )
        self.value = value
        self.row = row
        self.column = column

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[float, int, int]]:
        return type(self), (self.value, self.row, self.column)


class OutputError(QStoreError, OSError):
    """The output cannot be written: ``errno`` and ``filename`` say why and where."""

    def __str__(self) -> str:
        return str(self.strerror)


class ExistsError(OutputError, FileExistsError):
    """The output exists and overwriting was not asked for."""


class BusyError(OutputError):
    """Another writer is building the same output right now."""


class ResumeError(QStoreError, ValueError):
    """An interrupted build cannot go on with this source or these parameters."""


class ExportError(QStoreError, ValueError):
    """A format is unknown, or cannot hold what is to be exported."""


class ClosedError(QStoreError, ValueError):
    """The store or the writer has been closed."""


class SettingError(QStoreError, ValueError):
    """An environment variable of qstore says nothing that can be meant."""


class MissingKeyError(QStoreError, KeyError):
    """Keys that no row has.

    Attributes
    ----------
    keys : tuple
        Some of them.
    count : int
        How many are missing.
    """

    def __init__(self, keys: tuple[str | int, ...], count: int, asked: int) -> None:
        names = ", ".join(f"{key!r:.80}" for key in keys) + (", …" if count > len(keys) else "")
        whole = f"{count} of {asked} keys are" if asked > 1 else "this key is"
        super().__init__(f"{whole} not in the store: {names}")
        self.keys = keys
        self.count = count
        self._asked = asked

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would give its repr

    def __reduce__(self) -> tuple[type[MissingKeyError], tuple[tuple[str | int, ...], int, int]]:
        return type(self), (self.keys, self.count, self._asked)


class MissingExtraError(QStoreError, ImportError):
    """An optional library is needed for this: the message says what to install."""


class RemoteError(QStoreError, OSError):
    """A remote object cannot be read, or what came is not what was asked for.

    Attributes
    ----------
    status : int or None
        What an HTTP server answered where that is the reason, or what it would have: 404, 403; else None.
    """

    status: int | None = None


class RemoteNotFoundError(RemoteError, FileNotFoundError):
    """There is no object behind the URL."""


class ChangedError(RemoteError):
    """A remote object is no longer the one that was opened: open it again."""
