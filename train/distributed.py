"""Several processes that train one policy: streams are shared out, gradients and statistics are averaged.

Started by `torchrun`; gloo on CPU, nccl on CUDA. With one process every function here does nothing. All processes hold
the same number of streams, so that means over processes are means over streams. (`DistributedDataParallel` is not used:
it wants one call of `forward` per backward pass, and a policy is asked at every gate of every frame of a window.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eventful.errors import UserError


def own_share() -> tuple[int, int]:
    """Which process this is, and of how many; for work that processes share out without waiting for one another."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def own_device(name: str) -> str:
    """The device of this process, of those that a name such as `cuda` stands for.

    Raises:
        UserError: If several processes were to share one GPU.
    """
    if own_share()[1] == 1 or not name.startswith("cuda"):
        return name
    if name != "cuda":
        raise UserError(f"device={name}: with several processes give device=cuda; each takes a GPU of its own")
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Joins the other processes, if `torchrun` has started this one; yields (rank, number of processes)."""
    if own_share()[1] == 1:
        yield 0, 1
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


@contextmanager
def first_one_first() -> Iterator[None]:
    """Lets the first process run the block alone, then the others: for work that leaves files behind."""
    if not dist.is_initialized():
        yield
        return
    if dist.get_rank():
        dist.barrier()
    yield
    if not dist.get_rank():
        dist.barrier()


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


def gather(value_B: Tensor) -> Tensor:
    """The tensors of all processes, of one shape each, one after the other."""
    if not dist.is_initialized():
        return value_B
    parts = [torch.empty_like(value_B) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value_B.contiguous())
    return torch.cat(parts)


def as_the_first_says(answer: int) -> int:
    """The first process's answer, a number or a bool, in all processes."""
    if not dist.is_initialized():
        return answer
    said = torch.tensor(int(answer))
    dist.broadcast(said, src=0)
    return int(said)


def copy_from_the_first(module: nn.Module) -> None:
    """Gives all processes the first one's weights and buffers."""
    if dist.is_initialized():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter | Tensor]) -> None:
    """Replaces gradients by their means over all processes."""
    if not dist.is_initialized():
        return
    trained = [p for p in parameters if p.requires_grad]
    flat = mean(torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in trained]))
    start = 0
    for p in trained:
        p.grad = flat[start : start + p.numel()].view_as(p).clone()
        start += p.numel()
