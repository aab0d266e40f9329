"""Official keys and values in BoLID's processors, PuLID's orthogonal terms, FaceID's low-rank updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..attention import TokenGroup, region_at, split_heads
from .records import Ortho

ID_TOKENS = 5  # tokens of PuLID v1 whose share of the attention its form v2 asks for; v1.1 kept the number
LORA_PARTS = ("to_q", "to_k", "to_v", "to_out")


class TokenAttention(nn.Module):
    """Keys and values of one group of tokens for one cross-attention layer.

    Args:
        key, value: weights [heads · d, token_dim].
        heads: attention heads of the layer.
    """

    def __init__(self, key: Tensor, value: Tensor, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_k, self.to_v = _frozen(key), _frozen(value)

    def forward(self, tokens: Tensor, scale: Tensor, zeros: int = 0) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, C], strength [B] → keys / √d, strength · values: [B, heads, N + zeros, d]."""
        tokens = tokens.to(self.to_k.dtype)
        keys, values = F.linear(tokens, self.to_k), F.linear(tokens, self.to_v)
        return split_heads(keys, values, self.heads, scale, zeros)


@dataclass(frozen=True)
class OrthogonalGroup(TokenGroup):
    """A group of tokens of which the part along the text's answer is taken away (PuLID).

    Args:
        ortho: "v1" takes the whole part away, "v2" only as far as queries do not look at the ID tokens.
    """

    ortho: Ortho = "v2"

    def join(self, hidden: Tensor, query: Tensor, layer: str) -> Tensor:
        return (hidden.float() + self.term(hidden, query, layer)).to(query.dtype)

    def term(self, text: Tensor, query: Tensor, layer: str) -> Tensor:
        """What is added to the text's answer h [B, heads, HW, d]; id is s · Attn(query, keys, values).

        With p = h · Σ(h · id) / Σ(h · h), both sums over the HW places, channel by channel:
        v1: id − p; v2: id + (m − 1) · p, where m is the share of the first five tokens in a softmax of
        unscaled scores, averaged over the heads.
        """
        text, answer = text.float(), self.attend(query, layer).float()
        along = text * (text * answer).sum(dim=-2, keepdim=True) / text.square().sum(dim=-2, keepdim=True)
        if self.region is not None:  # outside of it nothing was asked and nothing is taken away
            along = along * region_at(self.region, query.shape[-2])[:, None]
        if self.ortho == "v1":
            return answer - along
        keys = self.keys[layer].to(query.dtype) * query.shape[-1] ** 0.5  # the original has no 1/√d here
        share = (query @ keys.transpose(-1, -2)).softmax(dim=-1).mean(dim=1, keepdim=True)  # [B, 1, HW, N]
        share = share[..., :ID_TOKENS].sum(dim=-1, keepdim=True)
        return answer + (share - 1) * along


class LowRank(nn.Module):
    """FaceID's update of one projection: x → up(down(x))."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.down, self.up = _frozen(down), _frozen(up)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up).to(x.dtype)


def hook_low_rank(
    unet: UNet2DConditionModel, updates: Mapping[str, LowRank], scale: float = 1.0
) -> list[RemovableHandle]:
    """Adds scale · update to each projection's output; the UNet's weights stay as they are.

    Args:
        updates: by the projection's name in the UNet (`….attn1.to_q`, `….attn2.to_out.0`).

    Returns:
        handles; `remove()` of all of them gives the plain UNet back exactly.
    """

    def hook(update: LowRank) -> Callable[..., Tensor]:
        return lambda _, inputs, output: output + scale * update(inputs[0])

    return [unet.get_submodule(n).register_forward_hook(hook(update)) for n, update in updates.items()]


def orthogonal(group: TokenGroup, ortho: Ortho) -> TokenGroup:
    """The group with PuLID's orthogonal form; "off" leaves it.

    Raises:
        ValueError: for another word.
    """
    if ortho == "off":
        return group
    if ortho not in ("v1", "v2"):
        raise ValueError(f"ortho is {ortho!r}: give 'off', 'v1' or 'v2'.")
    return OrthogonalGroup(group.keys, group.values, group.bias, group.region, ortho)


def strengths(scale: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """[rows] in `like`'s type, from one number or one per row."""
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device).expand(rows)


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight, requires_grad=False)
