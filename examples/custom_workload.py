"""Define a dataset, a model and a recipe, which any study can use.

`python studies/ablation_rank.py --plugin examples/custom_workload.py --workload moons/mlp --levels rank=1,2,3`
"""

import torch
from sklearn.datasets import make_moons
from torch import nn

from trainables.plugins import workload


def moons():
    """Return training inputs and labels, then test inputs and labels."""
    inputs, labels = make_moons(1000, noise=0.2, random_state=0)
    inputs, labels = torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
    return inputs[:800], labels[:800], inputs[800:], labels[800:]


@workload("moons/mlp", data=moons, batch_size=50, epochs=10)
def mlp():
    """Return a new model; the seed of the trial decides its initial weights."""
    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
