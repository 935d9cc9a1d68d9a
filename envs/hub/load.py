"""Models of `transformers`, from a folder or from the hub, with what their image processor says of frames."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from eventful.checks.extras import lacking
from eventful.cli import one_line
from eventful.errors import EventfulError, UserError
from eventful.families.towers.backbone import TowerBackbone

PREFIX = "hf:"
"""Names of models begin with it where `transformers` is to load them."""

_FILES = ["*.json", "*.safetensors"]
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}
"""By PIL's numbers, as processors have them."""


def load_tower(name: str, weights: str | Path | None = None, image_size: Sequence[int] | None = None) -> nn.Module:
    """Loads a model, with attributes by which timm's models tell of themselves; see `as_timm_does`.

    Args:
        name: Name of the model on the hub.
        weights: Folder that `save_pretrained` made; None to download it by name.
        image_size: Height and width of the frames; those of the image processor if None.

    Raises:
        UserError: If the model, its weights or its processor cannot be had or used, in one line.
        FileNotFoundError: If the folder is missing.
    """
    transformers = _transformers()
    folder = _downloaded(name) if weights is None else Path(weights)
    if weights is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"weights folder {folder} does not exist (of {PREFIX}{name}: what save_pretrained made)"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"weights folder {folder} has no config.json: a folder that save_pretrained made is needed")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, (config.architectures or [""])[0], transformers.AutoModel)
        model, told = kind.from_pretrained(folder, config=config, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{folder} cannot be loaded by transformers: {one_line(error)}") from error
    lacking = sorted({*told["missing_keys"], *(entry[0] for entry in told["mismatched_keys"])})
    if lacking:
        raise UserError(f"{folder} lacks weights of {type(model).__name__}: {', '.join(lacking[:3])}")
    return as_timm_does(model.float().eval(), _processor(transformers, folder), image_size)


def as_timm_does(
    model: nn.Module, processor: dict[str, Any] | None = None, image_size: Sequence[int] | None = None
) -> nn.Module:
    """Gives a model of `transformers` the attributes that tasks look at.

    These are `pretrained_cfg` (size, mean, deviation, interpolation), `num_classes`, `num_prefix_tokens`,
    `get_classifier`, `forward_features` and `forward_head`. Wrapped, the model returns what the last does: logits of
    classes, else what is pooled, else the final tokens.

    Args:
        model: The model, which is changed.
        processor: The settings of its image processor; None for ImageNet's statistics.
        image_size: Height and width of the frames; the processor's, or the model's own, if None.

    Raises:
        UserError: If the model is none of the supported towers, or takes other frames than its processor makes.
    """
    backbone = TowerBackbone(model)
    settings = _input_of(backbone, processor or {}, image_size)
    try:
        backbone.grid(settings["input_size"][1:])
    except EventfulError as error:
        raise UserError(f"image_size: {error}") from error
    classifier = getattr(model, "classifier", None)
    dressed: Any = model
    dressed.pretrained_cfg = settings
    dressed.num_prefix_tokens = backbone.prefix
    dressed.num_classes = getattr(classifier, "out_features", 0)
    dressed.get_classifier = partial(getattr, model, "classifier", None)
    dressed.forward_features = partial(_dense_features, model)
    dressed.forward_head = partial(_head, model)
    return model


def _dense_features(model: nn.Module, frame: Tensor) -> Tensor:
    """Final tokens (B, N, D) of a frame (B, 3, H, W), by the model's own code."""
    return TowerBackbone(model).dense(frame)


def _head(model: nn.Module, features: Tensor) -> Tensor:
    """Of what the model makes of final tokens: logits (B, C) if there are any, else what is pooled, else the tokens."""
    outputs = TowerBackbone(model).outputs(features)
    found = [getattr(outputs, name, None) for name in ("logits", "pooler_output", "image_embeds")]
    return next((x for x in found if x is not None and x.dim() == 2), features)


def _input_of(backbone: TowerBackbone, processor: dict[str, Any], image_size: Sequence[int] | None) -> dict[str, Any]:
    if processor.get("do_rescale", True) and abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise UserError(f"the image processor rescales by {processor['rescale_factor']}: only 1/255 is supported")
    normalised = processor.get("do_normalize", True)
    return {
        "input_size": (3, *(image_size or _size_of(processor) or backbone.image_size)),
        "mean": tuple(processor.get("image_mean") or IMAGENET_DEFAULT_MEAN) if normalised else (0.0, 0.0, 0.0),
        "std": tuple(processor.get("image_std") or IMAGENET_DEFAULT_STD) if normalised else (1.0, 1.0, 1.0),
        "interpolation": _INTERPOLATION.get(processor.get("resample", 3), "bicubic"),
    }


def _size_of(processor: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) that a processor makes of every frame; None where it depends on the frame."""
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return size["height"], size["width"]
    return None


def _processor(transformers: Any, folder: Path) -> dict[str, Any] | None:
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        warnings.warn(
            f"{folder} has no preprocessor_config.json: frames are normalised by ImageNet's mean and deviation",
            stacklevel=4,
        )
        return None
    settings, _ = transformers.BaseImageProcessor.get_image_processor_dict(folder, local_files_only=True)
    return settings


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError(lacking(f"model={PREFIX}NAME", "hf")) from error
    return transformers


def _downloaded(name: str) -> Path:
    # A name may come with a checkpoint from elsewhere: it is never taken for a folder of this machine.
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or set(name.split("/")) & {".", ".."}:
        raise UserError(f"{PREFIX}{name}: OWNER/NAME of the hub is needed; a folder is given by weights=FOLDER")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"{PREFIX}{name} cannot be had from the hub ({one_line(error)}); a local copy is given by weights=FOLDER"
        ) from error
