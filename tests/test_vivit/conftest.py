import pytest
import torch
from golden import golden_weight

from envs.convert.vivit import AUTHORS, from_vivit, to_vivit
from envs.vivit import ViViT
from envs.vivit.weights import ViViTSizes

SMALL = ViViTSizes(64, 97, frames=8, dim=48, heads=3, depth=3, temporal_depth=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def small_vivit() -> ViViT:
    """The model of the golden figures."""
    shapes = from_vivit(SMALL.empty(), AUTHORS)
    state = {name: golden_weight(name, tensor.shape) for name, tensor in shapes.items()}
    return to_vivit(state, "golden", SMALL)
