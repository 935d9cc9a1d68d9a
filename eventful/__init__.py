"""Eventful vision transformers: state between frames, and updates for the tokens that changed.

>>> model = eventful.wrap(vit, policy=policies.TopR(r=64))
>>> for frame in frames:
...     out = model(frame)
"""

# ruff: noqa: E402 (both come before everything that takes long, or needs what the check is about)
from eventful.checks.shadowing import refuse_shadows
from eventful.console import loading

loading.end_in_one_line()
refuse_shadows("policies")

from eventful.errors import EventfulError, StreamError, UnsupportedModel
from eventful.gates import drive
from eventful.macs.ledger import FrameMacs
from eventful.model import EventfulModel, wrap
from eventful.state import StreamState

__all__ = [
    "EventfulError",
    "EventfulModel",
    "FrameMacs",
    "StreamError",
    "StreamState",
    "UnsupportedModel",
    "drive",
    "wrap",
]
