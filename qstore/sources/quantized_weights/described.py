"""Files that say themselves how the values of their tensors are computed."""

from __future__ import annotations

from abc import abstractmethod

from ..containers.tensor_file import TensorFile
from .recipe import Recipe

__all__ = ["DescribedTensors"]


class DescribedTensors(TensorFile):
    """A file whose names mean nothing: what it says counts, and not the conventions of checkpoints."""

    @abstractmethod
    def recipe(self, name: str) -> Recipe | None:
        """How the values of a tensor are computed; None: they are what it holds.

        Raises
        ------
        Misfit
            It is quantized, and what is said does not fit or is not all that is needed.
        """
