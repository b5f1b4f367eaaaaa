"""Networks for small images and for vectors, which torchvision does not provide.

The ResNets (He et al., CVPR 2016, section 4.2) are those of the NysAct paper's code: three stages
of 16, 32 and 64 channels with n blocks of two 3 x 3 convolutions each, 6n + 2 layers. The ResNets
of torchvision are different networks, for ImageNet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]
SIDE = 4  # pixels; the smallest side of a feature map after the pooling of `digits_cnn`


def digits_mlp(
    width: int = 128, classes: int = 10, channels: int = 1, size: int = 8
) -> nn.Sequential:
    """Return a network with two hidden layers with biases and ReLU, and no batch normalisation.

    Args:
        width: Units of each hidden layer.
        classes: Number of outputs.
        channels: Channels of the images, or the length of vectors.
        size: Side of the images in pixels; 1 for vectors.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`, which also accepts
        `[batch, channels]` if `size` is 1. On digits, its layers have 65, 129 and 129 inputs,
        including the bias.
    """
    hidden = [nn.Linear(channels * size**2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))


def digits_cnn(
    width: int = 16, classes: int = 10, channels: int = 1, size: int = 8
) -> nn.Sequential:
    """Return a network with three 3 x 3 convolutions and a linear classifier.

    Batch normalisation and ReLU follow each convolution. The second convolution halves the height
    and the width of the feature map. For images of 15 pixels or more, an average pooling precedes
    the classifier, which would otherwise have too many inputs for a dense preconditioner.

    Args:
        width: Channels of the first convolution; the other two have twice as many.
        classes: Number of outputs.
        channels: Channels of the images.
        size: Side of the images in pixels.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`. On digits at width 16, its
        layers have 9, 144, 288 and 513 inputs, including the classifier's bias.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, stride in (
        (channels, width, 1),
        (width, 2 * width, 2),
        (2 * width, 2 * width, 1),
    ):
        layers += [_convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()]
    side = (size + 1) // 2
    if (window := side // SIDE) > 1:
        layers.append(nn.AvgPool2d(window))
        side //= window
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2 * width * side**2, classes))


def autoencoder(channels: int = 1, size: int = 8) -> nn.Sequential:
    """Return a deep autoencoder with ReLU, a linear code and no normalisation.

    The widths are 128, 64, 32 and 16 (the code), and the same in reverse. Deep autoencoders with a
    linear code are a classical test of optimizers (Hinton and Salakhutdinov 2006; Martens 2010).

    Args:
        channels: Channels of the images, or the length of vectors.
        size: Side of the images in pixels; 1 for vectors.

    Returns:
        A network whose outputs have the shape of its inputs, `[batch, channels, size, size]` or
        `[batch, channels]`. On digits it has 38,416 parameters.
    """
    values = channels * size**2
    encoder = _linear_layers([values, 128, 64, 32, 16])
    decoder = _linear_layers([16, 32, 64, 128, values])
    shape = [nn.Unflatten(1, (channels, size, size))] if size > 1 else []
    return nn.Sequential(nn.Flatten(), *encoder, *decoder, *shape)


def _linear_layers(widths: Sequence[int]) -> list[nn.Module]:
    """Return linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def linear(outputs: int, channels: int, size: int = 1) -> nn.Sequential:
    """Return a linear model with a bias.

    Args:
        outputs: Number of outputs.
        channels: Channels of the images, or the length of vectors.
        size: Side of the images in pixels; 1 for vectors.

    Returns:
        A network `[batch, channels, size, size] -> [batch, outputs]`, which also accepts
        `[batch, channels]` if `size` is 1.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, outputs))


def lenet5(classes: int = 10) -> nn.Sequential:
    """Return LeNet-5 (LeCun et al. 1998), `[batch, 3, 32, 32] -> [batch, classes]`.

    It has two 5 x 5 convolutions and three linear layers, 62,006 parameters with 10 classes. In
    contrast to the original, it takes colour images and uses ReLU and maximum pooling.
    """
    features = [
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    classifier = [
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    ]
    return nn.Sequential(*features, nn.Flatten(), *classifier)


def resnet20(classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """Return ResNet-20, which has 269,722 parameters with 10 classes."""
    return CifarResNet(3, classes, shortcut)


def resnet32(classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """Return ResNet-32, which has 464,154 parameters with 10 classes.

    He et al. state 0.46 M, and the NysAct paper states 0.5 M.
    """
    return CifarResNet(5, classes, shortcut)


def resnet110(classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """Return ResNet-110, which has 1,727,962 parameters with 10 classes.

    He et al. state 1.7 M, and the NysAct paper states 2 M.
    """
    return CifarResNet(18, classes, shortcut)


class CifarResNet(nn.Module):
    """A ResNet for small images, `[batch, 3, height, width] -> [batch, classes]`.

    Args:
        blocks: Number n of blocks in each of the three stages.
        classes: Number of outputs.
        shortcut: The shortcut of a block that halves the feature map. A: every second pixel, with
            zeros for the new channels; it has no parameters. B: a 1 x 1 convolution with batch
            normalisation.
    """

    def __init__(self, blocks: int, classes: int = 10, shortcut: Shortcut = "A"):
        super().__init__()
        self.conv = _convolution(3, 16)
        self.norm = nn.BatchNorm2d(16)
        self.stages = nn.Sequential(
            _stage(16, 16, blocks, shortcut),
            _stage(16, 32, blocks, shortcut),
            _stage(32, 64, blocks, shortcut),
        )
        self.classifier = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the classes."""
        features = self.stages(F.relu(self.norm(self.conv(images))))
        return self.classifier(features.mean((2, 3)))


class _Block(nn.Module):
    """Two convolutions with a shortcut.

    `[batch, channels, h, w] -> [batch, filters, h / stride, w / stride]`.
    """

    def __init__(self, channels: int, filters: int, stride: int, shortcut: Shortcut):
        super().__init__()
        self.conv1 = _convolution(channels, filters, stride)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = _convolution(filters, filters)
        self.norm2 = nn.BatchNorm2d(filters)
        if channels == filters:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = _SubsampleAndPad(stride, filters - channels)
        else:
            projection = nn.Conv2d(channels, filters, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


class _SubsampleAndPad(nn.Module):
    """Shortcut A: every `stride`-th pixel, with `added` channels of zeros.

    Half of the zeros are placed before the channels, and half after them.
    """

    def __init__(self, stride: int, added: int):
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2)
        )


def _stage(channels: int, filters: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    """Return a stage of `blocks` blocks; the first halves the feature map if channels change."""
    first = _Block(channels, filters, filters // channels, shortcut)
    return nn.Sequential(first, *(_Block(filters, filters, 1, shortcut) for _ in range(blocks - 1)))


def _convolution(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    # No bias is needed, because the batch normalisation that follows has a bias.
    return nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
