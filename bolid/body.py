"""BodyNet: skeleton map and appearance map → one feature map per UNet level, once per picture.

U-shaped: a limb that the appearance map laid down a little off is mended where the whole figure is in view,
and the finest features know of it. It runs once per picture, so what it works out costs nothing at each step.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), [B, C, h, w] → the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class BodyNet(ModelMixin, ConfigMixin):
    """Body features for Eq. 6.

    It works at the latents' size from the first layer on (the skeleton map's 8 × 8 pixels are folded into
    channels): convolutions at full resolution would cost more than all the rest on a CPU.

    Args:
        latent_channels: channels L of the VAE's latents.
        channels: feature channels of each UNet level, finest first.
        blocks: residual blocks of each level, or one number for all; on the way down for the coarsest level,
            on the way up for the finest, on both for those between.
        finest: the finest level that anything reads; the way up ends there (SDXL's UNet has no
            cross-attention at its finest).
        fold: pixels per latent pixel (the VAE's scale factor).
        norm_groups: groups of the normalisations; must divide every entry of `channels`.
    """

    _supports_gradient_checkpointing = False
    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        channels: tuple[int, ...] = (80, 96, 112),
        blocks: tuple[int, ...] = (1,),
        finest: int = 0,
        fold: int = 8,
        norm_groups: int = 8,
    ) -> None:
        super().__init__()
        if any(width % norm_groups for width in channels):
            raise ValueError(f"channels {tuple(channels)} must be multiples of norm_groups={norm_groups}.")
        counts = tuple(blocks) * len(channels) if len(blocks) == 1 else tuple(blocks)
        if len(counts) != len(channels):
            raise ValueError(f"blocks {counts} for {len(channels)} levels: give one number, or one each.")
        first = channels[0]
        self.skeleton_in = nn.Sequential(
            nn.PixelUnshuffle(fold), nn.Conv2d(3 * fold**2, first, 1), nn.SiLU(), nn.Conv2d(first, first, 1)
        )
        self.appearance_in = nn.Conv2d(latent_channels + 1, first, 3, padding=1)
        # A 1 × 1 convolution of 2 × 2 folded pixels: half the weights of a strided 3 × 3.
        self.narrow = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(channels))
        stages = [(width, count, norm_groups) for width, count in zip(channels, counts, strict=True)]
        self.down = nn.ModuleList(_stage(*stage) for stage in stages[1:])
        self.widen = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(channels[finest:]))
        self.up = nn.ModuleList(_stage(*stage) for stage in stages[finest:-1])
        self.norms = (
            nn.ModuleList(  # no weights: W_l has them, and a level that nobody reads leaves none unused
                nn.GroupNorm(norm_groups, width, affine=False) for width in channels
            )
        )

    def forward(self, skeleton: Tensor, appearance: Tensor | None = None) -> list[Tensor]:
        """Features of every level, finest first: [B, C_l, ⌈h/2^l⌉, ⌈w/2^l⌉] with h = H/8, w = W/8.

        Args:
            skeleton: skeleton map [B, 3, H, W] in [0, 1], 0 = black.
            appearance: [B, L + 1, h, w]: scaled VAE latents of the faded appearance map and its coverage in
                [0, 1], averaged over 8 × 8 pixels. A row of zeros means "no map", as None does for all rows.

        Raises:
            ValueError: if the sizes do not fit each other.
        """
        fold = self.config.fold
        height, width = skeleton.shape[-2:]
        if height % fold or width % fold:
            raise ValueError(f"The skeleton map is {height} × {width}: sizes must be multiples of {fold}.")
        skeleton = skeleton.to(self.appearance_in.weight.dtype)
        hidden = self.skeleton_in(skeleton)
        if appearance is None:
            appearance = skeleton.new_zeros(
                len(skeleton), self.config.latent_channels + 1, *hidden.shape[-2:]
            )
        if appearance.shape[-2:] != hidden.shape[-2:]:
            raise ValueError(
                f"The appearance map is {tuple(appearance.shape[-2:])} latent pixels, the skeleton map "
                f"{tuple(hidden.shape[-2:])}: make both for the same picture size."
            )
        hidden = hidden + self.appearance_in(appearance.to(skeleton.dtype))
        return self._levels(hidden)

    def _levels(self, hidden: Tensor) -> list[Tensor]:
        """Down to the coarsest level and up again: the normalised features of every level, finest first.

        Beyond the end of the way up they are the way down's.
        """
        levels = [hidden]
        for narrow, stage in zip(self.narrow, self.down, strict=True):
            odd_height, odd_width = hidden.shape[-2] % 2, hidden.shape[-1] % 2
            hidden = F.pad(hidden, (0, odd_width, 0, odd_height))  # the UNet rounds odd sizes up
            hidden = stage(narrow(F.pixel_unshuffle(hidden, 2)))
            levels.append(hidden)
        for step in reversed(range(len(self.up))):
            level = self.config.finest + step
            height, width = levels[level].shape[-2:]
            wide = F.interpolate(self.widen[step](levels[level + 1]), scale_factor=2.0)
            levels[level] = self.up[step](levels[level] + wide[..., :height, :width])
        return [norm(hidden) for norm, hidden in zip(self.norms, levels, strict=True)]


def _stage(channels: int, blocks: int, groups: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, groups) for _ in range(blocks)))


def pack_appearance(latents: Tensor, coverage: Tensor) -> Tensor:
    """Joins the appearance map's two halves into BodyNet's input.

    Args:
        latents: the VAE's latents of the faded RGB, times its scaling factor [B, L, h, w].
        coverage: mask of the appearance map in [0, 1], faded, at picture size [B, 1, H, W].

    Returns:
        [B, L + 1, h, w]; rows whose coverage is 0 everywhere are zeros throughout ("no map").
    """
    coverage = F.adaptive_avg_pool2d(coverage.to(latents.dtype), (latents.shape[-2], latents.shape[-1]))
    drawn = (coverage.amax(dim=(1, 2, 3), keepdim=True) > 0).to(latents.dtype)
    return torch.cat([latents * drawn, coverage], dim=1)
