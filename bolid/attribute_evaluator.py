"""What a person wears and looks like, in words, read from upright crops at full resolution.

`AppearanceEvaluator` samples coarse maps at joints, which is enough to tell people apart and too little to
tell a hoodie from a sweater: a pattern's stripe is two pixels wide. Here every crop (head, torso, legs, both
hands, both feet) is turned upright and seen as it is, so that a lying person looks like a standing one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bolid.evaluators import batches, stage, upright_crops, upright_heads

CELLS = 4  # a crop's map is averaged in CELLS x CELLS cells


@dataclass(frozen=True)
class Spot:
    """Where a crop lies: around the mean of `centre`, moved by `beyond` of the way from `lower` to `upper`,
    turned so that `upper` (means of joints, numbers in `bolid.pose.JOINTS`) is above `lower`.
    """

    centre: tuple[int, ...]
    upper: tuple[int, ...]
    lower: tuple[int, ...]
    beyond: float = 0.0


SPOTS: dict[str, tuple[Spot, ...]] = {
    "torso": (Spot((2, 5, 8, 11), (2, 5), (8, 11)),),
    "legs": (Spot((8, 11, 9, 12, 10, 13), (8, 11), (10, 13)),),
    "hand": (Spot((4,), (3,), (4,), -0.35), Spot((7,), (6,), (7,), -0.35)),  # what a hand carries hangs there
    "foot": (Spot((10,), (9,), (10,), -0.15), Spot((13,), (12,), (13,), -0.15)),
}
"""The crops beside the head's; those of one name (the person's right and left) share a network."""


class AttributeEvaluator(ModelMixin, ConfigMixin):
    """Attributes of a picture whose key-points are known (from `PoseEvaluator`), for measuring; one of
    another seed can be a loss network.

    Args:
        attributes: names, in the order of the labels.
        values: how many values each attribute has.
        height, width: px, of the network's input.
        sides: px, of the crops of head, torso, legs, hands and feet.
        widths: channels at half and at quarter resolution.
        branch: what a crop is summed up in.
        hidden: of the layer that sees all crops together.
    """

    @register_to_config
    def __init__(
        self,
        attributes: tuple[str, ...],
        values: tuple[int, ...],
        height: int = 192,
        width: int = 128,
        sides: tuple[int, ...] = (48, 72, 72, 32, 32),
        widths: tuple[int, int] = (32, 64),
        branch: int = 128,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.size, self.names, self.values = (height, width), attributes, values
        self.sides = dict(zip(("head", *SPOTS), sides, strict=True))
        self.branches = nn.ModuleDict({name: CropNetwork(widths, branch) for name in self.sides})
        places = 2 * 18
        total = branch * (1 + sum(len(spots) for spots in SPOTS.values())) + places
        self.together = nn.Sequential(nn.Linear(total, hidden), nn.SiLU())
        self.attribute_heads = nn.Linear(total + hidden, sum(values))

    def forward(self, x: Tensor, keypoints: Tensor) -> Tensor:
        """Pictures float [B, 3, height, width] in [-1, 1], key-points [B, 18, 3] (x, y in [0, 1]) -> logits
        [B, sum of values] (see `split`)."""
        found = []
        for name, crops in self.crops(x, keypoints).items():
            seen = self.branches[name](torch.cat(crops)).chunk(len(crops))
            found += seen if len(seen) == 1 else [sum(seen) / len(seen), torch.stack(seen).amax(0)]
        found.append(_places(keypoints).to(x.dtype))
        whole = torch.cat(found, 1)
        return self.attribute_heads(torch.cat([whole, self.together(whole)], 1))

    def crops(self, x: Tensor, keypoints: Tensor) -> dict[str, list[Tensor]]:
        """What the branches see, by their names: crops [B, 3, side, side], one for each spot."""
        found = {"head": [upright_heads(x, keypoints, self.sides["head"]).to(x.dtype)]}
        for name, spots in SPOTS.items():
            found[name] = [cut(x, keypoints, spot, self.sides[name]).to(x.dtype) for spot in spots]
        return found

    def maps(self, x: Tensor, keypoints: Tensor) -> list[Tensor]:
        """Of each branch's crops the feature maps [B, C, side / 4, side / 4], then what each is summed up in,
        [B, branch, 1, 1]; differentiable with respect to `x`."""
        found = []
        for name, crops in self.crops(x, keypoints).items():
            branch: Any = self.branches[name]
            seen = branch.see(torch.cat(crops))
            summed = branch.sum_up(seen)[..., None, None]
            found += [*seen.chunk(len(crops)), *summed.chunk(len(crops))]
        return found

    def split(self, logits: Tensor) -> list[Tensor]:
        """Logits [B, sum of values] -> one [B, values] per attribute, in that order."""
        return list(logits.split(list(self.values), dim=1))

    @torch.no_grad()
    def predict(self, pictures: np.ndarray, keypoints: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """uint8 [N, H, W, 3] with key-points [N, 18, 3] -> int64 [N, A], index into each attribute's values.

        Raises ValueError when there are not as many key-point sets as pictures, or for pictures not uint8.
        """
        read = [
            torch.stack([one.argmax(-1) for one in self.split(self(x, points))], 1)
            for x, points in batches(self, pictures, keypoints, batch_size)
        ]
        return torch.cat(read).cpu().numpy()


class CropNetwork(nn.Module):
    """Crops [B, 3, side, side] -> [B, out]: cells' means tell where, the largest values tell what."""

    def __init__(self, widths: tuple[int, int], out: int) -> None:
        super().__init__()
        half, quarter = widths
        self.net = nn.Sequential(
            stage(3, half, 2, 2, kernel=3), stage(half, quarter, 2, 2), nn.GroupNorm(8, quarter), nn.SiLU()
        )
        width = quarter * (CELLS**2 + 1)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out), nn.SiLU())

    def forward(self, crops: Tensor) -> Tensor:
        return self.sum_up(self.see(crops))

    def see(self, crops: Tensor) -> Tensor:
        """Feature maps [B, C, side / 4, side / 4]."""
        return self.net(crops.contiguous(memory_format=torch.channels_last))

    def sum_up(self, seen: Tensor) -> Tensor:
        cells = F.adaptive_avg_pool2d(seen, CELLS).flatten(1)
        return self.out(torch.cat([cells, seen.amax((2, 3))], 1))


def cut(x: Tensor, keypoints: Tensor, spot: Spot, side: int) -> Tensor:
    """The crops [B, 3, side, side] of a spot; see `upright_crops`."""
    size = x.new_tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    points = keypoints[..., :2].float() * size
    centre, upper, lower = (points[:, list(j)].mean(1) for j in (spot.centre, spot.upper, spot.lower))
    return upright_crops(x, centre + spot.beyond * (upper - lower), upper - lower, side)


def _places(keypoints: Tensor) -> Tensor:
    """[B, 36]: the joints from their mean, in units of their spread."""
    points = keypoints[..., :2].float()
    points = points - points.mean(1, keepdim=True)
    return (points / points.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-3)).flatten(1)
