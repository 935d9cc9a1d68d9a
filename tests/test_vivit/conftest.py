import pytest
import torch
from golden_vivit import SMALL, authors_shapes, golden_weight, small_layout

from envs.convert.names import convert
from envs.vivit import ViViT


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_vivit() -> ViViT:
    """The model of the golden figures."""
    arrays = {name: golden_weight(name, torch.Size(shape)) for name, shape in authors_shapes(SMALL).items()}
    vivit = SMALL.on(torch.device("cpu"))
    vivit.load_state_dict(convert(arrays, [small_layout()], "golden").state)
    return vivit
