"""Image files, decoded in threads ahead of whoever looks at them, few at a time.

Shape suffixes: H height, W width, C channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eventful.cli import one_line
from eventful.errors import UserError, VideoError


def decoded(paths: Sequence[Path], workers: int = 2, ahead: int = 8) -> Iterator[Tensor]:
    """The images one after another, uint8 RGB (H, W, 3), all of one size.

    Besides the one that was handed out, at most `ahead` images are in memory.

    Args:
        paths: Image files.
        workers: Number of threads that decode.
        ahead: Number of images that are decoded before they are asked for.

    Raises:
        UserError: If there is no worker, or nothing may be decoded ahead.
        VideoError: At an image that cannot be read, or has another size than the first.
    """
    if min(workers, ahead) < 1:
        raise UserError(f"workers and ahead must be at least 1, got {workers} and {ahead}")
    return _decoded(paths, workers, ahead)


def read_image(path: Path) -> Tensor:
    """One image as it is stored, uint8 RGB (H, W, 3): boxes refer to that, whatever orientation its tags ask for.

    Raises:
        VideoError: If it cannot be read.
    """
    with _reported(path), Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of an image, from its first bytes.

    Raises:
        VideoError: If it cannot be read.
    """
    with _reported(path), Image.open(path) as image:
        return image.height, image.width


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow reports damaged files by any of these.
        raise VideoError(f"frame {path} cannot be read: {one_line(error)}") from error


def _decoded(paths: Sequence[Path], workers: int, ahead: int) -> Iterator[Tensor]:
    size: torch.Size | None = None
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Tensor]] = deque(pool.submit(read_image, path) for path in paths[:ahead])
        try:
            for k, path in enumerate(paths):
                image_HWC = waiting.popleft().result()
                size = size or image_HWC.shape
                if image_HWC.shape != size:
                    raise VideoError(f"frame {path} is {_text(image_HWC.shape)}, those before it are {_text(size)}")
                if k + ahead < len(paths):
                    waiting.append(pool.submit(read_image, paths[k + ahead]))
                yield image_HWC
                del image_HWC
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _text(size: torch.Size) -> str:
    return f"{size[1]}x{size[0]} (width x height)"
