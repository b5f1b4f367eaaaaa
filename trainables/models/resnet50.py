"""ResNet-50 (He et al., CVPR 2016): torchvision's, with another first layer for small images."""

from __future__ import annotations

from torch import nn


def resnet50(classes: int = 1000, small: bool = False) -> nn.Module:
    """`[batch, 3, height, width] -> [batch, classes]`: 25,557,032 parameters with 1000 classes.

    Args:
        classes: Outputs.
        small: For images of 32 pixels: a 3 x 3 first convolution that keeps the resolution and no pooling after it,
            7,680 parameters less. torchvision's own would leave the last stage a single pixel.
    """
    from torchvision.models import resnet50 as build

    network = build(num_classes=classes)
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network
