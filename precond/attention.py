"""Attention as four Linear layers that can be preconditioned.

`nn.MultiheadAttention` never calls the forward of a Linear layer, so hooks record nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SeparateAttention(nn.Module):
    """The function of `nn.MultiheadAttention`, computed by four Linear layers.

    The layers are `q_proj`, `k_proj`, `v_proj` and `out_proj`. The inputs of these layers have the
    shape `[batch, positions, width]` for either value of `batch_first`, because the package takes
    the first axis as the batch.

    Args:
        attention: The module to replace. The parameters of `out_proj` are shared with it; all
            other parameters are copies.
    """

    # With None, nn.TransformerEncoderLayer calls this forward instead of its fast path.
    in_proj_bias = None

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.head_dim, self.dropout = attention.head_dim, attention.dropout
        self.batch_first = attention.batch_first
        self.batch_first_inside = True  # `forward` transposes the inputs of its layers
        packed, bias = attention.in_proj_weight, attention.in_proj_bias
        if packed is not None:
            weights, trainable = packed.chunk(3), 3 * [packed.requires_grad]
        else:
            weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
            trainable = [weight.requires_grad for weight in weights]
        biases = 3 * [None] if bias is None else bias.chunk(3)
        bias_trainable = 3 * [bias is not None and bias.requires_grad]
        layers = map(_linear, weights, trainable, biases, bias_trainable)
        self.q_proj, self.k_proj, self.v_proj = layers
        self.out_proj = nn.Linear(1, 1, bias=False)
        self.out_proj.in_features = self.out_proj.out_features = self.embed_dim
        self.out_proj.weight = attention.out_proj.weight
        self.out_proj.bias = attention.out_proj.bias
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the same as `nn.MultiheadAttention.forward`, also for unbatched inputs."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal = True requires a mask: pass it as attn_mask")
        unbatched = query.dim() == 2
        if unbatched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q = self._heads(self.q_proj(query))
        k = self._heads(self.k_proj(key))
        v = self._heads(self.v_proj(value))
        mask = self._mask(attn_mask, key_padding_mask, q)
        outputs, weights = self._attend(q, k, v, mask, need_weights)
        output = self.out_proj(outputs.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if unbatched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attention outputs `[batch, heads, L, d]` and weights `[batch, heads, L, S]`.

        The weights are None unless `need_weights` is True.
        """
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = q * self.head_dim**-0.5 @ k.mT
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights

    def _heads(self, x: Tensor) -> Tensor:
        """Return `[batch, L, width]` as `[batch, heads, L, d]`."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
    ) -> Tensor | None:
        """Return the sum of both masks, to add to the scores `[batch, heads, L, S]`, or None."""
        masks = []
        if attn_mask is not None and attn_mask.dim() == 3:
            masks.append(attn_mask.unflatten(0, (-1, self.num_heads)))
        elif attn_mask is not None:
            masks.append(attn_mask[None, None])
        if key_padding_mask is not None:
            masks.append(key_padding_mask[:, None, None])
        for number, mask in enumerate(masks):
            if mask.dtype == torch.bool:
                masks[number] = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf)
        return sum(masks[1:], start=masks[0]) if masks else None


def separate_attention(model: nn.Module) -> nn.Module:
    """Replace every `nn.MultiheadAttention` by a `SeparateAttention`, in place.

    Call this before an optimizer is built. Outputs and gradients stay the same; with dropout, their
    distribution stays the same.

    Args:
        model: The model; the new layers have the weights of its attention modules.

    Returns:
        The model, or a new module if the model is itself an `nn.MultiheadAttention`.

    Raises:
        ValueError: An attention module has `add_bias_kv` or `add_zero_attn`. The message has one
            line for each such option of each module, and the model is unchanged.
    """
    attentions = {
        name: m for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)
    }
    errors = []
    for name, attention in attentions.items():
        options = {
            "add_bias_kv": attention.bias_k is not None,
            "add_zero_attn": attention.add_zero_attn,
        }
        unsupported = (option for option, used in options.items() if used)
        errors += [f"{name or 'the model'}: {option} is not supported" for option in unsupported]
    if errors:
        raise ValueError("\n".join(errors))
    replacements = {attention: SeparateAttention(attention) for attention in attentions.values()}
    if isinstance(model, nn.MultiheadAttention):
        return replacements[model]
    for parent in list(model.modules()):
        # `named_children` would omit the second name of a module with two names.
        for name, child in list(parent._modules.items()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, replacements[child])
    return model


def _linear(
    weight: Tensor, weight_trainable: bool, bias: Tensor | None, bias_trainable: bool
) -> nn.Linear:
    """Return a Linear with copies of a weight and a bias."""
    with torch.device("meta"):
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = nn.Parameter(weight.detach().clone(), weight_trainable)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), bias_trainable)
    return linear
