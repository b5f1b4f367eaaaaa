"""torchvision's networks for ImageNet, some of them changed for small images or for separate attention layers."""

from __future__ import annotations

from functools import partial

from torch import nn

from precond import separate_attention

WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 16  # of ViT-S/16


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
        nn.init.kaiming_normal_(
            network.conv1.weight, mode="fan_out", nonlinearity="relu"
        )  # as torchvision does
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network


def vit_s16(classes: int = 1000, size: int = 224, drop_path: float = 0.0) -> nn.Module:
    """`[batch, 3, size, size] -> [batch, classes]`: 22,050,664 parameters with 1000 classes at 224 pixels.

    The initial weights are DeiT's: normal with deviation 0.02, cut off at two, and no biases. torchvision's zeros in
    the classifier would leave the first step without a gradient below it.

    Args:
        classes: Outputs.
        size: Side of the images in pixels, a multiple of 16.
        drop_path: Rate at which the last block's two branches are skipped, per example while training; it grows
            linearly from 0 in the first block.
    """
    from torchvision.models import VisionTransformer
    from torchvision.ops import StochasticDepth

    norm = partial(nn.LayerNorm, eps=1e-6)
    network = VisionTransformer(
        size, PATCH, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=classes, norm_layer=norm
    )
    separate_attention(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for token in (network.class_token, network.encoder.pos_embedding):
        nn.init.trunc_normal_(token, std=0.02)
    if drop_path:
        for index, block in enumerate(network.encoder.layers):
            # The last operation of either branch before it is added.
            block.dropout = StochasticDepth(drop_path * index / (DEPTH - 1), "row")
            block.mlp[-1] = StochasticDepth(drop_path * index / (DEPTH - 1), "row")  # type: ignore
    return network
