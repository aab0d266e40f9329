"""The places that official files number: attention layers in the order down → up → mid."""

from __future__ import annotations

from diffusers import UNet2DConditionModel

ORDER = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}
BASES = {16: "SD 1.5", 70: "SDXL"}  # cross-attentions of the public bases


def attention_positions(unet: UNet2DConditionModel) -> tuple[str, ...]:
    """Names of all attention layers, self and cross, at the index that official files give them.

    Sorted by the names themselves: dictionaries and module lists may come in another order.

    Raises:
        ValueError: if an attention stands outside of the down, up and mid blocks.
    """
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    if strange := [name for name in names if name.split(".")[0] not in ORDER]:
        raise ValueError(f"{strange[0]} is no attention of a UNet's down, up or mid blocks.")
    return tuple(sorted(names, key=place))


def cross_positions(unet: UNet2DConditionModel) -> dict[int, str]:
    """Position → name of the text cross-attentions: the odd positions of SD 1.5 and SDXL."""
    names = attention_positions(unet)
    return {position: name for position, name in enumerate(names) if name.endswith(".attn2")}


def place(name: str) -> tuple[int, tuple[int, ...], str]:
    """Sort key: `up_blocks.1.attentions.0.transformer_blocks.10.attn2` → (1, (1, 0, 10), "attn2")."""
    parts = name.split(".")
    return ORDER[parts[0]], tuple(int(part) for part in parts if part.isdigit()), parts[-1]
