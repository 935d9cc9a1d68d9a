import numpy as np
import pytest
import torch
from golden_vivit import SMALL, authors_shapes, golden_weight, small_layout

from envs.convert.names import convert
from envs.vivit import ViViT, encode, view_steps
from envs.vivit.task import ActionRecognition
from envs.vivit.weights import ViViTSizes, save_vivit
from eventful.video.writer import VideoWriter

SHIFTS = {"left": -4, "right": 4, "still": 0}
"""Classes of clips, and the columns by which a texture moves from frame to frame."""


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


def write(path, shift, seed, frames=8, size=(48, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    picture = texture.repeat(8, 0).repeat(8, 1)
    with VideoWriter(path, 10) as video:
        for t in range(frames):
            video.write(np.roll(picture, shift * t, 1))
    return path


@pytest.fixture(scope="session")
def write_video():
    """Writes a video of a texture that moves sideways."""
    return write


@pytest.fixture(scope="session")
def dense_logits():
    """Logits of the views of a video, by the functions that tables are made with."""

    @torch.inference_mode()
    def logits(vivit, video, plan):
        return vivit.temporal(encode(vivit.spatial, view_steps(video, plan)).tokens_VSD)

    return logits


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two clips of each class in each split."""
    folder = tmp_path_factory.mktemp("clips")
    for first, split in enumerate(("train", "val", "test")):
        for name, shift in SHIFTS.items():
            for seed in (0, 1):
                write(folder / split / name / f"{seed}.mp4", shift, 10 * first + seed)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small model of views of four steps that does not say the same of all of them."""
    torch.manual_seed(0)
    sizes = ViViTSizes(size=48, classes=len(SHIFTS), frames=8, dim=24, heads=2, depth=2, temporal_depth=1)
    vivit = sizes.on(torch.device("cpu"))
    for parameter in (vivit.temporal.pos_embed, *vivit.temporal.classifier.parameters()):
        torch.nn.init.normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / "vivit.safetensors"
    save_vivit(vivit, path)
    return path


@pytest.fixture(scope="module")
def task(root, weights):
    return ActionRecognition(weights, root=root, stride=1)
