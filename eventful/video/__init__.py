"""Video in, video out, and a model in between."""

from eventful.video.reader import FrameReader, StreamReader, TimedFrame, images_in, read_frames
from eventful.video.writer import VideoWriter

__all__ = ["FrameReader", "StreamReader", "TimedFrame", "VideoWriter", "images_in", "read_frames"]
