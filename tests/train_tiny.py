"""Trains on the tiny task with the real command: `python train_tiny.py key=value ...`, also under `torchrun`."""

import sys

import torch
from tiny_task import TinyTask

from train.config import load_config
from train.policy import train
from train.train_config import TrainConfig


class Task(TinyTask):
    """With a validation split, and clips long enough for windows."""

    def __init__(self, has_labels: bool = True, frames: int = 12) -> None:
        super().__init__(lengths=(frames,) * 4, has_labels=has_labels)

    def clips(self, split):
        return super().clips("test" if split == "val" else split)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(load_config(TrainConfig, sys.argv[1:]), Task())
