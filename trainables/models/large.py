"""Networks of torchvision for ImageNet, with changes for small images and for attention layers."""

from __future__ import annotations

from functools import partial

from torch import nn

from precond import separate_attention

WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 16  # of ViT-S/16


def densenet121(classes: int = 1000, small: bool = False) -> nn.Module:
    """Return DenseNet-121, `[batch, 3, height, width] -> [batch, classes]`.

    It has 7,978,856 parameters with 1000 classes.

    Args:
        classes: Number of outputs.
        small: Build the network of the NysAct paper's code for images of 32 pixels. The first
            convolution is 3 x 3 and keeps the resolution, without normalisation and pooling after
            it (7,808 parameters fewer), and the initial weights are torch's defaults.
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
    """Return ResNet-50, `[batch, 3, height, width] -> [batch, classes]`.

    It has 25,557,032 parameters with 1000 classes.

    Args:
        classes: Number of outputs.
        small: Build the network for images of 32 pixels. The first convolution is 3 x 3 and keeps
            the resolution, without pooling after it (7,680 parameters fewer). With torchvision's
            first layer, the input of the last stage would be a single pixel.
    """
    from torchvision.models import resnet50 as build

    network = build(num_classes=classes)
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        # The initial weights of torchvision's convolutions.
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()  # type: ignore[assignment]
    return network


def vit_s16(classes: int = 1000, size: int = 224, drop_path: float = 0.0) -> nn.Module:
    """Return ViT-S/16, `[batch, 3, size, size] -> [batch, classes]`.

    It has 22,050,664 parameters with 1000 classes at 224 pixels. The initial weights are those of
    DeiT: normal with standard deviation 0.02, truncated at -2 and 2, and zero biases. torchvision
    initialises the classifier with zeros, so that all other layers have zero gradients in the first
    step.

    Args:
        classes: Number of outputs.
        size: Side of the images in pixels, a multiple of 16.
        drop_path: Probability of skipping each of the two branches of the last block, for each
            example in training. The probabilities of the blocks increase linearly, from 0 in the
            first block.
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
            # The last operation of each branch before the branch is added to the input.
            block.dropout = StochasticDepth(drop_path * index / (DEPTH - 1), "row")
            block.mlp[-1] = StochasticDepth(drop_path * index / (DEPTH - 1), "row")  # type: ignore
    return network
