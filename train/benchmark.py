"""`eventful-benchmark`: time, memory and compute of eventful inference against the dense model.

    eventful-benchmark configs/benchmark.yaml cases=[672/256] repeats=15 out=runs/benchmark

The dense model, in the fastest of several ways of running it, and every mode see the same frames in turn, in one
process. Top-r policy, one stream.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eventful import cli
from eventful.checks.extras import require
from eventful.checks.ranges import SEED, THREADS, setting
from eventful.console.output import say
from eventful.devices import device_named, dtype_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.linear.onednn import available, by_onednn
from train.bench.case import GRAPH, MODES, Setting, from_video, synthetic
from train.bench.dense import WAYS
from train.bench.earlier import Earlier, fallen, read_earlier
from train.bench.memory import available_bytes, peak_bytes, state_bytes
from train.bench.op_profile import profile_frames
from train.bench.paper_column import check_accounting
from train.bench.picture import plot_speedups
from train.bench.report import Report, checks_failed
from train.bench.row import Row
from train.bench.run import time_case
from train.config import check_settings, load_config

COMMAND = "eventful-benchmark"


@dataclass
class BenchmarkConfig:
    """Time, memory and compute of eventful inference against the dense model.

    Attributes:
        model: Name of a timm model, or vitdet_b, the paper's detection backbone; weights are random.
        model_options: Further keyword arguments of `timm.create_model` or `vitdet_b`, as `model_options.NAME=VALUE`.
        cases: Cases to run, each `SIZE/R`: side of the frames in pixels, and tokens that each gate selects, as a number
            or, with a percent sign, as a share.
        modes: Modes to time, any of gate/exact, gate/paper, gate/recompute, frame, and those of CUDA graphs
            (docs/gpu.md); an empty list times none.
        dense: Ways of running the dense model, any of eager (timm with fused attention), onednn (its linear layers by
            oneDNN) and compiled (`torch.compile`); modes are compared with the fastest.
        repeats: Number of timed frames; every one goes through the dense model and all modes.
        warmup: Number of frames between the flush and the timed ones.
        dtype: Data type of weights and frames: float32, bfloat16 or float16.
        buffer_dtype: Data type of the N x N buffers of gate/paper; `dtype` if null.
        device: Name of the device, such as `cpu` or `cuda:0`.
        threads: Number of CPU threads; torch's own choice if 0.
        video: Video file or folder of images to take frames from; a synthetic stream if null.
        noise: Standard deviation of each pixel's change from frame to frame in the synthetic stream.
        changed: Share of the picture that changes entirely in each frame of the synthetic stream.
        seed: Seed of the synthetic stream.
        memory: Whether to measure peak memory, which runs each mode once more, by itself.
        accounting: Cases for which a real ViTDet-B is checked against the paper's compute column.
        profile: Modes of which to list where time goes, operation by operation; `dense` is one, too.
        plots: Whether speedups.png is drawn (needs matplotlib).
        against: A benchmark.json of before: the command ends with code 1 if a speed-up has fallen by more than 10 % on
            a processor of the same kind. None for no comparison.
        out: Folder for benchmark.json, benchmark.md and speedups.png.

    Examples:
        eventful-benchmark configs/benchmark.yaml out=runs/benchmark
        eventful-benchmark 'cases=[672/256]' 'modes=[gate/exact,frame]' repeats=5 memory=false
    """

    model: str = "vit_base_patch16_224"
    model_options: dict[str, Any] = field(default_factory=dict)
    cases: list[str] = field(default_factory=lambda: ["672/256", "672/128", "1024/512"])
    modes: list[str] = field(default_factory=lambda: [mode for mode in MODES if GRAPH not in mode])
    dense: list[str] = field(default_factory=lambda: list(WAYS))
    repeats: int = setting(15, "[1, 1e5]")
    warmup: int = setting(2, "[0, 1e5]")
    dtype: str = "float32"
    buffer_dtype: str | None = None
    device: str = "cpu"
    threads: int = setting(0, THREADS)
    video: str | None = None
    noise: float = setting(0.02, "[0, 1]")
    changed: float = setting(0.05, "(0, 1]")
    seed: int = setting(0, SEED)
    memory: bool = True
    accounting: list[str] = field(default_factory=list)
    profile: list[str] = field(default_factory=list)
    plots: bool = True
    against: str | None = None
    out: str = "runs/benchmark"


def benchmark(config: BenchmarkConfig) -> Report:
    """Runs everything that a config asks for; writes the report after each case.

    Raises:
        UserError: If the config asks for what does not exist.
        RuntimeError: If the accounting of a real run differs from the published figures.
    """
    _check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    report, out = Report(_about(config)), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    for case in config.cases:
        _run_case(config, _setting(config, case), report)
        _write(report, out)
    if config.plots:
        plot_speedups(report.rows, out / "speedups.png")
    for case in config.accounting:
        say(f"accounting of ViTDet-B, {case}")
        size, amount = _parse(case)
        report.checks.append(check_accounting(size, int(amount), torch.device(config.device)))
        _write(report, out)
    failed = checks_failed(report.checks)
    if failed:
        raise RuntimeError(f"the accounting of a real run differs from the published figures: {failed}")
    return report


def _run_case(config: BenchmarkConfig, setting: Setting, report: Report) -> None:
    """Times the modes of one case, and profiles those that are to be profiled."""
    if config.modes:
        _time_modes(config, setting, report)
    for mode in config.profile:
        name = f"{setting.size} px, r={setting.r}, {mode}"
        say(f"profile of {name}")
        vit, frames = setting.build(), _frames(config, setting)
        model = by_onednn(vit) if mode == "dense" else setting.wrap(vit, mode)
        with torch.inference_mode():
            model(next(frames))
        report.profiles[name] = profile_frames(model, frames, max(2, config.repeats // 2))


def _time_modes(config: BenchmarkConfig, setting: Setting, report: Report) -> None:
    """Times the modes that fit into memory together, then measures the memory of each by itself."""
    states = {mode: state_bytes(setting, mode) for mode in config.modes}
    free, reasons = float(available_bytes(setting.device)), dict[str, str]()
    for mode, size in sorted(states.items(), key=lambda item: item[1]):
        # Half as much again for what a frame needs besides.
        free -= 1.5 * size
        if free < 0:
            reasons[mode] = f"needs {1.5 * size / 1e9:.1f} GB beside the other modes"
    fitting = [mode for mode in config.modes if mode not in reasons]
    say(f"{setting.size} px, r={setting.r}: {', '.join(fitting)}")
    # The dense model does not know of r: one race for each size is enough.
    known = next((way.way for way in report.dense if way.size == setting.size and way.fastest), None)
    frames = _frames(config, setting)
    timings, found = time_case(setting, fitting, config.dense, frames, config.warmup, config.repeats, known)
    report.dense += found
    threads, tokens = torch.get_num_threads(), setting.tokens()
    if config.memory and setting.size not in report.dense_peaks:
        report.dense_peaks[setting.size] = peak_bytes(setting, "dense", threads)
    for mode in config.modes:
        peak = peak_bytes(setting, mode, threads) if config.memory and mode in fitting and GRAPH not in mode else None
        row = Row(setting.size, tokens, setting.r, mode, states[mode], timings.get(mode), peak, reasons.get(mode, ""))
        report.rows.append(row)


def _frames(config: BenchmarkConfig, setting: Setting) -> Iterator[Tensor]:
    if config.video is not None:
        return from_video(setting, Path(config.video))
    return synthetic(setting, config.noise, config.changed, config.seed)


def _setting(config: BenchmarkConfig, case: str) -> Setting:
    size, amount = _parse(case)
    buffer_dtype = None if config.buffer_dtype is None else dtype_named(config.buffer_dtype, "buffer_dtype")
    device, dtype = device_named(config.device), dtype_named(config.dtype)
    setting = Setting(config.model, config.model_options, size, 1, dtype, device, buffer_dtype)
    share = amount.removesuffix("%")
    r = int(amount) if share == amount else max(1, round(float(share) / 100 * setting.tokens()))
    return replace(setting, r=r)


def _parse(case: str) -> tuple[int, str]:
    """Size and, as text, number or share of tokens."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+|[0-9]+(?:\.[0-9]+)?%)", case)
    if found is None or int(found[1]) < 1 or float(found[2].removesuffix("%")) <= 0:
        raise UserError(f"a case is SIZE/R, such as 672/256 or 672/10%, got {case!r}")
    return int(found[1]), found[2]


def _check(config: BenchmarkConfig) -> None:
    check_settings(config)
    for case in [*config.cases, *config.accounting]:
        _parse(case)
    for case in config.accounting:
        if case.endswith("%"):
            raise UserError(f"accounting needs a number of tokens, SIZE/R, got {case!r}")
    for name, values, known in (
        ("modes", config.modes, [*MODES]),
        ("profile", config.profile, ["dense", *(mode for mode in MODES if GRAPH not in mode)]),
        ("dense", config.dense, [*WAYS]),
    ):
        for value in values:
            if value not in known:
                raise UserError(f"{name} must be among {', '.join(known)}, got {value!r}")
    if config.modes and not config.dense:
        raise UserError(f"modes are compared with a dense model: give one or more of dense=[{', '.join(WAYS)}]")
    if config.plots:
        require("plots=true", "plot")
    device_named(config.device)
    dtype_named(config.dtype)
    dtype_named(config.buffer_dtype or config.dtype, "buffer_dtype")


def _about(config: BenchmarkConfig) -> dict[str, Any]:
    on_gpu = torch.device(config.device).type == "cuda"
    return {
        "model": config.model,
        "device": torch.cuda.get_device_name(config.device) if on_gpu else platform.machine(),
        "processor": f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 {_bfloat16()}",
        "threads": torch.get_num_threads(),
        "dtype": config.dtype,
        "frames": config.video or f"synthetic, noise {config.noise}, {config.changed:.0%} changed",
        "repeats": config.repeats,
        "torch": torch.__version__,
        "config": asdict(config),
    }


def _bfloat16() -> str:
    return "native" if available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "emulated"


def _write(report: Report, out: Path) -> None:
    replace_text(out / "benchmark.json", json.dumps(report.to_dict(), indent=2) + "\n")
    replace_text(out / "benchmark.md", report.to_markdown())


def _main(argv: Sequence[str]) -> None:
    config = load_config(BenchmarkConfig, argv, COMMAND)
    earlier = None if config.against is None else read_earlier(Path(config.against))
    report = benchmark(config)
    print(report.to_markdown())
    say(f"written to {config.out}: benchmark.json, benchmark.md{', speedups.png' if config.plots else ''}")
    if earlier is not None:
        _compare(report, earlier, str(config.against))


def _compare(report: Report, earlier: Earlier, path: str) -> None:
    """Raises a RuntimeError if speed-ups have fallen."""
    other, lines = fallen(report.about, report.rows, earlier)
    if other:
        say(f"not compared with {path}: {'; '.join(other)}")
    elif lines:
        raise RuntimeError(f"speed-ups have fallen by more than 10 % since {path}: {'; '.join(lines)}")
    else:
        say(f"no speed-up has fallen by more than 10 % since {path}")


def main() -> None:
    """Console entry point."""
    cli.run(COMMAND, _main)


if __name__ == "__main__":
    main()
