"""Hooks on modules that eventful inference takes apart, and so never calls as a whole.

Hooks on blocks are called here, on what the block takes and gives for the rows that are computed. Hooks on the modules
in between cannot be: for those there is a warning.

Shape suffixes: B streams, N tokens, P packed rows, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

_FORWARD = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


_WATCHED: ContextVar[list[Tensor] | None] = ContextVar("watched", default=None)


@contextmanager
def watched() -> Iterator[list[Tensor]]:
    """A stretch of code in which what enters the first block, and what each block gives (B, N, D), is listed."""
    seen: list[Tensor] = []
    token = _WATCHED.set(seen)
    try:
        yield seen
    finally:
        _WATCHED.reset(token)


def watching() -> bool:
    """Whether the tokens between blocks are being listed."""
    return _WATCHED.get() is not None


def show(tokens: Tensor, entering: bool = False) -> None:
    """Lists tokens, if somebody watches: what leaves a block, or what enters the first one."""
    seen = _WATCHED.get()
    if seen is not None and not (entering and seen):
        seen.append(tokens)


def enter(module: nn.Module, tokens: Tensor) -> Tensor:
    """Calls the forward pre-hooks of a block.

    Args:
        module: The block.
        tokens: What it takes: whole frames (B, N, D), or packed rows (P, D), which hooks see as (1, P, D).

    Returns:
        The tokens, as the hooks changed them.
    """
    for key, hook in list(module._forward_pre_hooks.items()):
        inputs: Any
        if key in module._forward_pre_hooks_with_kwargs:
            returned: Any = hook(module, (_batched(tokens),), {})
            inputs = None if returned is None else returned[0]
        else:
            inputs = hook(module, (_batched(tokens),))
        if inputs is not None:
            tokens = (inputs[0] if isinstance(inputs, tuple) else inputs).view_as(tokens)
    return tokens


def leave(module: nn.Module, tokens: Tensor, output: Tensor) -> Tensor:
    """Calls the forward hooks of a block.

    Args:
        module: The block.
        tokens: What it took, like the output.
        output: What it gives: whole frames (B, N, D), or packed rows (P, D), which hooks see as (1, P, D).

    Returns:
        The output, as the hooks changed it.
    """
    for key, hook in list(module._forward_hooks.items()):
        arguments: tuple[Any, ...] = (module, (_batched(tokens),))
        if key in module._forward_hooks_with_kwargs:
            arguments = (*arguments, {})
        returned = hook(*arguments, _batched(output))
        if returned is not None:
            output = returned.view_as(output)
    return output


def warn_of_uncalled(opened: Iterable[tuple[str, nn.Module]], blocks: Iterable[tuple[str, nn.Module]]) -> None:
    """Warns of hooks that are not called.

    Args:
        opened: Name and module of all that is never called as a whole.
        blocks: Name and module of the blocks, of whose hooks only those for the backward pass are left out.
    """
    kinds = [(*one, (*_FORWARD, *_BACKWARD)) for one in opened] + [(*one, _BACKWARD) for one in blocks]
    for name, module, left_out in kinds:
        if any(_is_for_users(hook) for kind in left_out for hook in getattr(module, kind).values()):
            warnings.warn(
                f"hooks on {name or 'the model itself'} are not called: eventful inference takes this module apart "
                "(forward hooks on blocks, norms, linear layers and MLPs are called)",
                stacklevel=2,
            )


def _is_for_users(hook: Any) -> bool:
    """Whether a hook is more than one by which `transformers` lists the outputs that were asked of the dense model."""
    return getattr(hook, "__module__", None) != "transformers.utils.output_capturing"


def _batched(tokens: Tensor) -> Tensor:
    return tokens if tokens.dim() > 2 else tokens[None]
