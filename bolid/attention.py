"""The adapted cross-attention: text, identity tokens and body features in one processor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn

KEY = "ip_hidden_states"  # of cross_attention_kwargs: the one that self-attention ignores without a warning
# exp(-1e4) is exactly 0 in every float type, and unlike -inf a row of nothing else gives no NaN
MASKED = -1e4


@dataclass(frozen=True)
class TokenGroup:
    """Keys and values of one group of visual tokens, made once per call for every layer.

    Args:
        keys: layer name → [B, heads, N, d], already divided by √d.
        values: layer name → [B, heads, N, d], already times the group's strength (0 = no influence).
        bias: [B, N], log(s_part / s̄) of each token, `MASKED` where a token has no influence.
        region: [B, 1, h, w] in [0, 1] at the latents' size: where the group may act; None is everywhere.
    """

    keys: dict[str, Tensor]
    values: dict[str, Tensor]
    bias: Tensor
    region: Tensor | None = None

    def attend(self, query: Tensor, layer: str) -> Tensor:
        """s̄ · Attn(query, keys, values; bias), softmax over the N tokens. [B, heads, HW, d] → the same.

        Matrix products rather than scaled_dot_product_attention: cheaper on a CPU with some thirty keys.
        """
        keys, values = self.keys[layer].to(query.dtype), self.values[layer].to(query.dtype)
        scores = query @ keys.transpose(-1, -2) + self.bias.to(query.dtype)[:, None, None]
        hidden = scores.softmax(dim=-1).to(query.dtype) @ values
        if self.region is None:
            return hidden
        return hidden * region_at(self.region, query.shape[-2]).to(query.dtype)[:, None]

    def join(self, hidden: Tensor, query: Tensor, layer: str) -> Tensor:
        """The seam: what the layer has so far [B, heads, HW, d], with this group's term. Here a plain sum.

        A group that must see the answer before it (PuLID's orthogonal form) overrides it.
        """
        return hidden + self.attend(query, layer)

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            keys={name: function(keys) for name, keys in self.keys.items()},
            values={name: function(values) for name, values in self.values.items()},
            bias=function(self.bias),
            region=None if self.region is None else function(self.region),
        )

    @staticmethod
    def from_pairs(pairs: Mapping[str, tuple[Tensor, Tensor]], bias: Tensor) -> TokenGroup:
        """A group of each layer's (keys, values) and the bias that all layers share."""
        keys = {name: pair[0] for name, pair in pairs.items()}
        values = {name: pair[1] for name, pair in pairs.items()}
        return TokenGroup(keys, values, bias)


@dataclass(frozen=True)
class Conditions:
    """What one call adds to the cross-attentions: groups of visual tokens, and body residuals by layer.

    Nothing in it depends on the step. Hand it over as `cross_attention_kwargs=conditions.kwargs()`.

    Args:
        rows: batch size B that all tensors have; under guidance the two halves together (`Conditions.cat`).
        groups: identity tokens, image-prompt tokens, one group per further person.
        body: layer name → [B, HW, C], b · W_l f_l.
        guided: the first half of the rows is guidance's negative one.
    """

    rows: int
    groups: tuple[TokenGroup, ...] = ()
    body: dict[str, Tensor] = field(default_factory=dict)
    guided: bool = False

    def kwargs(self) -> dict[str, Conditions]:
        """The `cross_attention_kwargs` of a UNet or of a stock pipeline."""
        return {KEY: self}

    @cached_property
    def positive(self) -> Conditions:
        """The second half alone, for the steps after a callback has ended guidance."""
        half = self.rows // 2
        return replace(self.map(lambda tensor: tensor[half:]), rows=half, guided=False)

    def for_rows(self, rows: int) -> Conditions:
        """What a UNet of that many rows gets. Raises ValueError if these conditions are for others."""
        if self.guided and 2 * rows == self.rows:
            return self.positive
        if self.rows != rows:
            raise ValueError(
                f"The conditions are for {self.rows} rows, the UNet runs with {rows}: stack both halves "
                "under guidance, Conditions.cat(negative, positive); repeat() them per picture."
            )
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        """Applies `function` to every tensor; the first axis of each is the batch."""
        body = {name: function(residual) for name, residual in self.body.items()}
        return replace(self, groups=tuple(group.map(function) for group in self.groups), body=body)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditions:
        return self.map(lambda tensor: tensor.to(device=device, dtype=dtype))

    def repeat(self, count: int) -> Conditions:
        """Each row `count` times in a row, as `num_images_per_prompt` does with prompts."""
        return replace(
            self.map(lambda tensor: tensor.repeat_interleave(count, dim=0)), rows=self.rows * count
        )

    def within(self, region: Tensor) -> Conditions:
        """Limits all to a region [B, 1, h, w] in [0, 1] at the latents' size, beside the one a group has."""
        body = {
            name: residual * region_at(region, residual.shape[1]).to(residual.dtype)
            for name, residual in self.body.items()
        }
        regions = [region if group.region is None else group.region * region for group in self.groups]
        groups = (replace(group, region=each) for group, each in zip(self.groups, regions, strict=True))
        return replace(self, groups=tuple(groups), body=body)

    def __add__(self, other: Conditions) -> Conditions:
        """Both at once, for several people: all groups side by side, body residuals summed."""
        if self.rows != other.rows:
            raise ValueError(
                f"Cannot add conditions of {self.rows} and {other.rows} rows: use repeat() first."
            )
        body = dict(self.body)
        for name, residual in other.body.items():
            body[name] = body[name] + residual if name in body else residual
        return Conditions(self.rows, self.groups + other.groups, body, self.guided and other.guided)

    @staticmethod
    def guidance(negative: Conditions, positive: Conditions) -> Conditions:
        """Both halves of guidance. Raises as `cat`."""
        return replace(Conditions.cat(negative, positive), guided=True)

    @staticmethod
    def cat(*parts: Conditions) -> Conditions:
        """Stacks batches, as guidance does: `Conditions.cat(negative, positive)`.

        Raises:
            ValueError: if the parts have not the same kinds of conditions.
        """
        kinds = {
            (tuple((*group.bias.shape[1:], group.region is None) for group in p.groups), *p.body)
            for p in parts
        }
        if len(kinds) != 1:
            raise ValueError(
                "Conditions to stack must have the same groups, token counts and body layers: "
                "make the negative half by adapter.conditions(inputs.negative()) from the same inputs."
            )
        flat = [list(_tensors(part)) for part in parts]
        stacked = iter([torch.cat(tensors) for tensors in zip(*flat, strict=True)])
        return replace(parts[0].map(lambda _: next(stacked)), rows=sum(part.rows for part in parts))


def _tensors(conditions: Conditions) -> list[Tensor]:
    """All tensors in the order in which `map` visits them."""
    seen: list[Tensor] = []
    conditions.map(lambda tensor: seen.append(tensor) or tensor)
    return seen


def region_at(region: Tensor, length: int) -> Tensor:
    """A region [B, 1, h, w] averaged down to the UNet level of `length` pixels → [B, length, 1].

    Raises:
        ValueError: if no level of the region has that many pixels.
    """
    height, width = region.shape[-2:]
    while height * width > length:
        height, width = (height + 1) // 2, (width + 1) // 2  # as a stride-2 convolution with padding 1 rounds
    if height * width != length:
        raise ValueError(
            f"A region of {tuple(region.shape[-2:])} has no level of {length} pixels: use the latents' size."
        )
    return F.adaptive_avg_pool2d(region, (height, width)).flatten(2).transpose(1, 2)


def split_heads(
    keys: Tensor, values: Tensor, heads: int, scale: Tensor, zeros: int = 0
) -> tuple[Tensor, Tensor]:
    """Projected tokens [B, N, heads · d], strength [B] → keys / √d, strength · values.

    Both are [B, heads, N + zeros, d]; zeros: tokens of zero key and value, an attention sink, so that a query
    may ignore the identity.
    """
    keys = keys.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, N, d]
    values = values.unflatten(-1, (heads, -1)).transpose(1, 2)
    keys = keys * keys.shape[-1] ** -0.5
    values = values * scale.to(values.dtype)[:, None, None, None]
    if zeros:
        keys, values = F.pad(keys, (0, 0, 0, zeros)), F.pad(values, (0, 0, 0, zeros))
    return keys.contiguous(), values.contiguous()


class IdentityAttention(nn.Module):
    """The adapter's weights for one cross-attention layer.

    Args:
        dim: width of the layer's queries, keys and values (and of its output).
        heads: attention heads of the layer.
        token_dim: width of identity and image tokens.
        body_dim: channels of the body features at the layer's resolution.
    """

    def __init__(self, dim: int, heads: int, token_dim: int, body_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_k_id = nn.Linear(token_dim, dim, bias=False)
        self.to_v_id = nn.Linear(token_dim, dim, bias=False)
        self.to_k_image = nn.Linear(token_dim, dim, bias=False)
        self.to_v_image = nn.Linear(token_dim, dim, bias=False)
        self.body = nn.Linear(body_dim, dim, bias=False)
        nn.init.zeros_(self.body.weight)  # body features come in from nothing, as ControlNet's do

    def identity(self, tokens: Tensor, scale: Tensor, zeros: int = 0) -> tuple[Tensor, Tensor]:
        """Tokens [B, N, token_dim], strength [B] → keys / √d, strength · values: [B, heads, N + zeros, d]."""
        tokens = tokens.to(self.to_k_id.weight.dtype)
        return split_heads(self.to_k_id(tokens), self.to_v_id(tokens), self.heads, scale, zeros)

    def image(self, tokens: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the image prompt's tokens [B, M, token_dim]."""
        tokens = tokens.to(self.to_k_image.weight.dtype)
        return split_heads(self.to_k_image(tokens), self.to_v_image(tokens), self.heads, scale)

    def residual(self, features: Tensor, scale: Tensor) -> Tensor:
        """b · W_l f_l for body features [B, HW, body_dim] and pose strength b [B] → [B, HW, dim]."""
        hidden = self.body(features)
        return hidden * scale.to(hidden.dtype)[:, None, None]


class IdentityAttnProcessor:
    """Cross-attention with conditions. A plain object: it knows its layer's name and nothing of any call.

    Args:
        layer: the layer's name in the UNet.
        matmul: text attention by matrix products instead of scaled_dot_product_attention: equal up to
            rounding, not bit by bit; cheaper to train on a CPU (`attach`).
    """

    def __init__(self, layer: str, matmul: bool = False) -> None:
        self.layer = layer
        self.matmul = matmul

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002 - diffusers passes it by position
        ip_hidden_states: Conditions | None = None,
    ) -> Tensor:
        """[Eq. 6] h = Attn(Q, K_t, V_t) + s̄ · Attn(Q, K_id, V_id; bias log(s_part/s̄)) + b · W_l f_l.

        Each softmax is over the tokens of its own group; an image prompt is one more such term. Token terms
        are added before `to_out`, the body term after it. Without conditions it is AttnProcessor2_0 exactly.

        Args:
            hidden_states: [B, HW, C].
            encoder_hidden_states: text [B, T, C_text].

        Raises:
            ValueError: if the conditions are for another batch or picture size than the UNet runs with.
        """
        residual = hidden_states
        if attn.group_norm is not None or attn.spatial_norm is not None or hidden_states.ndim != 3:
            raise ValueError(
                f"{self.layer} is not a cross-attention of a transformer block: attach to attn2 only."
            )
        query = _heads(attn, attn.to_q(hidden_states), attn.norm_q)
        hidden_states = self._text(attn, query, hidden_states, encoder_hidden_states, attention_mask)
        if ip_hidden_states is not None:
            ip_hidden_states = ip_hidden_states.for_rows(query.shape[0])
            for group in ip_hidden_states.groups:
                hidden_states = group.join(hidden_states, query, self.layer)
        hidden_states = hidden_states.transpose(1, 2).flatten(2).to(query.dtype)  # [B, HW, heads · d]
        hidden_states = attn.to_out[1](attn.to_out[0](hidden_states))  # pyright: ignore[reportOptionalSubscript]
        if ip_hidden_states is not None and self.layer in ip_hidden_states.body:
            hidden_states = _add_body(hidden_states, ip_hidden_states.body[self.layer])
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        return hidden_states / attn.rescale_output_factor

    def _text(
        self, attn: Attention, query: Tensor, hidden_states: Tensor, text: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Attn(Q, K_t, V_t) → [B, heads, HW, d], as AttnProcessor2_0 computes it."""
        if text is None:
            text = hidden_states
        elif attn.norm_cross:
            text = attn.norm_encoder_hidden_states(text)
        if mask is not None:
            mask = attn.prepare_attention_mask(mask, text.shape[1], text.shape[0])
            mask = mask.view(text.shape[0], attn.heads, -1, mask.shape[-1])
        assert attn.to_k is not None
        assert attn.to_v is not None
        key, value = _heads(attn, attn.to_k(text), attn.norm_k), _heads(attn, attn.to_v(text), None)
        if not self.matmul:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, dropout_p=0.0, is_causal=False
            )
        scores = query @ (key * key.shape[-1] ** -0.5).transpose(-1, -2)
        scores = scores if mask is None else scores + mask
        return scores.softmax(dim=-1).to(value.dtype) @ value


def _heads(attn: Attention, projected: Tensor, norm: nn.Module | None) -> Tensor:
    """[B, T, heads · d] → [B, heads, T, d]."""
    split = projected.view(projected.shape[0], -1, attn.heads, projected.shape[-1] // attn.heads).transpose(
        1, 2
    )
    return split if norm is None else norm(split)


def _add_body(hidden_states: Tensor, body: Tensor) -> Tensor:
    if body.shape[1] != hidden_states.shape[1]:
        raise ValueError(
            f"Body features have {body.shape[1]} pixels where the UNet has {hidden_states.shape[1]}: "
            "draw the skeleton map at the size of the picture to be made."
        )
    return hidden_states + body.to(hidden_states.dtype)


def cross_attentions(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """The text cross-attentions (`attn2`) by layer name, in the order of the UNet's modules."""
    modules: Any = getattr(unet, "_orig_mod", unet).named_modules()  # what torch.compile wraps
    return {name: module for name, module in modules if name.endswith(".attn2")}


def _self_attentions(unet: UNet2DConditionModel) -> list[Attention]:
    modules: Any = unet.named_modules()
    return [module for name, module in modules if name.endswith(".attn1")]


def attach(unet: UNet2DConditionModel, layers: Iterable[str], matmul: bool = False) -> None:
    """Puts an IdentityAttnProcessor into each named layer. The UNet's state_dict stays as it was.

    Args:
        matmul: all attention by matrix products, self-attention too (diffusers' AttnProcessor): a fifth off a
            bfloat16 training step on a CPU, equal to the stock processors up to rounding only.

    Raises:
        ValueError: if the UNet lacks a layer, or its projections are fused.
    """
    found, layers = cross_attentions(unet), tuple(layers)
    if missing := sorted(set(layers) - set(found)):
        raise ValueError(
            f"The UNet has no cross-attention {missing[0]}: make the adapter by BoLIDAdapter.for_unet."
        )
    if any(found[name].fused_projections for name in layers):
        raise ValueError(
            "The UNet's projections are fused: call unet.unfuse_qkv_projections() before attaching."
        )
    for name in layers:
        found[name].set_processor(IdentityAttnProcessor(name, matmul))  # pyright: ignore[reportArgumentType]
    if matmul:
        for attn in _self_attentions(unet):
            attn.set_processor(AttnProcessor())


def detach(unet: UNet2DConditionModel) -> None:
    """Puts the stock AttnProcessor2_0 back wherever `attach` replaced it."""
    for attn in (*cross_attentions(unet).values(), *_self_attentions(unet)):
        if isinstance(attn.processor, IdentityAttnProcessor | AttnProcessor):
            attn.set_processor(AttnProcessor2_0())  # pyright: ignore[reportArgumentType]


def require_attached(unet: UNet2DConditionModel, layers: Iterable[str]) -> None:
    """Refuses a UNet that would silently leave the conditions out.

    Raises:
        ValueError: if a layer's processor has been replaced (attention slicing, xformers, fused projections,
            load_ip_adapter) or was never attached.
    """
    found = cross_attentions(unet)
    for name in layers:
        processor = found[name].processor if name in found else None
        if not isinstance(processor, IdentityAttnProcessor):
            raise ValueError(
                f"{name} has {type(processor).__name__} instead of BoLID's processor: attention slicing, "
                "xformers, fused projections and load_ip_adapter replace it. Undo that, then attach again."
            )
