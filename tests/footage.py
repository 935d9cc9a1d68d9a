"""Small videos for tests."""

from pathlib import Path

import numpy as np

from eventful.video import VideoWriter


def moving_frames(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A textured square that moves over a gradient."""
    y, x = np.mgrid[:height, :width]
    texture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    frames = []
    for k in range(count):
        frame = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)
        frame[20:44, k % (width - 24) : k % (width - 24) + 24] = texture
        frames.append(frame)
    return frames


def write_video(path: Path, count: int = 20, height: int = 96, width: int = 128, fps: float = 25) -> Path:
    with VideoWriter(path, fps) as video:
        for frame in moving_frames(count, height, width):
            video.write(frame)
    return path
