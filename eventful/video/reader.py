"""Opens a video, whatever it is: a file, an address, a camera, a picture file, a folder of pictures.

All frames come from here: those that are trained on, those of `eventful-infer`, those of benchmarks.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from eventful.errors import VideoError
from eventful.video.frames import Frame, FrameReader, TimedFrame
from eventful.video.opening import LIVE_SCHEMES, device_format, scheme_of
from eventful.video.picture_reader import PictureReader, images_in
from eventful.video.pictures import is_picture
from eventful.video.streams import StreamReader

__all__ = ["PIXELS_VERSION", "Frame", "FrameReader", "StreamReader", "TimedFrame", "images_in", "read_frames"]

PIXELS_VERSION = 3
"""Goes up with every change by which the same file gives other pixels; stored frames of before are not used then."""


def read_frames(source: str | Path, fps: float | None = None) -> FrameReader:
    """Opens a video.

    Args:
        source: Video or picture file, stream address, camera device, or folder of images (read in natural order: 2
            before 10). Files of several pictures give all of them.
        fps: Frames per second of pictures, 25 if None; videos and animations know when their frames are shown.

    Returns:
        An iterable of uint8 RGB frames (H, W, 3), which holds one frame at a time. They are as a player shows them:
        upright, not mirrored, with square pixels (the longer side of a pixel is kept), transparency laid over black.

    Raises:
        VideoError: If the source is missing, is no video, or is a folder without images.
    """
    text = str(source)
    if scheme_of(text) == "file":
        text = unquote(urlsplit(text).path)
    if scheme_of(text):
        return StreamReader(text, live=scheme_of(text) in LIVE_SCHEMES)
    path = Path(text)
    if not path.exists():
        raise VideoError(f"video {text} does not exist")
    if device_format(text) is not None:
        return StreamReader(text, live=True)
    if path.is_dir():
        return PictureReader(path, fps)
    if not path.is_file():
        # A pipe would be waited for, and cannot be read twice.
        raise VideoError(f"video {text} is no regular file")
    return PictureReader(path, fps) if is_picture(path) else StreamReader(text)
