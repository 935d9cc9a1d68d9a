"""Rounds of Python's garbage collector that hold up no frame."""

from __future__ import annotations

import gc


def settle_heap() -> None:
    """Takes what is there now out of the rounds of the garbage collector; call it once everything is loaded.

    A full round looks at all objects of the process, hundreds of thousands once PyTorch and a model are there: a fifth
    of a second, some time after the first frames. What is there for good need not be looked at again. It is freed all
    the same when nothing refers to it; only cycles of it are kept.
    """
    gc.collect()
    gc.freeze()
