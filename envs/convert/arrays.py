"""Arrays by name out of checkpoint files of any kind, without running anything that is in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from envs.backbones import load_torch_file
from eventful.cli import one_line
from eventful.errors import UserError

_WRAPPERS = ("model", "model_state", "state_dict")
"""Keys under which checkpoints of trainings hold the weights."""

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
    ("numpy._core.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
}
"""What pickled arrays are made with: numpy's old and new names."""


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a checkpoint, as float32 where they are floating point.

    Args:
        path: .safetensors; .pkl, a pickled table of numpy arrays; or a file that `torch.save` wrote. The table may lie
            under `model`, `model_state` or `state_dict`.

    Raises:
        UserError: If the file is damaged or holds anything but arrays.
        OSError: If it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    read = {".safetensors": _read_safetensors, ".pkl": _read_pickle}.get(path.suffix, _read_torch)
    state = read(path)
    while isinstance(state, Mapping) and (
        inner := [name for name in _WRAPPERS if isinstance(state.get(name), Mapping)]
    ):
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"checkpoint {path} holds no table of arrays by name")
    return {str(name): _tensor(value, f"checkpoint {path}: {name}") for name, value in state.items()}


def _tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            raise UserError(f"{where} is an array of {value.dtype}, not of numbers")
        # A copy, in the byte order of this machine.
        value = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))
    if not isinstance(value, Tensor):
        raise UserError(f"{where} is no array, but {type(value).__name__}")
    return value.float() if value.is_floating_point() else value


def _read_safetensors(path: Path) -> Any:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise UserError(f"checkpoint {path} is no safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return load_torch_file(path)
    except pickle.UnpicklingError as error:
        # PyTorch's own message advises to switch the safe loading off.
        raise UserError(
            f"checkpoint {path} holds other objects than tensors, which are not loaded, as loading can run code; "
            "save its table of weights alone"
        ) from error
    except OSError:
        raise
    except Exception as error:
        # Whatever a reader of pickles makes of arbitrary bytes.
        raise UserError(f"checkpoint {path} is no PyTorch file: {type(error).__name__}: {one_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _ArraysOnly(file, encoding="latin1").load()
        except _Refused as error:
            raise UserError(f"checkpoint {path}: {error}") from error
        except Exception as error:
            # A damaged pickle is a program gone wrong: it can raise anything.
            raise UserError(f"checkpoint {path} is no pickled table of arrays: {type(error).__name__}") from error


class _Refused(pickle.UnpicklingError):
    """Something that is no array."""


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that makes numpy arrays, and plain tables, lists, texts and numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """The only way of a pickle to any code."""
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) in (("builtins", "bytes"), ("__builtin__", "bytes")):
            return _no_bytes
        if (module, name) not in _ALLOWED:
            raise _Refused(f"holds {module}.{name}; only numpy arrays are read, as loading can run code")
        return _ALLOWED[module, name]


def _no_bytes() -> bytes:
    """The bytes of an empty array in old pickles."""
    return b""


def _latin1(text: str, encoding: str) -> bytes:
    """The bytes of an array, which old pickles hold as text."""
    if encoding != "latin1":
        raise _Refused(f"holds bytes encoded as {encoding!r}, which no array has")
    return text.encode("latin1")
