"""A small language model, whose linear layers can all be preconditioned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, BLOCKS, HEADS = 64, 2, 4


def gpt(vocabulary: int, context: int) -> nn.Module:
    """Return a causal transformer with learned positions (Radford et al. 2019), without dropout.

    It has two blocks of width 64 with four heads. Linear layers have torch's default weights, and
    embeddings have a standard deviation of 0.02.

    Args:
        vocabulary: Number of tokens.
        context: The largest number of tokens of an input.

    Returns:
        A network: tokens `[batch, length]` int64 -> logits `[batch, length, vocabulary]`.
    """
    return _Gpt(vocabulary, context)


class _Gpt(nn.Module):
    def __init__(self, vocabulary: int, context: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(context, WIDTH)
        self.blocks = nn.Sequential(*(_Block() for _ in range(BLOCKS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.positions(positions)
        return self.head(self.norm(self.blocks(x)))


class _Block(nn.Module):
    """Attention and a network of two layers, each after a normalisation and with a shortcut.

    The queries, keys and values have a linear layer each, because a preconditioner of a combined
    layer would mix their output gradients.
    """

    def __init__(self):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def _attention(self, x: Tensor) -> Tensor:
        heads = (
            layer(x).unflatten(2, (HEADS, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.output(mixed.transpose(1, 2).flatten(2))
