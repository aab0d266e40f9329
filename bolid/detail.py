"""DetailNet: what latents of an eighth of the size lose of a person, put back from the appearance map.

A base draws on latents, and a small one loses what is some pixels large: the pattern of a shirt, the cut of
hair, shoes, a face. The appearance map has them, at full resolution and nearly in place. So after decoding
this network sees the picture and the map side by side and corrects the picture. (Inpainting autoencoders do
alike: a decoder that is shown the pixels which are to stay, arXiv 2306.04632.)
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from bolid.autoencoder import ResidualBlock

REACH = 1 / 16  # of the height: how far from the map, give or take CELL, the picture may change
CELL = 4  # pixels a side of what `near` tells apart
WHOLE = 0.25  # strength of the map from which on the picture may change in full


class DetailNet(ModelMixin, ConfigMixin):
    """Picture and appearance map -> the picture with the map's details.

    A small U-Net on pixels folded two by two, without normalisation. It starts as the identity, changes
    nothing that is farther than about `REACH` from the map, and leaves a picture whose map is empty as it is.

    Args:
        channels: at 1/2, 1/4, 1/8, ... of the picture's size.
        blocks: residual blocks of each level on the way down; as many on the way up.

    Raises ValueError unless there are as many of both.
    """

    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (48, 64, 96), blocks: tuple[int, ...] = (2, 1, 1)) -> None:
        super().__init__()
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels={tuple(channels)} and blocks={tuple(blocks)}: one of each a level.")
        self.enter = nn.Conv2d(4 * 7, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_stage(*level) for level in zip(channels, blocks, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(channels))
        self.widen = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(_stage(*level) for level in zip(channels[:-1], blocks[:-1], strict=True))
        self.leave = nn.Conv2d(channels[0], 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)

    @property
    def fold(self) -> int:
        """What the sides of a picture must be multiples of, px."""
        return max(CELL, 2 ** len(self.config.channels))

    def forward(self, picture: Tensor, appearance: Tensor) -> Tensor:
        """picture: [B, 3, H, W] in [-1, 1]; appearance: the faded map [B, 4, H, W] of
        `bolid.appearance.appearance_map`. Returns [B, 3, H, W], about [-1, 1], of the picture's dtype.

        Raises ValueError for sizes that differ or are no multiples of `fold`.
        """
        height, width = picture.shape[-2:]
        if appearance.shape[-2:] != picture.shape[-2:] or height % self.fold or width % self.fold:
            raise ValueError(
                f"a picture of {height} x {width} and a map of {appearance.shape[-2]} x "
                f"{appearance.shape[-1]}: both must have one size, of multiples of {self.fold}."
            )
        seen = torch.cat([picture, appearance.to(picture.dtype)], 1).to(self.enter.weight.dtype)
        hidden = self.enter(F.pixel_unshuffle(seen, 2))
        levels = []
        for level, stage in enumerate(self.down):
            if level:
                hidden = self.narrow[level - 1](F.pixel_unshuffle(hidden, 2))
            hidden = stage(hidden)
            levels.append(hidden)
        for level in reversed(range(len(self.up))):
            hidden = levels[level] + F.pixel_shuffle(self.widen[level](hidden), 2)
            hidden = self.up[level](hidden)
        change = F.pixel_shuffle(self.leave(hidden), 2)
        return picture + (change * near(appearance[:, 3:])).to(picture.dtype)


def _stage(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))


def near(coverage: Tensor) -> Tensor:
    """How far the picture may change, [B, 1, H, W] in [0, 1]: 1 on the map and around it, fading to 0 within
    `REACH` and CELL, at least two cells, of it; less where the map's strength is below `WHOLE`.

    coverage: [B, 1, H, W], the map's strength; H and W multiples of CELL.
    """
    cells = F.max_pool2d((coverage / WHOLE).clamp(max=1), CELL)
    reach = max(1, round(REACH * cells.shape[-2]) - 1)  # the border between cells is half a cell more
    grown = F.max_pool2d(cells, 2 * reach + 1, 1, reach)
    return F.interpolate(grown, scale_factor=CELL, mode="bilinear")
