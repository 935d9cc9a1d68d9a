"""A small Doom detector for tests, and outputs that state given boxes."""

import torch

from envs.doom.boxes import TOKENS, encode, token_centres
from envs.doom.detector import build_detector
from envs.doom.labels import CLASS_NAMES

CLASSES = len(CLASS_NAMES)


def outputs_for(targets):
    """Detector outputs that state the targets, nearest token first come."""
    outputs = torch.zeros(len(targets), TOKENS, CLASSES + 4)
    outputs[..., :CLASSES] = -9
    for b, target in enumerate(targets):
        for box, label in zip(target["boxes"], target["labels"], strict=True):
            n = int((token_centres() - (box[:2] + box[2:]) / 2).square().sum(1).argmin())
            outputs[b, n, -4:] = encode(box.expand(TOKENS, 4))[n]
            outputs[b, n, label] = 9
    return outputs


def small_detector():
    torch.manual_seed(0)
    return build_detector(dim=48, depth=1, heads=3).eval()
