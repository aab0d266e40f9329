"""Body features as residuals of the UNet's down blocks, T2I-Adapter's way in (arXiv 2302.08453): BodyNet's
features of each level are added to what the down block of that level gives, made once for all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from .carried import CarriedGroup, carried


@dataclass(frozen=True)
class ResidualGroup(CarriedGroup):
    """Residuals of a call.

    Args:
        levels: one per down block, finest first, [B, C_l, h_l, w_l], already times the pose strength.
    """

    levels: tuple[Tensor, ...] = field(kw_only=True)

    @classmethod
    def of(cls, levels: Sequence[Tensor]) -> Self:
        return cls({}, {}, levels[0].new_zeros(len(levels[0]), 0), levels=tuple(levels))

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        region = {} if self.region is None else {"region": function(self.region)}
        return replace(self, bias=function(self.bias), levels=tuple(map(function, self.levels)), **region)


class DownResiduals(nn.Module):
    """A projection of every level's body features to its down block's width; zero at the start.

    Args:
        body_channels: of the features, finest first.
        widths: of the UNet's down blocks, finest first.
    """

    def __init__(self, body_channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(body_channels, widths, strict=True))
        for layer in self.layers:
            nn.init.zeros_(layer.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, features: Sequence[Tensor], strength: Tensor) -> ResidualGroup:
        """Features of every level, finest first, and the pose strength [B]."""
        made = [layer(each) for layer, each in zip(self.layers, features, strict=True)]
        return ResidualGroup.of([each * strength.view(-1, 1, 1, 1).to(each.dtype) for each in made])


def down_widths(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Channels of a UNet's down blocks, finest first.

    Raises:
        ValueError: a block without attention halves the size (SDXL's first): diffusers adds a residual after
            that, where BodyNet's features of the block's own level do not fit.
    """
    for block in unet.down_blocks:
        if not getattr(block, "has_cross_attention", False) and block.downsamplers is not None:
            raise ValueError(
                f"Body features cannot be added to a {type(block).__name__} that halves the size: this "
                "method is for UNets with cross-attention in every down block but the last."
            )
    config: Any = unet.config
    return tuple(config.block_out_channels)


def hook_residuals(unet: UNet2DConditionModel) -> Any:
    """Adds the residuals to every call whose conditions hold a ResidualGroup; returns the hook's handle."""

    def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        given = carried(ResidualGroup, args, kwargs)
        if given is None:
            return None
        sample = args[0] if args else kwargs["sample"]
        levels = [each.to(sample.dtype) for each in given.levels]
        if (others := kwargs.get("down_intrablock_additional_residuals")) is not None:  # a T2I-Adapter beside
            levels = [ours + theirs for ours, theirs in zip(levels, others, strict=True)]
        return args, kwargs | {"down_intrablock_additional_residuals": levels}

    return unet.register_forward_pre_hook(before, with_kwargs=True)
