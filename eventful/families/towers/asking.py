"""What a caller asks of a model of `transformers` besides a frame: answered, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from eventful.errors import UnsupportedModel
from eventful.families.hooks import watched
from policies.protocol import Granularity

_OF_THE_TEXT = frozenset({"input_ids", "attention_mask", "position_ids", "return_loss"})
_ANSWERED = frozenset({"labels", "return_dict", "output_hidden_states", *_OF_THE_TEXT})
_IN_THE_WAY = {
    "output_attentions": "attention weights are never computed as a whole",
    "interpolate_pos_encoding": "frames must have the size that the model's configuration says",
    "bool_masked_pos": "all patches of a frame are seen",
    "attention_mask": "all tokens attend to each other",
}


@dataclass(frozen=True)
class Asked:
    """Besides a frame.

    Attributes:
        arguments: What is handed on to the model's own code.
        as_tuple: Whether a tuple is returned in place of the model's output class.
        hidden: What entered the first layer and what each layer gave (B, N, D), filled as the frame goes through;
            None if nobody asked.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    as_tuple: bool = False
    hidden: list[Tensor] | None = None


_NOW: ContextVar[Asked | None] = ContextVar("asked", default=None)
_NOTHING = Asked()


def asked_now() -> Asked:
    """What is asked of the frame that is being computed."""
    return _NOW.get() or _NOTHING


@contextmanager
def asking(arguments: Mapping[str, Any], granularity: Granularity) -> Iterator[None]:
    """A stretch of code in which one frame is computed, with these arguments besides it.

    Raises:
        UnsupportedModel: Naming what is asked and cannot be answered.
    """
    wanted = {name: value for name, value in arguments.items() if value is not None and value is not False}
    texts = "input_ids" in wanted
    for name in wanted:
        if name not in _ANSWERED or (name in _OF_THE_TEXT and not texts):
            reason = _IN_THE_WAY.get(name, f"known besides the frame are {', '.join(sorted(_ANSWERED))}")
            raise UnsupportedModel(f"{name}={wanted[name]!r:.40} is not supported by an eventful model: {reason}")
    hidden = wanted.pop("output_hidden_states", False)
    if hidden is not False and (hidden is not True or granularity == "frame" or texts):
        raise UnsupportedModel(
            f"output_hidden_states={hidden!r} is not supported here: tokens between layers are kept up to date "
            "only with granularity 'gate', and given as a whole (True), for one tower"
        )
    wanted.pop("return_dict", None)
    as_tuple = arguments.get("return_dict") is False
    if hidden:
        with watched() as seen, _in_force(Asked(wanted, as_tuple, seen)):
            yield
    else:
        with _in_force(Asked(wanted, as_tuple)):
            yield


def nothing_asked() -> AbstractContextManager[None]:
    """A stretch of code in which the model is run for its own sake."""
    return _in_force(None)


@contextmanager
def _in_force(asked: Asked | None) -> Iterator[None]:
    token = _NOW.set(asked)
    try:
        yield
    finally:
        _NOW.reset(token)
