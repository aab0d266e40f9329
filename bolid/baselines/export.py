"""BoLID's tokens of one picture as a file in IP-Adapter Plus layout, for stock pipelines' `load_ip_adapter`.

Stock loaders build a resampler of four layers, heads of 64 channels and a fourfold feed-forward network. A
smaller one of ours is the same function with zeros around it: heads are filled up with channels of zero
query and key, the feed-forward network with units of zero output, and missing layers are layers of zero
output. Stock tokens are as wide as the text; narrower ones of ours stand there several times side by side,
which leaves the last norm's mean and variance as they are, and keys and values read the first. A larger
resampler or an attention sink cannot be written. Of several parts the queries stand side by side
over the whole person, under the mean of the parts' embeddings (`Resampler.whole`): what is written is what
`BoLIDPipeline.encode_identity(reference, whole=True)` computes, not what the adapter was trained for.

What stock pipelines do differently with it: they hand the class token over with the patches (so does
`whole=True`), normalise pixels by CLIP's statistics (`bolid.export.export_encoder`), and their negative half
has the tokens of an encoded blank picture where ours has none. On a UNet with layers that have no
self-attention (bolid-mini's finest) they end in an AttributeError unless `take_text_alone` was called. Body
condition and appearance map are not in the file.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import pad

from ..adapter import BoLIDAdapter
from ..encoder import Resampler
from .positions import place
from .projectors import HEAD_DIM

DEPTH, FFN_RATIO = 4, 4  # of the resampler that stock loaders build; they do not read them from the file
Group = Literal["identity", "image"]


def export_ip_adapter_plus(
    adapter: BoLIDAdapter, path: str | os.PathLike[str], group: Group, text_dim: int | None = None
) -> None:
    """Writes, whole or not at all, a .safetensors file that `load_ip_adapter` of diffusers opens.

    Arguments and errors as of `ip_adapter_plus`.
    """
    state, target = ip_adapter_plus(adapter, group, text_dim), Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        safetensors.torch.save_file(state, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def ip_adapter_plus(adapter: BoLIDAdapter, group: Group, text_dim: int | None = None) -> dict[str, Tensor]:
    """Flat weights in IP-Adapter Plus layout, equal in their tokens to ours on the same patches.

    Args:
        group: "identity" for the tokens of the whole person, "image" for the image prompt's.
        text_dim: width of the UNet's text, which stock loaders give the tokens; None: the tokens' own.

    Raises:
        ValueError: if the group does not exist or is no function that the layout can hold.
    """
    resampler = adapter.resampler if group == "identity" else adapter.image_resampler
    if resampler is None:
        raise ValueError("This adapter has no image prompt: export group='identity', or train one with it.")
    if group == "identity" and adapter.config.zero_tokens:
        raise ValueError(
            "The adapter's zero_tokens are an attention sink, for which the layout has no place."
        )
    copies = _copies(adapter.config.token_dim, text_dim)
    state = {f"image_proj.{name}": weight for name, weight in plus_resampler(resampler, copies).items()}
    suffix = "id" if group == "identity" else "image"
    for index, name in enumerate(_stock_order(adapter)):
        layer: Any = adapter.layer(name)
        for kind in ("k", "v"):
            weight = getattr(layer, f"to_{kind}_{suffix}").weight
            wide = pad(weight, (0, (copies - 1) * weight.shape[1]))
            state[f"ip_adapter.{2 * index + 1}.to_{kind}_ip.weight"] = wide
    return {name: weight.detach().contiguous().clone() for name, weight in state.items()}


def _copies(token_dim: int, text_dim: int | None) -> int:
    """How often a token stands side by side to be as wide as the text. Raises ValueError if it cannot."""
    copies, rest = divmod(text_dim or token_dim, token_dim)
    if rest or not copies:
        raise ValueError(
            f"The adapter's tokens have {token_dim} channels, stock loaders give them the text's {text_dim}: "
            "only a whole multiple can be written."
        )
    return copies


class TextAlone(AttnProcessor2_0):
    """Cross-attention to the text where diffusers hands over a pair of text and IP-Adapter's tokens."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any
    ) -> Tensor:
        text = encoder_hidden_states[0] if isinstance(encoder_hidden_states, tuple) else encoder_hidden_states
        return super().__call__(attn, hidden_states, text, **kwargs)


def take_text_alone(unet: Any) -> None:
    """To be called after a stock pipeline's `load_ip_adapter`: diffusers (0.42) gives its pair of text and
    tokens also to the first attention of layers with `only_cross_attention`, whose processor knows text only.
    """
    for name, module in unet.named_modules():
        if name.endswith(".attn1") and module.is_cross_attention:
            module.set_processor(TextAlone())


def plus_resampler(resampler: Resampler, copies: int = 1) -> dict[str, Tensor]:
    """`Resampler.whole` in the sizes that stock loaders expect, each token `copies` times side by side.

    Raises as `ip_adapter_plus`.
    """
    _require_exportable(resampler)
    own = {name: weight.detach() for name, weight in resampler.state_dict().items()}
    width = own["latents"].shape[-1]
    state = {name: own[name] for name in ("latents", "proj_in.weight")}
    state["proj_in.bias"] = own["proj_in.bias"] + own["part_embedding"].mean(dim=0)
    for name in ("proj_out", "norm_out"):
        state |= {
            f"{name}.{kind}": torch.cat([own[f"{name}.{kind}"]] * copies) for kind in ("weight", "bias")
        }
    for index in range(DEPTH):
        prefix = f"layers.{index}."
        layer = {k.removeprefix(prefix): w for k, w in own.items() if k.startswith(prefix)}
        heads = resampler.layers[0][0].heads  # pyright: ignore[reportIndexIssue]
        layer = _wider(layer, heads) if layer else _empty_layer(width, heads, own["latents"])
        state |= {f"{prefix}{name}": weight for name, weight in layer.items()}
    return state


def _require_exportable(resampler: Resampler) -> None:
    layers: Any = resampler.layers
    width, attention, inner = resampler.latents.shape[-1], layers[0][0], layers[0][1][1].out_features
    for what, have, most in (
        ("layers", len(layers), DEPTH),
        ("channels a head", width // attention.heads, HEAD_DIM),
        ("feed-forward channels", inner, FFN_RATIO * width),
    ):
        if have > most:
            raise ValueError(
                f"The resampler has {have} {what}, stock loaders build {most}: it cannot be cut."
            )


def _wider(layer: dict[str, Tensor], heads: int) -> dict[str, Tensor]:
    """One layer with heads of 64 channels and a fourfold feed-forward network, the rest zero."""
    width = layer["0.to_q.weight"].shape[1]
    head, more = width // heads, HEAD_DIM - width // heads

    def rows(weight: Tensor) -> Tensor:  # [heads · head, width] → [heads · 64, width]
        return pad(weight.unflatten(0, (heads, head)), (0, 0, 0, more)).flatten(0, 1)

    wider = dict(layer)
    wider["0.to_q.weight"] = rows(layer["0.to_q.weight"]) * (HEAD_DIM / head) ** 0.5  # stock divides by √64
    wider["0.to_kv.weight"] = torch.cat([rows(half) for half in layer["0.to_kv.weight"].chunk(2)])
    wider["0.to_out.weight"] = rows(layer["0.to_out.weight"].T).T
    more = FFN_RATIO * width - layer["1.1.weight"].shape[0]
    wider["1.1.weight"] = pad(layer["1.1.weight"], (0, 0, 0, more))
    wider["1.3.weight"] = pad(layer["1.3.weight"], (0, more))
    return wider


def _empty_layer(width: int, heads: int, like: Tensor) -> dict[str, Tensor]:
    """A layer that adds nothing."""
    shapes = {"0.to_q.weight": (heads * HEAD_DIM, width), "0.to_kv.weight": (2 * heads * HEAD_DIM, width)}
    shapes |= {"0.to_out.weight": (width, heads * HEAD_DIM)}
    shapes |= {"1.1.weight": (FFN_RATIO * width, width), "1.3.weight": (width, FFN_RATIO * width)}
    for norm in ("0.norm1", "0.norm2", "1.0"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: like.new_zeros(shape) for name, shape in shapes.items()}


def _stock_order(adapter: BoLIDAdapter) -> list[str]:
    """The adapter's layers in the order down → up → mid, in which stock loaders count them."""
    return sorted(adapter.layer_names, key=place)
