"""A small convolutional network with batch normalisation for 8 x 8 images."""

from __future__ import annotations

from torch import nn


def digits_cnn(width: int = 16, classes: int = 10, channels: int = 1, size: int = 8) -> nn.Sequential:
    """Three 3 x 3 convolutions with batch normalisation and ReLU, and a linear classifier on the halved map.

    Args:
        width: Channels of the first convolution; the others have twice as many.
        classes: Outputs.
        channels: Of the images.
        size: Side of the images in pixels.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`; on digits its layers have 9, 144, 288 and 513
        inputs at width 16.
    """
    return nn.Sequential(
        *_convolution(channels, width, stride=1),
        *_convolution(width, 2 * width, stride=2),
        *_convolution(2 * width, 2 * width, stride=1),
        nn.Flatten(),
        nn.Linear(2 * width * ((size + 1) // 2) ** 2, classes),
    )


def _convolution(channels: int, filters: int, stride: int) -> list[nn.Module]:
    # The normalisation that follows has a bias of its own.
    convolution = nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(filters), nn.ReLU()]
