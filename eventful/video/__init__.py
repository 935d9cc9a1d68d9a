"""Video in, video out, and a model in between."""

from eventful.video.reader import FrameReader, StreamReader, images_in, read_frames
from eventful.video.writer import VideoWriter

__all__ = ["FrameReader", "StreamReader", "VideoWriter", "images_in", "read_frames"]
