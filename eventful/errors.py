"""Errors that a caller can act on. Commands print them as one line and exit with code 2."""

from __future__ import annotations


class EventfulError(Exception):
    """Base of all errors that this package raises on purpose."""


class UnsupportedModel(EventfulError, TypeError):  # noqa: N818 (public name fixed by the design)
    """The model has a part that cannot be made eventful; the message names it."""


class StreamError(EventfulError, ValueError):
    """A frame does not fit its stream: other size, other batch, NaN pixels."""


class SelectionError(EventfulError, ValueError):
    """A selection does not fit the gate: wrong shape, tokens that there are not, scores that are no numbers."""


class UserError(EventfulError, ValueError):
    """What the user asked for cannot be done; the message says what, where, and what would be right."""


class VideoError(EventfulError, OSError):
    """A video cannot be read or written; the message names it and the frame."""
