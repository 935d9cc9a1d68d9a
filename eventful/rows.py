"""The rows of a gate that are brought up to date, in the three ways of running a block.

`AllRows` is the dense model (flush, select-all), `PackedRows` gathers the selected rows, computes only those and
scatters them back (inference: real savings), `MaskedRows` computes every row and blends (training: static shapes,
differentiable; b <- m f(c) + (1 - m) b). The block code is the same for all three: `take`, compute, `put`.

Shape suffixes: B streams, N tokens, M selected tokens of one stream, P selected tokens of all streams together.
A trailing ... stands for any further dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from policies.protocol import Selection

Counts = np.ndarray | Tensor
"""Selected tokens of each stream (B,): float64 array, or a tensor where the count carries a gradient."""


class Rows:
    """A set of token rows in B streams of N tokens.

    Attributes:
        streams: Number B of streams.
        tokens: Number N of tokens of a stream.
        counts: Number of selected rows in each stream.
    """

    streams: int
    tokens: int
    counts: Counts

    def take(self, x_BN: Tensor) -> Tensor:
        """The rows of x_BN (B, N, ...) on which to compute."""
        raise NotImplementedError

    def put(self, buffer_BN: Tensor | None, values: Tensor) -> Tensor:
        """The buffer (B, N, ...) with the rows replaced by `values`, shaped like what `take` returned.

        The buffer may be edited in place; callers go on with the returned tensor.
        """
        raise NotImplementedError

    def table(self, table_N: Tensor) -> Tensor:
        """Rows of a per-position table (N, ...) that all streams share, to go with what `take` returned."""
        raise NotImplementedError

    def mask(self) -> Tensor | None:
        """The set as a bool mask (B, N), or None if it is all rows."""
        raise NotImplementedError

    def stamp(self, stamp_BN: Tensor, frame: int) -> Tensor:
        """Frame numbers of the last update, with `frame` written at the rows; may edit in place."""
        raise NotImplementedError

    @property
    def empty(self) -> bool:
        """Whether it is known, without waiting for a device, that there is nothing to compute."""
        return False


class AllRows(Rows):
    """Every row: values replace the buffer.

    Args:
        streams: Number B of streams.
        tokens: Number N of tokens of a stream.
        in_place: Whether values are copied into an existing buffer; must be False where gradients flow.
    """

    def __init__(self, streams: int, tokens: int, in_place: bool) -> None:
        self.streams, self.tokens, self._in_place = streams, tokens, in_place
        self.counts = np.full(streams, float(tokens))

    def take(self, x_BN: Tensor) -> Tensor:
        """See `Rows.take`."""
        return x_BN

    def put(self, buffer_BN: Tensor | None, values: Tensor) -> Tensor:
        """See `Rows.put`."""
        if not self._in_place:
            return values
        # A copy, because values may be (a view of) another buffer that is edited later.
        return values.clone(memory_format=torch.contiguous_format) if buffer_BN is None else buffer_BN.copy_(values)

    def table(self, table_N: Tensor) -> Tensor:
        """See `Rows.table`."""
        return table_N

    def mask(self) -> Tensor | None:
        """See `Rows.mask`."""
        return None

    def stamp(self, stamp_BN: Tensor, frame: int) -> Tensor:
        """See `Rows.stamp`."""
        return torch.full_like(stamp_BN, frame)


class PackedRows(Rows):
    """Selected rows only, of all streams in one list, in order of stream and token.

    Attributes:
        flat_P: Indices b * N + n of the selected rows.
        lengths: Number of selected rows in each stream, as Python ints.
        index_BM: Token indices (B, M) if all streams select the same number, else None.
    """

    def __init__(self, flat_P: Tensor, lengths: Sequence[int], tokens: int) -> None:
        self.streams, self.tokens = len(lengths), tokens
        self.flat_P = flat_P
        self.lengths = lengths
        self.counts = np.asarray(lengths, dtype=np.float64)
        self.index_BM: Tensor | None = None
        if self.streams == 1:
            self.index_BM = flat_P[None]
        elif len(set(lengths)) == 1:
            self.index_BM = flat_P.view(self.streams, -1) % tokens

    @classmethod
    def from_index(cls, index_BM: Tensor, tokens: int) -> PackedRows:
        """The rows of the same number of token indices in each stream."""
        B, M = index_BM.shape
        if B == 1:
            return cls(index_BM[0], [M], tokens)
        offset_B1 = torch.arange(0, B * tokens, tokens, device=index_BM.device)[:, None]
        return cls((index_BM + offset_B1).reshape(-1), [M] * B, tokens)

    @classmethod
    def from_mask(cls, mask_BN: Tensor) -> PackedRows:
        """The rows where a bool mask is True."""
        flat_P = mask_BN.reshape(-1).nonzero().squeeze(1)
        lengths = [flat_P.numel()] if mask_BN.shape[0] == 1 else mask_BN.sum(1).tolist()
        return cls(flat_P, lengths, mask_BN.shape[1])

    def take(self, x_BN: Tensor) -> Tensor:
        """See `Rows.take`; the rows come back as (P, ...)."""
        return x_BN.reshape(-1, *x_BN.shape[2:]).index_select(0, self.flat_P)

    def put(self, buffer_BN: Tensor | None, values: Tensor) -> Tensor:
        """See `Rows.put`."""
        if buffer_BN is None:
            raise ValueError("packed rows need a buffer to go into: the stream has not been flushed")
        # A buffer that masked rows have left behind may be a view of a permuted tensor.
        buffer_BN = buffer_BN.contiguous()
        flat = buffer_BN.view(-1, *buffer_BN.shape[2:])
        # Under autocast, layers return another type than the one the buffer began with.
        _write_rows(flat, self.flat_P, values.reshape(-1, *buffer_BN.shape[2:]).to(buffer_BN.dtype))
        return buffer_BN

    def table(self, table_N: Tensor) -> Tensor:
        """See `Rows.table`."""
        return table_N.index_select(0, self.flat_P % self.tokens)

    def mask(self) -> Tensor:
        """See `Rows.mask`."""
        mask = torch.zeros(self.streams * self.tokens, dtype=torch.bool, device=self.flat_P.device)
        return mask.index_fill_(0, self.flat_P, True).view(self.streams, self.tokens)

    def stamp(self, stamp_BN: Tensor, frame: int) -> Tensor:
        """See `Rows.stamp`; edits in place."""
        stamp_BN.view(-1).index_fill_(0, self.flat_P, frame)
        return stamp_BN

    @property
    def empty(self) -> bool:
        """See `Rows.empty`."""
        return self.flat_P.numel() == 0

    def split(self) -> list[Tensor]:
        """Token indices of each stream."""
        parts = self.flat_P.split(list(self.lengths))
        return [part - b * self.tokens for b, part in enumerate(parts)]


class FilledRows(PackedRows):
    """A fixed number of rows of which some are meant; what is computed for the others is not kept.

    Shapes are known before it is known which rows there are, so that nobody waits for the device. Costs are those of
    all rows.

    Attributes:
        valid_P: Which rows are meant, bool.
    """

    def __init__(self, index_BM: Tensor, valid_BM: Tensor, tokens: int) -> None:
        rows = PackedRows.from_index(index_BM, tokens)
        super().__init__(rows.flat_P, rows.lengths, tokens)
        self.valid_P = valid_BM.reshape(-1)

    def put(self, buffer_BN: Tensor | None, values: Tensor) -> Tensor:
        """See `Rows.put`."""
        if buffer_BN is None:
            return super().put(buffer_BN, values)
        old = self.take(buffer_BN)
        valid = self.valid_P.view(-1, *[1] * (old.dim() - 1))
        return super().put(buffer_BN, torch.where(valid, values.reshape(old.shape).to(old.dtype), old))

    def mask(self) -> Tensor:
        """See `Rows.mask`."""
        mask = torch.zeros(self.streams * self.tokens, dtype=torch.bool, device=self.flat_P.device)
        return mask.index_copy_(0, self.flat_P, self.valid_P).view(self.streams, self.tokens)

    def stamp(self, stamp_BN: Tensor, frame: int) -> Tensor:
        """See `Rows.stamp`; edits in place."""
        stamp_P = stamp_BN.view(-1).index_select(0, self.flat_P).masked_fill_(self.valid_P, frame)
        stamp_BN.view(-1).index_copy_(0, self.flat_P, stamp_P)
        return stamp_BN


class MaskedRows(Rows):
    """Every row is computed, and blended into the buffer by a mask.

    Attributes:
        mask_BN: Mask of the rows, bool, or in [0, 1] and carrying gradients.
    """

    def __init__(self, mask_BN: Tensor) -> None:
        self.streams, self.tokens = mask_BN.shape
        self.mask_BN = mask_BN
        self.counts = mask_BN.double().sum(1)

    def take(self, x_BN: Tensor) -> Tensor:
        """See `Rows.take`; here all rows."""
        return x_BN

    def put(self, buffer_BN: Tensor | None, values: Tensor) -> Tensor:
        """See `Rows.put`; returns a new tensor."""
        if buffer_BN is None:
            raise ValueError("masked rows need a buffer to blend with: the stream has not been flushed")
        mask = self.mask_BN.reshape(self.mask_BN.shape + (1,) * (values.dim() - 2))
        if mask.dtype == torch.bool:
            return torch.where(mask, values, buffer_BN)
        mask = mask.to(values.dtype)
        return mask * values + (1 - mask) * buffer_BN

    def table(self, table_N: Tensor) -> Tensor:
        """See `Rows.table`."""
        return table_N

    def mask(self) -> Tensor:
        """See `Rows.mask`."""
        return self.mask_BN if self.mask_BN.dtype == torch.bool else self.mask_BN > 0.5

    def stamp(self, stamp_BN: Tensor, frame: int) -> Tensor:
        """See `Rows.stamp`; returns a new tensor."""
        return torch.where(self.mask(), torch.full_like(stamp_BN, frame), stamp_BN)


def rows_of(selection: Selection, tokens: int, flush_B: Tensor | None, masked: bool, fills: bool = False) -> Rows:
    """The rows that a selection stands for.

    Args:
        selection: A policy's answer, as `eventful.checks.selections` lets it pass.
        tokens: Number N of tokens of a stream.
        flush_B: Streams of which everything must be computed whatever the policy says, or None.
        masked: Whether execution is masked (training) rather than packed.
        fills: Whether rows that only fill up may be computed; if not, those that are meant are picked out.
    """
    if masked:
        mask_BN = selection.as_mask(tokens)
        if flush_B is not None:
            mask_BN = torch.where(flush_B[:, None], torch.ones_like(mask_BN), mask_BN)
        return MaskedRows(mask_BN)
    whole = selection.valid_BM is None
    if selection.index_BM is not None and selection.valid_BM is not None and flush_B is None and fills:
        return FilledRows(selection.index_BM, selection.valid_BM, tokens)
    if selection.index_BM is not None and whole and flush_B is None:
        return _full_or_packed(PackedRows.from_index(selection.index_BM, tokens))
    mask_BN = selection.as_mask(tokens)
    if flush_B is not None:
        mask_BN = mask_BN | flush_B[:, None]
    return _full_or_packed(PackedRows.from_mask(mask_BN))


def _write_rows(table_N: Tensor, index_P: Tensor, rows_P: Tensor) -> None:
    """Writes rows (P, ...) into a table (N, ...) of the same type, in place."""
    # On CPUs torch writes indexed rows element by element: in elements of 16 bytes that takes a third of the time.
    if _is_wide(table_N) and _is_wide(rows_P):
        table_N, rows_P = table_N.view(torch.complex128), rows_P.view(torch.complex128)
    table_N.index_copy_(0, index_P, rows_P)


def _is_wide(x: Tensor) -> bool:
    """Whether a tensor on a CPU can be seen as elements of 16 bytes."""
    if x.device.type != "cpu" or x.dim() < 2 or x.stride(-1) != 1 or torch.compiler.is_exporting():
        return False
    # All multiples of 16 bytes: the greatest common divisor is.
    return math.gcd(x.shape[-1], x.storage_offset(), *x.stride()[:-1]) * x.itemsize % 16 == 0


def _full_or_packed(rows: PackedRows) -> Rows:
    if all(length == rows.tokens for length in rows.lengths):
        return AllRows(rows.streams, rows.tokens, in_place=True)
    return rows
