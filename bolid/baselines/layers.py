"""Attention weights by position → by layer name, refused where they do not fit the UNet."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import UNet2DConditionModel
from torch import Tensor

from ..attention import cross_attentions
from .attention import LORA_PARTS, LowRank, TokenAttention
from .positions import BASES, attention_positions, cross_positions
from .records import Method


def build_layers(
    attention: Mapping[str, Tensor], unet: UNet2DConditionModel, names: tuple[str, str], token_dim: int
) -> tuple[dict[str, TokenAttention], dict[str, Tensor]]:
    """Keys and values by layer name, in the UNet's order, and the weights that are left.

    Args:
        attention: `<position>.<name>.weight`.
        names: of keys and values in the file.
        token_dim: width of the projector's tokens.

    Raises:
        ValueError: if positions or widths are not the UNet's.
    """
    found, positions = cross_attentions(unet), cross_positions(unet)
    has = {key.split(".")[0] for key in attention if key.split(".")[1] in names}
    if different := has ^ {str(position) for position in positions}:
        raise ValueError(
            f"The file serves {_base(len(has))}, the UNet has {_base(len(positions))}, and position "
            f"{min(different)} is in one alone: load it with the base that it was made for."
        )
    rest, layers = dict(attention), {}
    for position, layer in positions.items():
        heads, width = found[layer].heads, found[layer].inner_dim
        key, value = (rest.pop(f"{position}.{name}.weight", None) for name in names)
        if key is None or value is None or {key.shape, value.shape} != {(width, token_dim)}:
            raise ValueError(
                f"Position {position} has keys and values of {_shape(key)} and {_shape(value)}, "
                f"{layer} needs {(width, token_dim)}: the file is incomplete or for another base."
            )
        layers[layer] = TokenAttention(key, value, heads)
    return layers, rest


def build_updates(
    rest: Mapping[str, Tensor], unet: UNet2DConditionModel, method: Method
) -> dict[str, LowRank]:
    """FaceID's low-rank updates by the projection's name in the UNet; {} where the file has none.

    Raises:
        ValueError: if some are missing, or a weight belongs nowhere.
    """
    if not rest:
        return {}
    if "faceid" not in method.name:
        raise ValueError(f"The file has {next(iter(rest))!r}, which {method.name} does not know.")
    rest, updates = dict(rest), {}
    for position, layer in enumerate(attention_positions(unet)):
        for part in LORA_PARTS:
            projection = f"{layer}.to_out.0" if part == "to_out" else f"{layer}.{part}"
            down, up = (rest.pop(f"{position}.{part}_lora.{side}.weight", None) for side in ("down", "up"))
            shape = unet.get_parameter(f"{projection}.weight").shape
            if down is None or up is None or (up.shape[0], down.shape[1]) != tuple(shape):
                raise ValueError(
                    f"The file's low-rank update of position {position}, {projection}, is missing or not of "
                    f"{tuple(shape)}: it is incomplete or for another base."
                )
            updates[projection] = LowRank(down, up)
    if rest:
        raise ValueError(f"The file has {next(iter(rest))!r}, which no layer of the UNet takes.")
    return updates


def _shape(weight: Tensor | None) -> tuple[int, ...] | None:
    return None if weight is None else tuple(weight.shape)


def _base(count: int) -> str:
    return f"{count} cross-attentions" + (f" ({BASES[count]})" if count in BASES else "")
