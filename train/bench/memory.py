"""Memory of a mode: the size of its state before anything is run, and the peak that a frame needs.

On a GPU the peak is what the allocator reports. On a CPU it is the largest resident set of a process of its own, less
that process's set before the first frame: the allocator keeps freed memory, so one process cannot measure two modes.
Resident sets are read as Linux tells them.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eventful.errors import UserError
from eventful.families import adapt
from eventful.frame_plan import make_plan
from eventful.gates import FrameRun, through_frame, through_gates
from eventful.state import BlockState, StreamState
from train.bench.case import Setting, synthetic

_RESET = Path("/proc/self/clear_refs")

FRAMES = 3
"""A flush and two frames after it: what runs for the first time may need more."""


def state_bytes(setting: Setting, mode: str) -> int:
    """Bytes of a mode's state for one stream, from shapes alone: nothing is computed or allocated."""
    meta = torch.device("meta")
    vit = setting.build(meta)
    options = setting.wrap(vit, mode).options
    frame = torch.empty(1, 3, setting.size, setting.size, dtype=setting.dtype, device=meta)
    flush_B = torch.ones(1, dtype=torch.bool, device=meta)
    with torch.no_grad():
        backbone = adapt(vit)
        plan = make_plan(backbone, options, frame)
        state = StreamState([BlockState() for _ in plan.blocks], flush_B, (setting.size, setting.size))
        run = FrameRun(plan, options, state, flush=True, masked=False)
        through = through_frame if options.granularity == "frame" else through_gates
        _finish(through(run, plan.blocks, backbone.embed(frame)))
    features = 1 if options.granularity == "frame" else 0
    return state.nbytes() + features * plan.layout.tokens * plan.layout.dim * setting.dtype.itemsize


def available_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(setting: Setting, mode: str, threads: int) -> int:
    """Peak memory of a mode beyond weights and libraries, state included; `dense` for the dense model.

    Raises:
        UserError: If this system does not tell.
    """
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)
        return _run_cuda(setting, mode)
    if not os.access(_RESET, os.W_OK):
        raise UserError("this system does not tell the peak memory of a process; run with memory=false")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_cpu, args=(setting, mode, threads, sender))
    process.start()
    sender.close()
    try:
        return int(receiver.recv())
    except EOFError as error:
        raise RuntimeError(f"the process that measures the memory of {mode} ended without a result") from error
    finally:
        process.join()


@torch.inference_mode()
def _run_cuda(setting: Setting, mode: str) -> int:
    vit = setting.build()
    model = vit if mode == "dense" else setting.wrap(vit, mode)
    before = torch.cuda.memory_allocated(setting.device)
    torch.cuda.reset_peak_memory_stats(setting.device)
    for _, frame in zip(range(FRAMES), _frames(setting), strict=False):
        model(frame)
    return torch.cuda.max_memory_allocated(setting.device) - before


@torch.inference_mode()
def _run_cpu(setting: Setting, mode: str, threads: int, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(threads)
    vit = setting.build()
    model = vit if mode == "dense" else setting.wrap(vit, mode)
    frames = [frame for _, frame in zip(range(FRAMES), _frames(setting), strict=False)]
    # Building the model may have needed more than a frame does.
    _RESET.write_text("5")
    before = resident_bytes("VmRSS")
    for frame in frames:
        model(frame)
    sender.send(resident_bytes("VmHWM") - before)
    sender.close()


def _frames(setting: Setting) -> Iterator[Tensor]:
    return synthetic(setting, noise=0.02, changed=0.05, seed=0)


def resident_bytes(name: str) -> int:
    """`VmRSS`, the resident set, or `VmHWM`, its peak since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _finish(generator: Iterator[Any]) -> None:
    """Runs a generator that yields nothing to its end."""
    for _ in generator:
        raise RuntimeError("a flush asked for a decision")
