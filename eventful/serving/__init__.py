"""One model for many cameras, which join, leave and send at rates of their own."""

from eventful.serving.cameras import CameraServer, Counts, Served

__all__ = ["CameraServer", "Counts", "Served"]
