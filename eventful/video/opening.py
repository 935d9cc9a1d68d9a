"""Opens what FFmpeg reads: a file as a film and nothing else, an address on the network and nothing on this machine.

FFmpeg follows what it finds in a file. A playlist that is named as a film could have it read any other file, or ask any
server; a text would be a film of a terminal.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from eventful.errors import VideoError
from eventful.video.frames import reason

LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtp", "srtp", "rtmp", "rtmps", "udp", "srt", "tcp"})
STORED_SCHEMES = frozenset({"http", "https", "ftp"})

NETWORK_PROTOCOLS = "crypto,data,ftp,http,httpproxy,https,rtmp,rtmpe,rtmps,rtmpt,rtmpte,rtmpts,rtp,srt,srtp,tcp,tls,udp"
"""What a stream from the network may be made of, by FFmpeg's names: no files."""

NO_FILMS = frozenset(
    {
        *("avisynth", "concat", "dash", "ffmetadata", "hls", "image2", "image2pipe", "imf", "lavfi", "rtsp", "sap"),
        *("sdp", "tty", "vapoursynth", "webm_dash_manifest"),
    }
)
"""What a file must not be, by FFmpeg's names: lists of other sources, scripts, texts."""

STREAM_TIMEOUT_S = 15.0


def open_source(source: str) -> Any:
    """A container of PyAV that has a video stream.

    Args:
        source: Video file, stream address or camera device.

    Raises:
        VideoError: If it cannot be opened, or has no video.
    """
    # FFmpeg takes what stands before a colon for a protocol, but not in an absolute path.
    path, timeout = str(Path(source).absolute()), None
    camera = device_format(source)
    options = {} if camera else {"protocol_whitelist": "file", "format_whitelist": _films()}
    if "://" in source:
        path, timeout, options = source, STREAM_TIMEOUT_S, {"protocol_whitelist": NETWORK_PROTOCOLS}
        if scheme_of(source) not in LIVE_SCHEMES | STORED_SCHEMES:
            known = ", ".join(sorted(LIVE_SCHEMES | STORED_SCHEMES))
            raise VideoError(f"video {source} cannot be opened: addresses begin with one of {known}, and ://")
    try:
        container = av.open(path, format=camera, timeout=timeout, container_options=options)
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"video {source} cannot be opened: {reason(error)}") from error
    if not container.streams.video:
        container.close()
        raise VideoError(f"video {source} has no video stream")
    return container


def scheme_of(source: str) -> str:
    """What stands before the :// of an address; empty for a path."""
    return source.partition("://")[0].lower() if "://" in source else ""


def device_format(source: str) -> str | None:
    """How FFmpeg must be told that the source is a camera; None for all others."""
    return "v4l2" if sys.platform == "linux" and source.startswith("/dev/video") else None


@lru_cache(maxsize=1)
def _films() -> str:
    """FFmpeg's names of all formats of films, as it takes them."""
    return ",".join(sorted(av.formats_available - NO_FILMS))
