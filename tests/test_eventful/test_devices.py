"""Names of devices and data types."""

import pytest
import torch

from eventful.devices import DTYPES, device_named, dtype_named
from eventful.errors import UserError


def test_names() -> None:
    assert device_named("cpu") == torch.device("cpu")
    assert [dtype_named(name) for name in DTYPES] == [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", ["quantum", "cuda:99", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"^device={name}: "):
        device_named(name)


def test_a_type_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"^buffer_dtype must be among float32, bfloat16, float16, got 'int8'"):
        dtype_named("int8", "buffer_dtype")
