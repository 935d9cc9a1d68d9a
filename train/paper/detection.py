"""`python -m train.paper.detection`: a detection table of the paper.

    python -m train.paper.detection configs/vid_672.yaml root=ILSVRC2015 weights=vid.safetensors out=runs/vid_672
    torchrun --nproc-per-node 4 -m train.paper.detection configs/vid_672.yaml root=... device=cuda out=runs/vid_672

Sequences are run one by one, each from a flush, and what each came to is kept: an interrupted run goes on where it was,
and processes, which take every n-th sequence each, need not wait for one another. Whoever finds all results there
writes the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM

import eventful
from envs.task import freeze
from envs.vid import VidSequence
from envs.vid.labelled import LabelledVideos, class_list
from envs.vitdet.canvas import Canvas
from envs.vitdet.detector import vitdet_vid
from envs.vitdet.paper_column import architecture_of, selected
from envs.vitdet.roi_heads import detections
from eventful import cli
from eventful.devices import device_named
from eventful.disk.replaced import replace_text
from eventful.errors import UserError
from eventful.macs.paper_column import flush_macs, steady_macs
from policies.content_hash import content_hash
from train.config import check_settings, load_config
from train.distributed import own_device, own_share
from train.paper.detection_config import PaperConfig
from train.paper.published import PUBLISHED
from train.paper.results import Results, SequenceResult
from train.paper.rows import Row, parse_row
from train.paper.table import as_csv, as_markdown, line_of

COMMAND = "train.paper.detection"


class PaperTable:
    """One table.

    Args:
        config: Settings.

    Raises:
        UserError: For settings, data or weights that cannot be used.
        OSError: If a file is missing.
    """

    def __init__(self, config: PaperConfig) -> None:
        self._config, self._rows = config, [parse_row(name) for name in config.rows]
        if len({row.name for row in self._rows}) < len(self._rows) or not self._rows:
            raise UserError(f"rows must be different ones, and at least one, got {config.rows}")
        check_settings(config)
        self._classes = class_list(config.classes)
        videos = LabelledVideos(Path(config.root), config.layout, self._classes, config.empty, config.step)
        self._sequences = videos.split(config.split).sequences[: config.max_sequences]
        self._canvas, self._device = Canvas(config.canvas), device_named(own_device(config.device))
        self._vits: dict[bool, VisionTransformerSAM] = {False: self._make(pooled=False)}
        self._results = Results(Path(config.out), self._setting())

    def compute(self, rank: int = 0, processes: int = 1) -> None:
        """Runs the sequences that fall to one of several processes, as far as nobody has run them yet."""
        for row in self._rows:
            done = self._results.of_row(row)
            for sequence in self._sequences[rank::processes]:
                if sequence.name not in done:
                    self._results.add(row, rank, self._run(row, sequence))

    def write(self) -> Path | None:
        """Writes `table.md` and `table.csv`, and returns the former; None if results are missing yet."""
        lines = []
        for row in self._rows:
            results = self._results.of_row(row)
            if any(sequence.name not in results for sequence in self._sequences):
                return None
            lines.append(line_of(row.name, results, self._sequences, self._canvas, len(self._classes)))
        config, out = self._config, Path(self._config.out)
        is_published = not config.architecture and config.classes is None
        published = PUBLISHED.get(config.canvas, {}) if is_published else {}
        for name, text in {"table.csv": as_csv(lines, published), "table.md": as_markdown(lines, published)}.items():
            replace_text(out / name, text)
        return out / "table.md"

    @torch.inference_mode()
    def _run(self, row: Row, sequence: VidSequence) -> SequenceResult:
        """One sequence, from its flush to its end."""
        variant = row.variant
        vit = self._vit(variant.pooled)
        model = None if variant.attention is None else self._wrapped(row, vit)
        sizes = architecture_of(vit, self._config.canvas)
        found, macs = [], 0.0
        for t, image_HWC in enumerate(sequence.images()):
            frame = self._canvas.prepare(image_HWC[None].to(self._device))
            outputs = vit(frame) if model is None else model(frame)
            found.append(_rows_of(outputs))
            if model is None or model.state is None or t == 0:
                macs += sum(flush_macs(sizes).values())
            else:
                counts = steady_macs(sizes, selected(model.state, sizes), variant.attention == "recompute")
                macs += sum(counts.values())
        return SequenceResult(sequence.name, len(found), macs, found)

    def _wrapped(self, row: Row, vit: VisionTransformerSAM) -> eventful.EventfulModel:
        variant = row.variant
        half = torch.float16 if self._config.half and variant.attention == "paper" else None
        attention = variant.attention or "exact"
        return eventful.wrap(
            vit, row.make_policy(), attention=attention, reference=variant.reference, product_dtype=half
        )

    def _vit(self, pooled: bool) -> VisionTransformerSAM:
        if pooled not in self._vits:
            # Pooling has no weights of its own.
            self._vits[pooled] = self._make(pooled)
            self._vits[pooled].load_state_dict(self._vits[False].state_dict())
        return self._vits[pooled]

    def _make(self, pooled: bool) -> VisionTransformerSAM:
        config = self._config
        torch.manual_seed(0)
        architecture = config.architecture | ({"kv_pool": 2} if pooled else {})
        with cli.user_input("architecture"):
            vit = vitdet_vid(config.canvas, len(self._classes), config.proposals, config.weights, architecture)
        freeze(vit)
        return vit.to(self._device)

    def _setting(self) -> dict[str, object]:
        """What all results depend on; rows can be added later."""
        apart = ("rows", "out", "threads", "device", "root", "weights")
        setting = {key: value for key, value in dataclasses.asdict(self._config).items() if key not in apart}
        sequences = content_hash([[sequence.name, len(sequence)] for sequence in self._sequences])
        weights = content_hash(self._vits[False].state_dict())
        return setting | {"sequences": sequences, "model weights": weights, "device": self._device.type}


def _rows_of(outputs_BK6: torch.Tensor) -> list[list[float]]:
    """The detections of one stream as plain data; JSON keeps single precision to the bit."""
    (found,) = detections(outputs_BK6)
    columns = [found["boxes"], found["scores"][:, None], found["labels"][:, None].float()]
    return torch.cat(columns, 1).tolist()


def _main(argv: Sequence[str]) -> None:
    config = load_config(PaperConfig, argv, COMMAND)
    if config.threads:
        torch.set_num_threads(config.threads)
    table = PaperTable(config)
    table.compute(*own_share())
    written = table.write()
    if written is not None:
        print(f"{written.read_text()}\ntable written to {written}", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        SystemExit: Always; code 2 for settings, data or weights that cannot be used.
    """
    cli.run(COMMAND, _main, argv)


if __name__ == "__main__":
    main()
