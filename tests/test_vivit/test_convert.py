"""Checkpoints by the names of Eventful Transformers and of TAdaConv: every tensor finds its place, or is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from golden_vivit import SMALL, Shapes, authors_shapes, small_layout, tadaconv_shapes
from safetensors.torch import save_file
from torch import Tensor

from envs.convert.arrays import read_arrays
from envs.convert.names import convert
from envs.convert.vivit import LAYOUTS
from envs.vivit.weights import ViViTSizes, load_vivit
from eventful.errors import UserError

KINETICS, EPIC = ViViTSizes(224, 400), ViViTSizes(320, 97)
FILES = [
    authors_shapes(KINETICS),
    authors_shapes(EPIC),
    tadaconv_shapes(KINETICS, "head.linear"),
    tadaconv_shapes(EPIC, "head.linear1"),
]
"""What the files that `LAYOUTS` are for hold."""


def flat(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("index", range(4), ids=[layout.name for layout in LAYOUTS])
def test_the_published_files_are_told_apart(index: int) -> None:
    layout = LAYOUTS[index]
    one = dataclasses.replace(layout, model=lambda device: torch.nn.Module())
    assert one.expected() == {}
    places = {layout.renamed(name) for name in FILES[index] if not layout.is_dropped(name)}
    assert places == layout.expected().keys() and len(places) == 204
    with pytest.raises(UserError, match=f"is not quite {layout.name}: of another shape: [^,]*\\(7,\\)[^,]*, which"):
        last = next(reversed([name for name in FILES[index] if not layout.is_dropped(name)]))
        convert(flat(FILES[index]) | {last: torch.zeros(7)}, LAYOUTS, "a.pth")


def test_the_published_sizes() -> None:
    assert sum(torch.Size(shape).numel() for shape in authors_shapes(EPIC).values()) == 114_986_593


def numbered(shapes: Shapes, index: int) -> dict[str, Tensor]:
    """Random tensors, drawn in the order of the names that they will have."""
    generator, layout = torch.Generator().manual_seed(0), small_layout(index)
    places = sorted((layout.renamed(name), name) for name in shapes if not layout.is_dropped(name))
    return {name: torch.randn(shapes[name], generator=generator) for _, name in places}


@pytest.mark.parametrize(("index", "head"), [(2, "head.linear"), (3, "head.linear1")])
def test_all_names_lead_to_the_same_model(index: int, head: str, tmp_path: Path) -> None:
    shapes = tadaconv_shapes(SMALL, head)
    arrays = numbered(shapes, index)
    nouns = {name: torch.zeros(shape) for name, shape in shapes.items() if name not in arrays}
    torch.save({"epoch": 29, "model_state": arrays | nouns, "cfg": "{}"}, tmp_path / "a.pyth")
    found = convert(read_arrays(tmp_path / "a.pyth"), [small_layout(index)], "a.pyth")
    assert sorted(found.dropped) == (["head.linear2.bias", "head.linear2.weight"] if index == 3 else [])

    by_authors = convert(numbered(authors_shapes(SMALL), 1), [small_layout(1)], "a.pth").state
    save_file(found.state, tmp_path / "vivit.safetensors", {"heads": "3"})
    vivit = load_vivit(tmp_path / "vivit.safetensors")
    assert (vivit.size, vivit.frames, vivit.heads, len(vivit.spatial.blocks)) == (64, 8, 3, 3)
    for name, tensor in vivit.state_dict().items():
        assert torch.equal(tensor, by_authors[name]), name
    embedding = arrays["backbone.stem.conv1.weight"]
    assert torch.equal(vivit.spatial.patch_embed.proj.weight[:, 3], embedding[:, 1, 1]), "green of the second frame"


def test_every_tensor_that_does_not_fit_is_named() -> None:
    arrays = flat(tadaconv_shapes(SMALL, "head.linear1"))
    for block in range(3):
        del arrays[f"backbone.layers.{block}.norm.bias"]
    arrays |= {"backbone.layers.3.norm.bias": torch.zeros(48), "head.linear3.weight": torch.zeros(2)}
    with pytest.raises(UserError) as error:
        convert(arrays | {"backbone.norm.weight": torch.zeros(47)}, [small_layout(3)], "a.pyth")
    for name in ("blocks.0.norm1.bias", "blocks.1.norm1.bias", "blocks.2.norm1.bias", "layers.3.norm.bias"):
        assert name in str(error.value)
    assert "head.linear3.weight" in str(error.value) and "backbone.norm.weight (47,)" in str(error.value)


def test_heads_have_64_channels_unless_said_otherwise(tmp_path: Path) -> None:
    sizes = ViViTSizes(32, 5, frames=4, dim=128, heads=2, depth=1, temporal_depth=1)
    save_file(sizes.on(torch.device("cpu")).state_dict(), tmp_path / "vivit.safetensors")
    assert load_vivit(tmp_path / "vivit.safetensors").heads == 2
