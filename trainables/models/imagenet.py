"""DenseNet-121 (Huang et al., CVPR 2017) and ResNet-50 (He et al., CVPR 2016) of torchvision, also for small images."""

from __future__ import annotations

from torch import nn


def densenet121(classes: int = 1000, small: bool = False) -> nn.Module:
    """`[batch, 3, height, width] -> [batch, classes]`: 7,978,856 parameters with 1000 classes.

    Args:
        classes: Outputs.
        small: For images of 32 pixels, as in the NysAct paper's code: a 3 x 3 first convolution that keeps the
            resolution, without normalisation and pooling (7,808 parameters less), and torch's initial weights.
    """
    from torchvision.models import densenet121 as build

    network = build(num_classes=classes)
    if small:
        network.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.features.norm0 = network.features.relu0 = network.features.pool0 = nn.Identity()
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    return network


def resnet50(classes: int = 1000, small: bool = False) -> nn.Module:
    """`[batch, 3, height, width] -> [batch, classes]`: 25,557,032 parameters with 1000 classes.

    Args:
        classes: Outputs.
        small: For images of 32 pixels: a 3 x 3 first convolution that keeps the resolution and no pooling after it,
            7,680 parameters less. With torchvision's first layer the last stage would see a single pixel.
    """
    from torchvision.models import resnet50 as build

    network = build(num_classes=classes)
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network
