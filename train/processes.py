"""Several processes that train one policy: streams are shared out, gradients and statistics are averaged.

Started by `torchrun`; gloo on CPU, nccl on CUDA. With one process every function here does nothing. All processes hold
the same number of streams, so that means over processes are means over streams.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eventful.errors import UserError


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Joins the other processes, if `torchrun` has started this one; yields (rank, number of processes)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), world
    finally:
        dist.destroy_process_group()


def share_out(streams: int, rank: int, world: int) -> range:
    """The streams of one process.

    Raises:
        UserError: If they cannot be shared out evenly.
    """
    if streams % world:
        raise UserError(
            f"{streams} streams cannot be shared out evenly to {world} processes; set streams to a multiple"
        )
    each = streams // world
    return range(rank * each, (rank + 1) * each)


def mean(value: Tensor) -> Tensor:
    """Mean of a detached tensor over all processes."""
    value = value.detach()
    if not dist.is_initialized():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def average_gradients(module: nn.Module) -> None:
    """Replaces gradients by their means over all processes."""
    if not dist.is_initialized():
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
    flat = mean(flat)
    start = 0
    for p in parameters:
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()
