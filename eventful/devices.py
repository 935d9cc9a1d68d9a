"""Devices and data types by the names that users give them."""

from __future__ import annotations

import torch

from eventful.cli import one_line
from eventful.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The types in which models are run, by name."""


def device_named(name: str) -> torch.device:
    """The device of a name such as `cpu` or `cuda:0`.

    Raises:
        UserError: If there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # PyTorch reports a device that is not there by either.
        raise UserError(f"device={name}: {one_line(error)}") from error
    return device


def dtype_named(name: str, key: str = "dtype") -> torch.dtype:
    """The data type of a name.

    Args:
        name: Name of the data type, one of `DTYPES`.
        key: Name of the setting, for the message.

    Raises:
        UserError: If models are not run in such a type.
    """
    if name not in DTYPES:
        raise UserError(f"{key} must be among {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]
