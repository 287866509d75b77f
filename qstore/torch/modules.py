"""Frozen drop-ins for ``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag`` whose table is a store."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engine.arguments import as_row_numbers, as_weights
from ..engine.arrays import as_array
from ..engine.quantization import bag_lengths, to_float64
from ..errors import FormatError
from ..store import Store, as_store
from ..system.options import flag, one_of, shown
from .library import torch
from .taking import check_device, check_dtype, rounded_once, take_rows

__all__ = ["Embedding", "EmbeddingBag"]


class _FrozenTable(torch.nn.Module):
    """What both modules are: a store, the type and device of what it gives, and no parameters."""

    _like: torch.Tensor

    def __init__(
        self,
        store: Store,
        padding_idx: int | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        self.store = as_store(store)
        self.padding_idx = _padding(padding_idx, store.shape[0])
        # An empty tensor that torch moves and converts with the module: it tells where values are wanted.
        wanted = check_dtype(torch.float32 if dtype is None else dtype)
        like = torch.empty(0, dtype=wanted, device=check_device(device))
        self.register_buffer("_like", like, persistent=False)

    @property
    def num_embeddings(self) -> int:
        """Rows of the store."""
        return self.store.shape[0]

    @property
    def embedding_dim(self) -> int:
        """Columns of the store."""
        return self.store.shape[1]

    def get_extra_state(self) -> torch.Tensor:
        """The store's content id, 16 bytes: all that a state dict holds of this module."""
        return torch.tensor(list(bytes.fromhex(self.store.content_id)), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Check a content id.

        Raises
        ------
        FormatError
            The state was saved over a store of another content.
        """
        found = bytes(state.tolist()).hex()
        if found != self.store.content_id:
            raise FormatError(
                f"the state was saved with an embedding store of content {found}, but {self.store.path} has "
                f"content {self.store.content_id}: open the store that belongs to it"
            )

    def extra_repr(self) -> str:
        """Shape, options, and where the rows come from."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return (
            f"{self.num_embeddings}, {self.embedding_dim}{padding}, "
            f"dtype={self._like.dtype}, store={self.store.path!r}"
        )


class Embedding(_FrozenTable):
    """Frozen drop-in for :class:`torch.nn.Embedding`: gives the rows of a store.

    Equal, bit for bit, to ``torch.nn.Embedding.from_pretrained`` of the dequantized matrix. There is no
    ``weight`` and nothing to train; a state dict holds the store's content id alone, and loading one of
    another content is an error. ``.to()``, ``.half()`` and the like set type and device of what
    :meth:`forward` gives.

    Parameters
    ----------
    store : Store
        Stays open for as long as the module is used. Pickling the module sends path and content id.
    padding_idx : int, optional
        Kept for those who ask; as in torch, the row is read like any other.
    dtype : torch.dtype, optional
        float32 (the default), float16, bfloat16 or float64: the float64 value rounded once.
    device : torch.device or str, optional
        Where values are wanted; see :func:`qstore.torch.take` for what travels there.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile, torch
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> _ = qstore.build(127 * np.eye(3, dtype=np.float32), path)
    >>> embedding = Embedding(qstore.open(path))
    >>> embedding(torch.tensor([[2, 0]]))
    tensor([[[  0.,   0., 127.],
             [127.,   0.,   0.]]])
    """

    def __init__(
        self,
        store: Store,
        padding_idx: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(store, padding_idx, dtype, device)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Rows numbered `input`, shape ``input.shape + (D,)``; IndexError for one that is not there.

        One gather, without looking for repeats first: reading a row again costs less than copying it.
        """
        if torch.compiler.is_compiling():  # graphs break here: what reads the store is not torch's
            return torch.compiler.disable(self._read)(input)
        return self._read(input)

    def prefetch(self, input: torch.Tensor) -> int:
        """Have the rows of an input that comes soon read into memory: see :meth:`qstore.Store.prefetch`.

        Parameters
        ----------
        input : tensor of int
            What :meth:`forward` will get. On another device than the processor it is waited for, and copied.

        Returns
        -------
        int
            How many of the rows are being read, or are there.
        """
        return self.store.prefetch(_row_numbers(input))

    def _read(self, input: torch.Tensor) -> torch.Tensor:
        like = self._like
        return take_rows(self.store, _row_numbers(input), like.dtype, like.device)


class EmbeddingBag(_FrozenTable):
    """Frozen drop-in for :class:`torch.nn.EmbeddingBag`: sums or means of bags of rows.

    Rows are added up in float64 in the order of the bag and rounded once; torch adds in float32, so its
    last bits may differ. See :class:`Embedding` for state dicts, types and devices.

    Parameters
    ----------
    store : Store
    mode : {"mean", "sum"}
        As in torch, the mean is the default.
    include_last_offset : bool
        Offsets have one more entry, the number of all rows.
    padding_idx : int, optional
        Rows of this number are left out of their bag, and not counted in its mean.
    dtype, device : optional
        As in :class:`Embedding`.

    Examples
    --------
    >>> import numpy as np, os, qstore, tempfile, torch
    >>> path = os.path.join(tempfile.mkdtemp(), "ids.h5")
    >>> _ = qstore.build(127 * np.eye(3, dtype=np.float32), path)
    >>> bags = EmbeddingBag(qstore.open(path), mode="sum")
    >>> bags(torch.tensor([0, 2, 2]), torch.tensor([0, 1]))
    tensor([[127.,   0.,   0.],
            [  0.,   0., 254.]])
    """

    def __init__(
        self,
        store: Store,
        mode: Literal["sum", "mean"] = "mean",
        *,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__(store, padding_idx, dtype, device)
        one_of("mode", mode, ("sum", "mean"))
        self.mode: Literal["sum", "mean"] = mode
        self.include_last_offset = flag("include_last_offset", include_last_offset)

    def forward(
        self,
        input: torch.Tensor,
        offsets: torch.Tensor | None = None,
        per_sample_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One row for each bag.

        Parameters
        ----------
        input : tensor of int, shape (m,) or (bags, n)
            Row numbers. In two dimensions every line is a bag.
        offsets : tensor of int, shape (bags,)
            Where each bag begins; with one dimension only.
        per_sample_weights : tensor of float, shape of `input`, optional
            Factor of each row; for sums only, as in torch.

        Returns
        -------
        torch.Tensor, shape (bags, D)

        Raises
        ------
        IndexError
            A row is not there.
        ValueError
            Shapes do not fit, or offsets fall or pass the end.
        """
        if torch.compiler.is_compiling():
            return torch.compiler.disable(self._pool)(input, offsets, per_sample_weights)
        return self._pool(input, offsets, per_sample_weights)

    def _pool(
        self, input: torch.Tensor, offsets: torch.Tensor | None, per_sample_weights: torch.Tensor | None
    ) -> torch.Tensor:
        rows = _row_numbers(input)
        starts = _starts(rows, offsets, self.include_last_offset)
        weights = self._weights(input, per_sample_weights)
        rows, starts, weights = _without(self.padding_idx, rows.reshape(-1), starts, weights)
        dtype = self._like.dtype
        direct = dtype in (torch.float32, torch.float64)
        sums = torch.empty((len(starts), self.embedding_dim), dtype=dtype if direct else torch.float64)
        self.store.pool(rows, starts, weights, self.mode, out=sums.numpy())
        return rounded_once(sums, dtype).to(self._like.device)

    def _weights(self, input: torch.Tensor, weights: torch.Tensor | None) -> NDArray[np.float64] | None:
        if weights is None:
            return None
        if self.mode != "sum":
            raise NotImplementedError(f'per_sample_weights need mode "sum", here it is {self.mode!r}')
        factors = as_array(weights, "per_sample_weights")
        if factors.shape != tuple(input.shape):
            raise ValueError(
                f"per_sample_weights have shape {factors.shape}, expected that of input, {tuple(input.shape)}"
            )
        return to_float64(as_weights(factors.reshape(-1), factors.size))

    def extra_repr(self) -> str:
        """Shape, options, and where the rows come from."""
        last = ", include_last_offset=True" if self.include_last_offset else ""
        return f"{super().extra_repr()}, mode={self.mode!r}{last}"


def _padding(index: int | None, rows: int) -> int | None:
    if index is None:
        return None
    if not isinstance(index, (int, np.integer)) or not -rows <= index < rows:
        raise ValueError(f"padding_idx is {shown(index)}, expected a row of {rows}")
    return int(index) % rows


def _row_numbers(input: torch.Tensor) -> NDArray[np.int64]:
    """Row numbers on the processor; negative ones are none, as in torch."""
    rows = as_row_numbers(input)
    if rows.size and rows.min() < 0:
        raise IndexError(f"index out of range: row {rows.min()} is negative")
    return rows


def _starts(
    rows: NDArray[np.int64], offsets: torch.Tensor | None, include_last_offset: bool
) -> NDArray[np.int64]:
    """Where each bag begins in the rows, laid out one after the other."""
    if rows.ndim == 2:
        if offsets is not None:
            raise ValueError("offsets must be None where input has two dimensions: every line is a bag")
        return np.arange(rows.shape[0], dtype=np.int64) * rows.shape[1]
    starts = None if offsets is None else as_row_numbers(offsets)
    if rows.ndim != 1 or starts is None or starts.ndim != 1:
        found = None if starts is None else starts.shape
        raise ValueError(
            f"input has shape {rows.shape} and offsets {found}: "
            f"expected (m,) and (bags,), or (bags, n) and None"
        )
    if not include_last_offset:
        return starts
    if not starts.size or starts[-1] != rows.size:
        raise ValueError(
            f"offsets end with {starts[-1:].tolist()}, expected [{rows.size}], the number of rows: "
            f"include_last_offset is set"
        )
    return starts[:-1]


def _without(
    padding: int | None,
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64] | None]:
    """The bags without the padding row."""
    if padding is None:
        return rows, starts, weights
    bag_lengths(starts, rows.size)  # says what is wrong with offsets, before they change
    kept = rows != padding
    before = np.concatenate(([0], np.cumsum(kept)))
    return rows[kept], before[starts], None if weights is None else weights[kept]
