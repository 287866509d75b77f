"""Keras 3's `.keras`: a zip archive with the weights in it as HDF5, stored, and so read in place."""

from __future__ import annotations

from contextlib import ExitStack

from ..errors import SourceError
from .base import RowSource, TensorInfo
from .containers.zip_members import STORED, Archive, first_name
from .files import FilePart, RawFile
from .hdf5.datasets import datasets_in, open_dataset

__all__ = ["KerasFormat"]

_WEIGHTS = "model.weights.h5"


class KerasFormat:
    """One saved model; its tensors are the datasets of its weights."""

    name = "Keras"
    suffixes: tuple[str, ...] = (".keras",)

    def matches(self, path: str, head: bytes) -> bool:
        """Whether the file starts like a zip archive with the members that Keras writes first."""
        return first_name(head) == "metadata.json" and b"config.json" in head

    def tensors(self, path: str) -> list[TensorInfo]:
        """All datasets of the weights, as in any HDF5 file.

        Raises
        ------
        SourceError
        """
        with RawFile(path) as file:
            return datasets_in(_weights(file))

    def open(self, path: str, tensor: str | None) -> RowSource:
        """Source of the rows of one dataset; see :meth:`.HDF5Format.open`."""
        with ExitStack() as on_error:
            source = open_dataset(_weights(on_error.enter_context(RawFile(path))), tensor)
            on_error.pop_all()
        return source


def _weights(file: RawFile) -> RawFile:
    archive = Archive(file)
    member = archive.members.get(_WEIGHTS)
    if member is None:
        raise SourceError(
            f"{file.path} expected {_WEIGHTS} in it, as Keras 3 saves models, found none: save it again with "
            f"model.save, or give the file of weights"
        )
    if member.method != STORED:
        raise SourceError(
            f"{file.path}: {_WEIGHTS} is packed: expected it stored; unzip it and give that file"
        )
    return FilePart(file, archive.offset_of(member), member.size)
