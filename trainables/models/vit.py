"""ViT-S/16 (Touvron et al., ICML 2021: DeiT-S): torchvision's transformer with separate Q, K and V layers."""

from __future__ import annotations

from functools import partial

from torch import nn

from precond import separate_attention

WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 16


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

    network = VisionTransformer(
        image_size=size,
        patch_size=PATCH,
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=WIDTH,
        mlp_dim=4 * WIDTH,
        num_classes=classes,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
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
            # The last thing that happens to either branch before it is added.
            block.dropout = StochasticDepth(drop_path * index / (DEPTH - 1), "row")
            block.mlp[-1] = StochasticDepth(drop_path * index / (DEPTH - 1), "row")  # type: ignore
    return network
