"""One thread per test process: the models in the tests are too small to share."""

import torch

torch.set_num_threads(1)
