"""Networks for small images, written here because torchvision has none of them.

The ResNets (He et al., CVPR 2016, section 4.2) are those that the code of the NysAct paper trains: three stages of 16,
32 and 64 channels with n blocks of two 3 x 3 convolutions each, 6n + 2 layers. torchvision's are those for ImageNet.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


def digits_mlp(
    width: int = 128, classes: int = 10, channels: int = 1, size: int = 8
) -> nn.Sequential:
    """Two hidden layers with bias and ReLU; nothing in it depends on the batch.

    Args:
        width: Units of a hidden layer.
        classes: Outputs.
        channels: Channels of the images.
        size: Side of the images in pixels.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`; on digits its layers have 65, 129 and 129 inputs.
    """
    hidden = [nn.Linear(channels * size**2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))


def digits_cnn(
    width: int = 16, classes: int = 10, channels: int = 1, size: int = 8
) -> nn.Sequential:
    """Three 3 x 3 convolutions with batch normalisation and ReLU, and a linear classifier on the halved map.

    Args:
        width: Channels of the first convolution; the others have twice as many.
        classes: Outputs.
        channels: Channels of the images.
        size: Side of the images in pixels.

    Returns:
        A network `[batch, channels, size, size] -> [batch, classes]`; on digits its layers have 9, 144, 288 and 513
        inputs at width 16.
    """
    layers: list[nn.Module] = []
    for inputs, outputs, stride in (
        (channels, width, 1),
        (width, 2 * width, 2),
        (2 * width, 2 * width, 1),
    ):
        layers += [_convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(2 * width * ((size + 1) // 2) ** 2, classes)
    )


def lenet5(classes: int = 10) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) for colour images, with ReLU and maximum pooling as usual today: 62,006 parameters.

    Two 5 x 5 convolutions and three linear layers, `[batch, 3, 32, 32] -> [batch, classes]`.
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
    """ResNet-20: 269,722 parameters with 10 classes."""
    return CifarResNet(3, classes, shortcut)


def resnet32(classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """ResNet-32: 464,154 parameters with 10 classes; the papers say 0.46 M and 0.5 M."""
    return CifarResNet(5, classes, shortcut)


def resnet110(classes: int = 10, shortcut: Shortcut = "A") -> CifarResNet:
    """ResNet-110: 1,727,962 parameters with 10 classes; the papers say 1.7 M and 2 M."""
    return CifarResNet(18, classes, shortcut)


class CifarResNet(nn.Module):
    """`[batch, 3, height, width] -> [batch, classes]`; any size that is not empty after two strides of 2.

    Args:
        blocks: Blocks n in each of the three stages.
        classes: Outputs.
        shortcut: How a block that halves the map carries its input on. A: every second pixel, and zeros for the new
            channels, without parameters. B: a 1 x 1 convolution with batch normalisation.
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
        """Scores of the classes."""
        features = self.stages(F.relu(self.norm(self.conv(images))))
        return self.classifier(features.mean((2, 3)))


class _Block(nn.Module):
    """Two convolutions beside a shortcut: `[batch, channels, h, w] -> [batch, filters, h / stride, w / stride]`."""

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
    """Shortcut A: every `stride`-th pixel, between zeros for `added` channels, half of them before and half behind."""

    def __init__(self, stride: int, added: int):
        super().__init__()
        self.stride, self.added = stride, added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2)
        )


def _stage(channels: int, filters: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    """`blocks` blocks; the first one halves the map where the channels change."""
    first = _Block(channels, filters, filters // channels, shortcut)
    return nn.Sequential(first, *(_Block(filters, filters, 1, shortcut) for _ in range(blocks - 1)))


def _convolution(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    # The normalisation that follows has a bias of its own.
    return nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
