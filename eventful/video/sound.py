"""Copies the sound of a video beside pictures that are written anew: packet by packet, nothing is decoded.

The sound is read from the source a second time, as far as the pictures have come; nothing is held but one packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av.bitstream import BitStreamFilterContext

from eventful.errors import VideoError
from eventful.video.frames import FrameReader, reason
from eventful.video.opening import open_source
from eventful.video.streams import StreamReader, until_fault

MPEGTS_CODECS = frozenset({"aac", "aac_latm", "ac3", "dca", "eac3", "mp2", "mp2float", "mp3", "mp3float", "opus"})
"""What MPEG-TS has a name for; FFmpeg writes everything else as data that no player knows."""


def sound_of(reader: FrameReader) -> Sound | None:
    """The sound of what a reader reads; None if there is none."""
    return Sound(reader) if isinstance(reader, StreamReader) and reader.has_sound else None


class Sound:
    """All sound tracks of a source, from the first picture on.

    Args:
        reader: Reader of the source; its clock says when the first picture is shown.

    Attributes:
        left_out: What of the sound is not copied, and why; None if all is.
    """

    def __init__(self, reader: StreamReader) -> None:
        self._reader = reader
        self.left_out: str | None = None
        self._source: Any = None
        self._target: Any = None
        self._tracks: dict[int, Any] = {}
        self._filters: dict[int, BitStreamFilterContext] = {}
        self._last_dts: dict[int, int] = {}
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None

    def join(self, target: Any) -> None:
        """Adds the tracks that a container takes to it, before its header is written."""
        if self._reader.live:
            self.leave_out("a live source is read once only")
            return
        try:
            self._source = open_source(self._reader.source)
        except VideoError as error:
            self.leave_out(str(error))
            return
        self._target = target
        for track in self._source.streams.audio:
            try:
                _check_fits(track, target)
                self._tracks[track.index] = target.add_stream_from_template(track)
            except ValueError as error:
                self.leave_out(reason(error))
                continue
            if target.format.name in ("mp4", "mov") and _has_header_in_every_packet(track):
                self._filters[track.index] = BitStreamFilterContext("aac_adtstoasc", track)
        chosen = [self._source.streams[index] for index in self._tracks]
        self._packets = self._demuxed(chosen) if chosen else iter(())

    def copy_until(self, seconds: float) -> None:
        """Copies what is heard before a time, in seconds from the first picture."""
        origin = self._reader.clock.origin or Fraction(0)
        while True:
            packet = self._waiting or next(self._packets, None)
            self._waiting = packet
            if packet is None or packet.dts * packet.time_base - origin >= seconds:
                return
            self._waiting = None
            shift = round(origin / packet.time_base)
            if packet.dts >= shift:
                self._copy(packet, shift)

    def leave_out(self, why: str) -> None:
        """Copies no more, or nothing of one track, for the reason given."""
        self.left_out = why

    def close(self) -> None:
        """Closes the source."""
        self._packets, self._waiting = iter(()), None
        if self._source is not None:
            self._source.close()

    def _demuxed(self, tracks: list[Any]) -> Iterator[Any]:
        """Packets whose times ascend, as containers want them."""
        for packet in until_fault(self._source.demux(tracks)):
            if isinstance(packet, Exception):
                self.leave_out(f"what comes after a damaged place ({reason(packet)})")
                return
            if packet.dts is None:
                packet.dts = packet.pts
            index = packet.stream.index
            if packet.dts is not None and packet.dts > self._last_dts.get(index, packet.dts - 1):
                self._last_dts[index] = packet.dts
                yield from self._without_own_headers(packet)

    def _without_own_headers(self, packet: Any) -> list[Any]:
        """MP4 has one header for all packets (FFmpeg sees to it, but for MP4 in fragments)."""
        bitstream_filter = self._filters.get(packet.stream.index)
        if bitstream_filter is None:
            return [packet]
        track, time_base = packet.stream, packet.time_base
        bare = bitstream_filter.filter(packet)
        for part in bare:
            part.stream, part.time_base = track, time_base
        return bare

    def _copy(self, packet: Any, shift: int) -> None:
        track = self._tracks[packet.stream.index]
        packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        packet.stream = track
        self._target.mux(packet)


def _check_fits(track: Any, target: Any) -> None:
    """Refuses what FFmpeg would write into a container, and hardly a player would play."""
    container, codec = target.format.name, track.codec_context.name
    if (container == "mpegts" and codec not in MPEGTS_CODECS) or (container == "mp4" and codec.startswith("pcm_")):
        raise ValueError(f"{container!r} format does not support {codec!r} codec")


def _has_header_in_every_packet(track: Any) -> bool:
    """Whether a track is AAC as it is broadcast (ADTS)."""
    return track.codec_context.name == "aac" and not track.codec_context.extradata
