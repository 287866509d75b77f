"""Weights that a checkpoint keeps quantized: codes in one tensor, their scales in others beside it.

Comes in: a :class:`.TensorFile` and the name of a tensor. Goes out: one matrix, of codes and scales where the
scheme is per-row, symmetric and 8-bit (nothing is rounded again), else of the numbers that the library which
wrote it would compute. What is found must fit one convention and no other, in names, types and shapes; else
the weight is refused with what was seen beside it. `conventions` has one function for each of them.
"""

from .choice import AS_FOUND, Choice
from .described import DescribedTensors
from .opening import listed, open_tensor

__all__ = ["AS_FOUND", "Choice", "DescribedTensors", "listed", "open_tensor"]
