"""DetailNet: what latents of an eighth of the size lose of a person, put back at full resolution.

A base draws on latents, and a small one loses what is some pixels large: the pattern of a shirt, the cut of
hair, shoes, a face. The appearance map has them, at full resolution and nearly in place; of clothes that the
reference does not wear the prompt tells. So after decoding this network sees picture, map and skeleton side
by side, reads the prompt, and corrects the picture; over what it makes a share of the map is laid.
(Inpainting autoencoders do alike: a decoder that is shown the pixels which are to stay, arXiv 2306.04632;
refiners read the prompt again, as SDXL's does, arXiv 2307.01952.)
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from bolid.autoencoder import ResidualBlock

SEEN = 3 + 4 + 3  # channels of picture, map and skeleton
REACH = 1 / 16  # of the height: how far from map and skeleton, give or take CELL, the picture may change
CELL = 4  # pixels a side of what `near` tells apart
WHOLE = 0.25  # strength of the map from which on the picture may change in full


class DetailNet(ModelMixin, ConfigMixin):
    """Picture, appearance map, skeleton and prompt -> the picture with its person's details.

    A small U-Net on pixels folded two by two. Its convolutions know no normalisation; below the first level
    each stage but the last one reads the prompt by cross-attention. It starts as the identity, but for its
    share of the map, changes nothing that is farther than about `REACH` from map and skeleton, and leaves a
    picture whose map is empty as it is.

    Args:
        channels: at 1/2, 1/4, 1/8, ... of the picture's size.
        blocks: residual blocks of each level on the way down; as many on the way up.
        cross_attention_dim: width of the prompt's embeddings; None: it reads no prompt.
        heads: of each cross-attention.
        share: of the map, in [0, 1], in what it makes where the map is at full strength. A share of .35 names
            more of the person and errs less in colour on every part than none (docs/LOG.md, sixteenth
            session).

    Raises ValueError unless there are as many channels as blocks, heads divide the channels that read, and
    the share is one.
    """

    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (48, 96, 128),
        blocks: tuple[int, ...] = (2, 2, 2),
        cross_attention_dim: int | None = None,
        heads: int = 4,
        share: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"share={share}: of the map, from 0 to 1.")
        if len(channels) != len(blocks) or not channels:
            raise ValueError(f"channels={tuple(channels)} and blocks={tuple(blocks)}: one of each a level.")
        if cross_attention_dim is not None and any(width % heads for width in channels[1:]):
            raise ValueError(f"channels={tuple(channels)}: all but the first must be multiples of {heads}.")

        def stage(level: int) -> _Stage:
            words = cross_attention_dim if level else None
            return _Stage(channels[level], blocks[level], words, heads)

        levels = range(len(channels))
        self.enter = nn.Conv2d(4 * SEEN, channels[0], 3, padding=1)
        self.down = nn.ModuleList(stage(level) for level in levels)
        self.narrow = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(channels))
        self.widen = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(stage(level) for level in levels[:-1])
        self.leave = nn.Conv2d(channels[0], 12, 3, padding=1)
        _zero(self.leave)

    @property
    def fold(self) -> int:
        """What the sides of a picture must be multiples of, px."""
        return max(CELL, 2 ** len(self.config.channels))

    @torch.no_grad()
    def start_as(self, smaller: DetailNet) -> None:
        """Draw what a DetailNet of fewer channels or blocks, or one without words, draws: with its weights,
        and zeros where new channels would reach its own (Net2Net, arXiv 1511.05641). Training goes on there.

        Raises ValueError where it has a layer that this one has not, or a wider one.
        """
        own = self.state_dict()
        for name, value in smaller.state_dict().items():
            if name not in own or any(a > b for a, b in zip(value.shape, own[name].shape, strict=True)):
                raise ValueError(
                    f"its layer {name} of {tuple(value.shape)} has no place here: channels="
                    f"{tuple(self.config.channels)}, blocks={tuple(self.config.blocks)}"
                )
            rows = own[name][: len(value)]
            if value.ndim > 1:
                rows.zero_()
                rows = rows[:, : value.shape[1]]
            rows.copy_(value)

    def forward(
        self, picture: Tensor, appearance: Tensor, skeleton: Tensor, words: Tensor | None = None
    ) -> Tensor:
        """picture: [B, 3, H, W] in [-1, 1]; appearance: the faded map [B, 4, H, W] of
        `bolid.appearance.appearance_map`; skeleton: its pose, [B, 3, H, W] in [0, 1], of
        `bolid.pose.skeleton_map`; words: prompt embeddings [B, L, C], as the UNet gets them.
        Returns [B, 3, H, W], about [-1, 1], of the picture's dtype.

        Raises ValueError for sizes that differ or are no multiples of `fold`, and for words that a network
        needs and has not, or the other way round.
        """
        height, width = picture.shape[-2:]
        sizes = {tuple(each.shape[-2:]) for each in (picture, appearance, skeleton)}
        if len(sizes) > 1 or height % self.fold or width % self.fold:
            raise ValueError(
                f"picture, map and skeleton have the sizes {sorted(sizes)}: all must have one, of multiples "
                f"of {self.fold}."
            )
        reads = self.config.cross_attention_dim
        if (words is None) != (reads is None) or (words is not None and words.shape[-1] != reads):
            given = "no words" if words is None else f"words of width {words.shape[-1]}"
            raise ValueError(f"{given}, and this DetailNet reads {reads or 'none'}: give what it reads.")
        seen = torch.cat([picture, *(each.to(picture.dtype) for each in (appearance, skeleton))], 1)
        seen = seen.to(self.enter.weight.dtype)
        words = None if words is None else words.to(seen.dtype)
        hidden = self.enter(F.pixel_unshuffle(seen, 2))
        levels = []
        for level, stage in enumerate(self.down):
            if level:
                hidden = self.narrow[level - 1](F.pixel_unshuffle(hidden, 2))
            hidden = stage(hidden, words)
            levels.append(hidden)
        for level in reversed(range(len(self.up))):
            hidden = levels[level] + F.pixel_shuffle(self.widen[level](hidden), 2)
            hidden = self.up[level](hidden, words)
        change = F.pixel_shuffle(self.leave(hidden), 2)
        if self.config.share:
            colours, strength = appearance[:, :3], appearance[:, 3:]  # colours are times the strength
            change = change + self.config.share * (colours - strength * (picture + change))
        return picture + (change * changeable(appearance, skeleton)).to(picture.dtype)


class _Stage(nn.Module):
    """Residual blocks, and a look at the prompt after them where it is read."""

    def __init__(self, channels: int, blocks: int, words: int | None, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.read = None
        if words is not None:
            read: Any = Attention(
                channels,
                words,
                heads=heads,
                dim_head=channels // heads,
                norm_num_groups=heads,
                residual_connection=True,
            )
            _zero(read.to_out[0])
            self.read = read

    def forward(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        """hidden: [B, C, h, w]; words: [B, L, D], looked at by a stage that reads."""
        hidden = self.blocks(hidden)
        return hidden if self.read is None else self.read(hidden, words)


def _zero(layer: Any) -> None:
    """Start with a layer that adds nothing."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def changeable(appearance: Tensor, skeleton: Tensor) -> Tensor:
    """How far a picture may change, [B, 1, H, W] in [0, 1]: near its map, and near its skeleton as far as
    there is a map at all, for clothes may come by words while the map shows a head.

    appearance: [B, 4, H, W], faded; skeleton: [B, 3, H, W] in [0, 1].
    """
    coverage = appearance[:, 3:]
    strongest = (coverage.amax((2, 3), keepdim=True) / WHOLE).clamp(max=1)
    bones = (skeleton.amax(1, keepdim=True) > 0).to(coverage)
    return torch.maximum(near(coverage), strongest * near(bones))


def near(coverage: Tensor) -> Tensor:
    """[B, 1, H, W] in [0, 1]: 1 on what is covered and around it, fading to 0 within `REACH` and CELL, at
    least two cells, of it; less where the coverage is below `WHOLE`.

    coverage: [B, 1, H, W] in [0, 1], such as the map's strength; H and W multiples of CELL.
    """
    cells = F.max_pool2d((coverage / WHOLE).clamp(max=1), CELL)
    reach = max(1, round(REACH * cells.shape[-2]) - 1)  # the border between cells is half a cell more
    grown = F.max_pool2d(cells, 2 * reach + 1, 1, reach)
    return F.interpolate(grown, scale_factor=CELL, mode="bilinear")
