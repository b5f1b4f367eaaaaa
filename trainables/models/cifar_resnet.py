"""ResNets for 32 x 32 images (He et al., CVPR 2016, section 4.2), as the code of the NysAct paper trains them.

Three stages of 16, 32 and 64 channels with n blocks of two 3 x 3 convolutions each: 6n + 2 layers. torchvision has none
of them; its ResNets are those for ImageNet.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


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
    """`[batch, 3, height, width] -> [batch, classes]`; any size that two strides of 2 leave something of.

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
            _stage(16, 16, blocks, shortcut), _stage(16, 32, blocks, shortcut), _stage(32, 64, blocks, shortcut)
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
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added // 2, self.added // 2))


def _stage(channels: int, filters: int, blocks: int, shortcut: Shortcut) -> nn.Sequential:
    """`blocks` blocks; the first one halves the map where the channels change."""
    first = _Block(channels, filters, filters // channels, shortcut)
    return nn.Sequential(first, *(_Block(filters, filters, 1, shortcut) for _ in range(blocks - 1)))


def _convolution(channels: int, filters: int, stride: int = 1) -> nn.Conv2d:
    # The normalisation that follows has a bias of its own.
    return nn.Conv2d(channels, filters, 3, stride=stride, padding=1, bias=False)
