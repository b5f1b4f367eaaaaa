"""A multilayer perceptron for 8 x 8 images: Linear layers with bias, and nothing that depends on the batch."""

from __future__ import annotations

from torch import nn


def digits_mlp(width: int = 128, classes: int = 10, channels: int = 1, size: int = 8) -> nn.Sequential:
    """Two hidden layers with ReLU.

    Args:
        width: Units of a hidden layer.
        classes: Outputs.
        channels: Of the images.
        size: Side of the images in pixels.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`; on digits its layers have 65, 129 and 129 inputs.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size**2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )
