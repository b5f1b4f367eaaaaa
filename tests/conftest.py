"""One thread: the same sums in the same order on every machine, and no fight over cores."""

import torch

torch.set_num_threads(1)
