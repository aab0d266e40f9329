"""GarmentNet: clothes by words, laid into the appearance map where the reference is not to tell them.

What a reference shows reaches the picture through its map, in place and at full resolution; clothes that only
the prompt names reach it through cross-attention alone, and a small base draws their colour but seldom their
kind. So this network draws a rough one of them first, on the skeleton, into the same map, from which base and
DetailNet go on. (A layout or a coarse picture first, then the picture: as Make-A-Scene, arXiv 2203.13131, and
VITON's coarse-to-fine try-on, arXiv 1711.08447.)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from bolid.pose import PARTS

DRAWN = ("upper", "lower")  # the parts that it draws
COLUMNS = tuple(PARTS.index(part) for part in DRAWN)
SEEN = 4 + 3  # channels of map and skeleton
BARE = -2.0  # logit of a new network's coverage: most of a picture is bare
FOLD = 4  # pixels a side of one place of its finest level
LEAST = 0.1  # what is surer than that to be bare, or clothed, is so
SURE = 0.8  # coverage that a garment reaches somewhere, or the prompt does not name it: see docs/LOG.md


class GarmentNet(ModelMixin, ConfigMixin):
    """Appearance map, skeleton and prompt -> the clothes that the prompt names, and where they lie.

    A small U-Net of three levels, at 1/4, 1/8 and 1/16 of the picture's size, of depthwise convolutions and
    pointwise ones (ConvNeXt, arXiv 2201.03545: few weights for a wide view). The second level reads the
    prompt by cross-attention.

    Args:
        cross_attention_dim: width of the prompt's embeddings.
        channels: of the finest level, and of the two others.
        kernel: pixels a side of a depthwise convolution, odd.
        heads: of the cross-attention.

    Raises ValueError for channels that the heads do not divide.
    """

    config: Any  # made by ConfigMixin from the arguments

    @register_to_config
    def __init__(
        self,
        cross_attention_dim: int,
        channels: tuple[int, int] = (40, 64),
        kernel: int = 5,
        heads: int = 4,
    ) -> None:
        super().__init__()
        fine, coarse = channels
        if coarse % heads:
            raise ValueError(f"channels={tuple(channels)}: the second must be a multiple of heads={heads}.")

        def block(width: int) -> _Block:
            return _Block(width, kernel)

        self.enter = nn.Conv2d(SEEN * FOLD**2, fine, 1)
        self.words = nn.Sequential(nn.Linear(cross_attention_dim, coarse), nn.LayerNorm(coarse))
        self.fine_down, self.fine_up = block(fine), nn.Sequential(block(fine), block(fine))
        self.narrow, self.widen = nn.Conv2d(4 * fine, coarse, 1), nn.Conv2d(coarse, 4 * fine, 1)
        self.down, self.deep, self.up = block(coarse), block(coarse), block(coarse)
        read: Any = Attention(coarse, coarse, heads=heads, dim_head=coarse // heads, norm_num_groups=heads,
                              residual_connection=True)  # fmt: skip
        self.read = read
        self.leave = nn.Conv2d(fine, (3 + len(DRAWN)) * FOLD**2, 1)
        assert self.leave.bias is not None
        nn.init.constant_(self.leave.bias[3 * FOLD**2 :], BARE)

    def forward(self, appearance: Tensor, skeleton: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """appearance: the map [B, 4, H, W] of `bolid.appearance.appearance_map`; skeleton: [B, 3, H, W] in
        [0, 1], of `bolid.pose.skeleton_map`; words: prompt embeddings [B, L, C], as the UNet gets them.

        Returns colours [B, 3, H, W], about [-1, 1], and logits [B, 2, H, W] of where each of `DRAWN` lies:
        low where the prompt does not name it.

        Raises ValueError for sizes that differ or are no multiples of 8, and for words of another width.
        """
        sizes = {tuple(each.shape[-2:]) for each in (appearance, skeleton)}
        if len(sizes) > 1 or any(side % (2 * FOLD) for side in appearance.shape[-2:]):
            raise ValueError(
                f"map and skeleton have the sizes {sorted(sizes)}: both must have one, of multiples of "
                f"{2 * FOLD}."
            )
        if words.shape[-1] != self.config.cross_attention_dim:
            raise ValueError(
                f"the prompt's states are {words.shape[-1]} wide, this GarmentNet reads "
                f"{self.config.cross_attention_dim}: it was made for another text encoder; load it with its "
                "own base, or leave it out (garments=None)"
            )
        kind = self.enter.weight.dtype
        seen = torch.cat([appearance.to(kind), skeleton.to(kind)], 1)
        fine = self.fine_down(self.enter(F.pixel_unshuffle(seen, FOLD)))
        hidden = self.narrow(F.pixel_unshuffle(fine, 2))
        hidden = self.down(self.read(hidden, self.words(words.to(kind))))
        deep = self.deep(F.avg_pool2d(hidden, 2, ceil_mode=True))
        hidden = self.up(hidden + F.interpolate(deep, hidden.shape[-2:], mode="bilinear"))
        fine = self.fine_up(fine + F.pixel_shuffle(self.widen(hidden), 2))
        drawn = F.pixel_shuffle(self.leave(fine), FOLD)
        return drawn[:, :3].to(appearance.dtype), drawn[:, 3:].to(appearance.dtype)

    @torch.no_grad()
    def fill(self, appearance: Tensor, skeleton: Tensor, words: Tensor, room: Tensor) -> Tensor:
        """The appearance map with the clothes that the prompt names, where it leaves room for them.

        appearance, skeleton and words: as of `forward`; room: [B, 2] in [0, 1], how far the reference is not
        to tell each of `DRAWN`.
        Returns float32 [B, 4, H, W] on the map's device. What is nowhere surer than `SURE` to be covered is
        not laid: it is not named.
        """
        device = self.enter.weight.device
        colours, logits = self(*(each.to(device) for each in (appearance, skeleton, words)))
        covered = logits.float().sigmoid().to(appearance.device)
        room = room.to(covered) * (covered.amax((2, 3)) > SURE)
        sure = ((covered - LEAST) / (1 - 2 * LEAST)).clamp(0, 1)
        laid = (sure * room[:, :, None, None]).sum(1, keepdim=True)
        laid = torch.minimum(laid, 1 - appearance[:, 3:])
        colours = colours.float().clamp(-1, 1).to(appearance.device)
        return appearance + torch.cat([colours * laid, laid], 1)


class _Block(nn.Module):
    """x + what a depthwise and two pointwise convolutions make of it."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mix(hidden)
