"""Packed rows are written as they are, whatever their type and layout."""

from __future__ import annotations

import pytest
import torch

from eventful.rows import PackedRows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("channels", [8, 7])
@pytest.mark.parametrize("strided", [False, True])
def test_rows_are_written_to_the_bit(dtype: torch.dtype, channels: int, strided: bool) -> None:
    buffer = torch.arange(2 * 5 * 3 * channels).view(2, 5, 3, channels).to(dtype)
    rows = PackedRows.from_index(torch.tensor([[0, 3], [1, 4]]), 5)
    values = torch.arange(4 * 2 * 3 * channels).view(4, 2, 3, channels).to(dtype)[:, 1]
    values = values if strided else values.contiguous()
    expected = buffer.clone()
    for place, value in zip(((0, 0), (0, 3), (1, 1), (1, 4)), values, strict=True):
        expected[place] = value
    written = rows.put(buffer, values)
    assert written.data_ptr() == buffer.data_ptr() and torch.equal(written, expected)
