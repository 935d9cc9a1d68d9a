"""Frames of a fixed amount of work as CUDA graphs."""

from eventful.graphs.stream import GraphedStream

__all__ = ["GraphedStream"]
