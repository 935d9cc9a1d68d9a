"""Published figures of Eventful Transformers (ICCV 2023).

ViTDet-B on ImageNet VID: mAP50 in percent, and 10^9 MACs of a frame. ViViT-B: top-1 in percent, and 10^12 of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

from envs.actions.epic import VERBS
from envs.actions.kinetics import CLASSES

Figures = tuple[float, float]


def _rows(variant: str, rule: str, values: Sequence[float], figures: Sequence[Figures]) -> dict[str, Figures]:
    return {f"{variant}:{rule}:{value}": pair for value, pair in zip(values, figures, strict=True)}


_R = (2048, 1536, 1024, 768, 512, 256)

PUBLISHED: dict[int, dict[str, Figures]] = {
    1024: {
        "dense": (82.93, 467.4),
        "pooled-dense": (80.15, 388.1),
        **_rows(
            "eventful",
            "top-r",
            _R,
            [(82.94, 294.9), (82.79, 225.9), (82.00, 156.8), (81.25, 122.3), (79.38, 87.8), (73.29, 53.3)],
        ),
        **_rows(
            "token-wise",
            "top-r",
            _R,
            [(82.97, 294.1), (82.93, 250.7), (82.58, 207.3), (82.08, 185.7), (81.11, 164.0), (76.60, 142.3)],
        ),
        **_rows(
            "stgt",
            "top-r",
            _R,
            [(82.92, 294.1), (82.60, 250.7), (81.25, 207.3), (79.81, 185.7), (76.70, 164.0), (68.73, 142.3)],
        ),
        **_rows(
            "pooled",
            "top-r",
            _R,
            [(80.14, 217.0), (80.07, 169.3), (79.50, 121.0), (78.69, 96.3), (76.96, 70.9), (71.35, 44.5)],
        ),
        **_rows("eventful", "threshold", (0.2, 1.0, 5.0), [(83.00, 431.8), (82.75, 294.1), (78.11, 133.5)]),
    },
    672: {
        "dense": (82.28, 174.5),
        **_rows(
            "eventful",
            "top-r",
            (1024, 768, 512, 384, 256, 128),
            [(82.23, 115.1), (82.21, 87.9), (81.84, 60.7), (81.43, 47.1), (80.16, 33.5), (75.19, 19.9)],
        ),
        **_rows("token-wise", "top-r", (512, 256, 128), [(82.01, 68.5), (80.76, 46.8), (76.96, 36.0)]),
    },
}
"""By side of the canvas and name of the row."""

CLIP_VIEWS = 12
"""Views of a clip: 4 in time by 3 in space."""

CLIP_MODELS = {"epic": (320, VERBS), "kinetics": (224, CLASSES)}
"""Side of the views in pixels, and number of classes, by the set of videos."""

PUBLISHED_CLIPS: dict[str, dict[str, Figures]] = {
    "epic": {
        "original:dense": (67.14, 7.12),
        "tuned_200:280": (66.77, 5.49),
        "tuned_200:200": (66.02, 4.05),
        "tuned_200:120": (62.23, 2.62),
        "tuned_100:100": (62.91, 2.26),
        "tuned_50:50": (59.91, 1.36),
    },
    "kinetics": {
        "original:dense": (79.06, 3.360),
        "tuned_96:96": (77.62, 1.814),
        "tuned_48:48": (75.88, 1.016),
        "tuned_24:24": (75.16, 0.618),
    },
}
"""By the set of videos, and by the weights of a row and its r."""
