"""Runs a policy checkpoint on live or stored video: `eventful-infer VIDEO --policy DIR --out OUT.mp4`.

In Python:

>>> import eventful.infer
>>> for result in eventful.infer.run("street.mp4", "runs/demo/policy", budget=0.1):
...     print(result.index, result.macs_ratio, result.predictions)

The video is streamed in bounded memory, and results are written as they come: when a video breaks at some frame, those
of the frames before it are kept.
"""

from eventful.infer.command import main
from eventful.infer.on_video import prepare, run, run_frames

__all__ = ["main", "prepare", "run", "run_frames"]
