"""Hooks on modules that eventful inference takes apart, and so never calls as a whole.

Hooks on blocks are called here, on what the block takes and gives for the rows that are computed. Hooks on the modules
in between cannot be: for those there is a warning.

Shape suffixes: B streams, N tokens, P packed rows, D channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_FORWARD = ("_forward_hooks", "_forward_pre_hooks")
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


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
        if any(getattr(module, kind) for kind in left_out):
            warnings.warn(
                f"hooks on {name or 'the model itself'} are not called: eventful inference takes this module apart "
                "(forward hooks on blocks, norms, linear layers and MLPs are called)",
                stacklevel=2,
            )


def _batched(tokens: Tensor) -> Tensor:
    return tokens if tokens.dim() > 2 else tokens[None]
