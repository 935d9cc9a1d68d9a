"""Decoded footage on disk: each video is decoded once, at the size at which the model sees it.

Random access to the frames of a long video would need seeking, and holding them in memory would bound its length; a
memory-mapped file does neither. It takes H * W * 3 bytes a frame (0.23 MB at 238 x 322).

Shape suffixes: B one frame, T frames, H height, W width, C channels.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eventful.console.output import progress
from eventful.disk.full import written
from eventful.errors import UserError
from eventful.video.reader import PIXELS_VERSION, images_in, read_frames


class Resizer(Protocol):
    """Something that brings frames to one size.

    Attributes:
        size: Height and width (H, W) of the resized frames.
        key: Changes with anything that changes the resized frames.
    """

    size: tuple[int, int]
    key: str

    def resize(self, frames_BHWC: Tensor) -> Tensor:
        """uint8 frames (B, H', W', 3) to uint8 frames (B, H, W, 3)."""


class Alteration(Protocol):
    """Something that is done to resized frames before they are stored.

    Attributes:
        key: Changes with anything that changes the altered frames.
    """

    key: str

    def __call__(self, frame_HWC: Tensor, t: int) -> Tensor:
        """The altered uint8 frame (H, W, 3), for frame number t of the video."""


VIDEO_SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".mkv", ".webm", ".ogv", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v"),
        *(".mpg", ".mpeg", ".vob", ".m2v", ".ts", ".mts", ".m2ts", ".mxf", ".dv", ".mjpeg", ".y4m"),
        *(".h264", ".264", ".h265", ".265", ".hevc"),
    }
)


ABANDONED_S = 24 * 3600.0
"""Time without a further frame after which half of a video belongs to a process that was killed."""


def default_cache() -> Path:
    """`$EVENTFUL_CACHE/distill`, or `~/.cache/eventful-policies/distill`."""
    return Path(os.environ.get("EVENTFUL_CACHE") or Path.home() / ".cache" / "eventful-policies") / "distill"


def videos_in(source: str | Path) -> list[Path]:
    """The videos that a path stands for: itself (a file, a folder of images), or those in a folder of videos.

    Raises:
        UserError: If the path does not exist, or is a folder with neither images nor videos, or with both.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"video {path} does not exist")
    if path.is_file():
        return [path]
    images = images_in(path)
    videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))
    if images and videos:
        raise UserError(
            f"folder {path} has {len(images)} images and {len(videos)} videos: frames of one video, or thumbnails? "
            "Keep them in folders of their own"
        )
    if not images and not videos:
        raise UserError(f"folder {path} has neither images nor videos")
    return videos or [path]


def load_footage(
    video: Path,
    resizer: Resizer,
    stop: int | None,
    cache: Path,
    alteration: Alteration | None = None,
) -> tuple[Tensor, float]:
    """The frames of a video at the model's size.

    Args:
        video: Video file, or a folder of images.
        resizer: Brings the frames to the size (H, W).
        stop: Number of frames to decode, None for all.
        cache: Folder for decoded footage.
        alteration: What is done to the resized frames; None for nothing.

    Returns:
        uint8 frames (T, H, W, 3), memory-mapped, and frames per second.

    Raises:
        VideoError: If the video cannot be read, or is damaged.
        UserError: If the cache cannot be written.
        OSError: If it cannot be made.
    """
    reader = read_frames(video)
    path = cache / f"{_key(video, resizer, stop, alteration)}.rgb"
    if not path.is_file():
        # Minutes for a long video: say what is going on, where stderr is a terminal.
        frames_HWC = progress(islice(reader, stop), f"decoding {video.name}", total=reader.count, leave=False)
        resized = (resizer.resize(torch.from_numpy(frame_HWC)[None])[0] for frame_HWC in frames_HWC)
        altered = resized if alteration is None else (alteration(frame, t) for t, frame in enumerate(resized))
        _decode(altered, path)
    # Mode "c" gives a private, writable view: PyTorch has no read-only tensors and warns of them.
    frames_THWC = np.memmap(path, dtype=np.uint8, mode="c").reshape(-1, *resizer.size, 3)
    return torch.from_numpy(frames_THWC), reader.fps


def _decode(frames: Iterable[Tensor], path: Path) -> None:
    """Writes frames one after the other; the file takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes on several machines may share a cache: only time tells who has died.
    for half in path.parent.glob("*.part"):
        if time.time() - half.stat().st_mtime > ABANDONED_S:
            half.unlink(missing_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            for frame_HWC in frames:
                pixels = frame_HWC.contiguous().numpy().data.cast("B")
                with written(path):
                    while pixels:
                        pixels = pixels[file.write(pixels) :]
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def _key(video: Path, resizer: Resizer, stop: int | None, alteration: Alteration | None) -> str:
    """Changes with anything that changes the stored frames."""
    files = images_in(video) if video.is_dir() else [video]
    facts = [(str(p.resolve()), p.stat().st_mtime_ns, p.stat().st_size) for p in files]
    what = [facts, PIXELS_VERSION, resizer.key, stop, alteration and alteration.key]
    return f"{video.stem}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}"
