"""The mini evaluators: networks that only look; no loss and no part of the pipeline (design.md §6).

`PoseEvaluator` finds key-points; `AppearanceEvaluator` names attributes and scene and gives body and head
embeddings for identification, FID-mini and LPIPS-mini.  Both are trained on avatars with degraded pictures
(blur, noise, low resolution): an evaluator that saw clean pictures only cannot judge generated ones.
Scores made with them bear the ending `-mini`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

# Where AppearanceEvaluator looks beside the 18 joints: middles of limbs, the torso, and beyond the ends.
_BONES = ((2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13), (0, 1))
_TORSO = ((2, 8), (5, 11), (1, 8, 11), (1, 1, 8, 11), (8, 11))
_BEYOND = (
    (3, 4, 0.35),
    (6, 7, 0.35),
    (9, 10, 0.15),
    (12, 13, 0.15),
    (9, 10, 0.3),
    (12, 13, 0.3),
    (1, 0, 0.5),
)
FACE_JOINTS = (0, 14, 15, 16, 17)
NECK = 1


class Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))): [B, C, H, W] -> the same; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def stage(inputs: int, channels: int, shrink: int, blocks: int, kernel: int = 1) -> nn.Sequential:
    """Space to depth by `shrink`, a convolution to `channels`, `blocks` residual blocks."""
    mix = nn.Conv2d(inputs * shrink**2, channels, kernel, padding=kernel // 2)
    return nn.Sequential(nn.PixelUnshuffle(shrink), mix, *(Residual(channels) for _ in range(blocks)))


class Projections(ModelMixin, ConfigMixin):
    """From a text and a picture tower's pooled outputs into their common space.

    The pipeline has no use for it, as no cross-attention reads it, but what text and picture encoders know of
    each other is measured there (`bolid.evaluation.retrieval`).
    """

    @register_to_config
    def __init__(self, text_width: int, vision_width: int, embedding: int) -> None:
        super().__init__()
        self.text = nn.Linear(text_width, embedding, bias=False)
        self.picture = nn.Linear(vision_width, embedding, bias=False)

    @classmethod
    def of(cls, clip: Any) -> Projections:
        """Those of a transformers CLIPModel, sharing its weights."""
        text, picture = clip.text_projection, clip.visual_projection
        made = cls(text.in_features, picture.in_features, text.out_features)
        made.text, made.picture = text, picture
        return made


def to_tensor(pictures: np.ndarray, size: tuple[int, int], device: torch.device) -> Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, height, width] in [-1, 1], resized (antialiased) to `size`.

    Raises ValueError for anything but uint8 RGB pictures.
    """
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"pictures must be uint8 [N, H, W, 3], got {pictures.dtype} {pictures.shape}")
    x = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if x.shape[-2:] != size:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


class PoseEvaluator(ModelMixin, ConfigMixin):
    """Key-points by classifying the cell of an eighth-resolution grid and regressing the rest within it.

    (The pipeline's estimator reads quarter-resolution heat-maps: another architecture, other weights.)
    """

    @register_to_config
    def __init__(
        self,
        height: int = 192,  # px, of the network's input
        width: int = 128,  # px
        joints: int = 18,
        stem_channels: int = 48,
        channels: int = 96,
        context_channels: int = 144,
    ) -> None:
        super().__init__()
        self.size = (height, width)
        self.stem = nn.Sequential(stage(3, stem_channels, 4, 0, kernel=3), nn.SiLU())  # 48 x 32
        self.body = stage(stem_channels, channels, 2, 1)  # 24 x 16
        self.context = stage(
            channels, context_channels, 2, 2
        )  # 12 x 8: left from right needs the whole figure
        self.fuse = nn.Conv2d(context_channels + channels, channels, 1)
        self.refine = nn.Sequential(Residual(channels), nn.GroupNorm(8, channels), nn.SiLU())
        self.cells = nn.Conv2d(channels, 3 * joints, 1)  # cell logit, x and y offset in cells
        self.seen = nn.Linear(context_channels, joints)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures float [B, 3, height, width] in [-1, 1] -> cell logits [B, J, h, w], offsets
        [B, J, 2, h, w] (x, y in cells from the cell's centre), visibility logits [B, J]; h, w = size / 8."""
        fine = self.body(self.stem(x))
        context = self.context(fine)
        wide = F.interpolate(context, scale_factor=2.0, mode="nearest")
        maps = self.cells(self.refine(self.fuse(torch.cat([wide, fine], 1))))
        maps = maps.unflatten(1, (-1, 3))  # [B, J, 3, h, w]
        return maps[:, :, 0], maps[:, :, 1:], self.seen(context.mean((2, 3)))

    @torch.no_grad()
    def predict(self, pictures: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, J, 3]: x, y in [0, 1] and the probability of being visible.

        Hidden joints get their most likely place.  Raises ValueError for anything but uint8 pictures.
        """
        found = [decode_cells(*self(to_tensor(chunk, self.size, self.device).to(self.dtype)))
                 for chunk in _chunks(pictures, batch_size)]  # fmt: skip
        return torch.cat(found).float().cpu().numpy()


def decode_cells(cells: Tensor, offsets: Tensor, seen: Tensor) -> Tensor:
    """Best cell plus its offset: `PoseEvaluator.forward`'s outputs -> key-points [B, J, 3] in [0, 1]."""
    height, width = cells.shape[-2:]
    best = cells.flatten(2).argmax(-1)  # [B, J]
    inside = offsets.flatten(3).gather(3, best[:, :, None, None].expand(-1, -1, 2, 1))[..., 0]  # [B, J, 2]
    x = (best % width + 0.5 + inside[..., 0].float()) / width
    y = (best // width + 0.5 + inside[..., 1].float()) / height
    return torch.stack([x, y, seen.float().sigmoid()], -1)


@dataclass(frozen=True)
class Reading:
    """What the networks that measure say of N pictures."""

    attributes: np.ndarray  # int64 [N, A], index into each attribute's values
    scene: np.ndarray  # int64 [N]
    body: np.ndarray  # float32 [N, E], unit length
    head: np.ndarray  # float32 [N, E], unit length
    features: np.ndarray  # float32 [N, D], for FID-mini and KID-mini
    face: np.ndarray | None = None  # bool [N], whether a face is seen; None: not looked for


class AppearanceEvaluator(ModelMixin, ConfigMixin):
    """Attributes, scene and embeddings of a picture whose key-points are known (from `PoseEvaluator`).

    The body branch samples feature maps at the joints and limbs; the head branch sees an upright head crop at
    full resolution, for a head is only some 20 pixels wide.
    """

    @register_to_config
    def __init__(
        self,
        attributes: tuple[
            str, ...
        ],  # names, in the order of the labels (a dict would come back sorted from JSON)
        values: tuple[int, ...],  # how many values each attribute has
        scenes: int = 8,
        height: int = 192,  # px, of the network's input
        width: int = 128,  # px
        head_crop: int = 48,  # px, side of the head crop: twice a head, so that hats and long hair are in
        channels: tuple[int, ...] = (24, 64, 96),  # of the body branch at 1/2, 1/4 and 1/8 resolution
        point_channels: int = 32,
        hidden: int = 256,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.size, self.crop_px, self.names, self.values = (height, width), head_crop, attributes, values
        half, quarter, eighth = channels
        self.stem = nn.Sequential(stage(3, half, 2, 0, kernel=3), nn.SiLU())  # 96 x 64
        self.fine = stage(half, quarter, 2, 1)  # 48 x 32
        self.coarse = stage(quarter, eighth, 2, 2)  # 24 x 16
        self.points = nn.Linear(3 + quarter + eighth, point_channels)
        self.register_buffer("spots", _spot_weights(), persistent=False)  # [spots, 18]
        width_in = len(self.spots) * (point_channels + 3)
        self.body = nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, hidden), nn.SiLU())
        self.head_net = nn.Sequential(
            stage(3, quarter, 2, 1, kernel=3),
            stage(quarter, eighth, 2, 2),
            nn.GroupNorm(8, eighth),
            nn.SiLU(),
        )
        width_in = (eighth + 3) * 16
        self.head = nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, hidden), nn.SiLU())
        self.attribute_heads = nn.Linear(2 * hidden, sum(values))
        self.scene = nn.Sequential(nn.Linear(2 * eighth, 64), nn.SiLU(), nn.Linear(64, scenes))
        self.body_embedding = nn.Linear(hidden, embedding)
        self.head_embedding = nn.Linear(hidden, embedding)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Feature maps [B, C, H/4, W/4] and [B, C', H/8, W/8] of pictures [B, 3, H, W] in [-1, 1]."""
        fine = self.fine(self.stem(x))
        return [fine, self.coarse(fine)]

    def head_map(self, x: Tensor, keypoints: Tensor) -> tuple[Tensor, Tensor]:
        """Feature map [B, C, head_crop/4, head_crop/4] of the upright head crop, and the crop itself."""
        crop = upright_heads(x, keypoints, self.crop_px).to(x.dtype)
        return self.head_net(crop), crop

    def forward(self, x: Tensor, keypoints: Tensor) -> dict[str, Tensor]:
        """Pictures float [B, 3, height, width] in [-1, 1], key-points [B, 18, 3] (x, y in [0, 1]) -> dict.

        `attributes` [B, sum of values] logits (see `split`), `scene` [B, scenes] logits, `body` and `head`
        [B, E] of unit length, `features` [B, D] for FID-mini.
        """
        maps = self.stages(x)
        body = self.body(self._at_spots([_quarter(x), *maps], keypoints))
        cells = [F.adaptive_avg_pool2d(m, 4).flatten(1) for m in self.head_map(x, keypoints)]
        head = self.head(torch.cat(cells, 1))
        mean, spread = maps[0].mean((2, 3)), maps[0].float().std((2, 3)).to(x.dtype)
        whole = maps[1].mean((2, 3))
        return {
            "attributes": self.attribute_heads(torch.cat([body, head], 1)),
            "scene": self.scene(torch.cat([whole, maps[1].amax((2, 3))], 1)),
            "body": F.normalize(self.body_embedding(body).float(), dim=-1),
            "head": F.normalize(self.head_embedding(head).float(), dim=-1),
            "features": torch.cat([mean, spread, whole], 1),
        }

    def _at_spots(self, maps: list[Tensor], keypoints: Tensor) -> Tensor:
        """Features and colours under the joints and between them: [B, spots * (point_channels + 3)].

        `maps` [B, C, h, w] of any sizes, the first one the picture itself."""
        spots = self.spots.float() @ keypoints[..., :2].float()  # [B, spots, 2] in [0, 1]
        grid = (2 * spots - 1)[:, :, None]  # [B, spots, 1, 2]
        taken = [
            F.grid_sample(m.float(), grid, padding_mode="border", align_corners=False)[..., 0] for m in maps
        ]
        sampled = torch.cat(taken, 1).transpose(1, 2)  # [B, spots, C]
        sampled = sampled.to(maps[0].dtype)
        return torch.cat([F.silu(self.points(sampled)), sampled[..., :3]], -1).flatten(1)

    def split(self, logits: Tensor) -> list[Tensor]:
        """Attribute logits [B, sum of values] -> one [B, values] per attribute, in that order."""
        return list(logits.split(list(self.values), dim=1))

    @torch.no_grad()
    def predict(self, pictures: np.ndarray, keypoints: np.ndarray, batch_size: int = 64) -> Reading:
        """Read pictures uint8 [N, H, W, 3] with key-points [N, 18, 3], as `PoseEvaluator.predict` gives them.

        Raises ValueError when there are not as many key-point sets as pictures, or for pictures not uint8.
        """
        read = []
        for x, points in batches(self, pictures, keypoints, batch_size):
            out = self(x, points)
            best = torch.stack([logits.argmax(-1) for logits in self.split(out["attributes"])], 1)
            read.append((best, out["scene"].argmax(-1), out["body"], out["head"], out["features"].float()))
        return Reading(*(torch.cat(column).cpu().numpy() for column in zip(*read, strict=True)))

    @torch.no_grad()
    def perceptual_distance(
        self,
        pictures: np.ndarray,
        truth: np.ndarray,
        parts: np.ndarray,
        labels: int = 4,
        batch_size: int = 64,
    ) -> np.ndarray:
        """LPIPS-mini per part: squared distance of channel-unit features, mean over the truth's part mask.

        Pictures uint8 [N, H, W, 3] each, `parts` uint8 [N, H, W] (0 = background, 1..labels) ->
        float [N, labels], summed over the two stages; NaN where the part is not in the picture.
        """
        found = []
        for a, b, masks in zip(*(_chunks(v, batch_size) for v in (pictures, truth, parts)), strict=True):
            pairs = [self.stages(to_tensor(v, self.size, self.device).to(self.dtype)) for v in (a, b)]
            one_hot = torch.from_numpy(np.stack([masks == k for k in range(1, labels + 1)], 1)).to(
                self.device
            )
            found.append(sum(_masked_distance(p, q, one_hot.float()) for p, q in zip(*pairs, strict=True)))
        return torch.cat(found).cpu().numpy()


def _quarter(x: Tensor) -> Tensor:
    """Pictures at a quarter of the size: the mean colour of every 4 x 4 pixels."""
    return F.avg_pool2d(x, 4)


def _masked_distance(p: Tensor, q: Tensor, masks: Tensor) -> Tensor:
    """Mean over each mask [B, K, H, W] of ||p/|p| - q/|q|||^2 over channels, p, q [B, C, h, w] -> [B, K]."""
    distance = (F.normalize(p.float(), dim=1) - F.normalize(q.float(), dim=1)).square().sum(1)  # [B, h, w]
    weight = F.adaptive_avg_pool2d(masks, (p.shape[-2], p.shape[-1]))
    return (weight * distance[:, None]).sum((2, 3)) / weight.sum((2, 3))  # 0 / 0 = NaN: no such part


def upright_heads(x: Tensor, keypoints: Tensor, side: int) -> Tensor:
    """Square crops of `side` pixels around the heads, turned so that the neck is below: [B, 3, side, side].

    `x` [B, 3, H, W], key-points [B, 18, 3] with x, y in [0, 1]; outside the picture is grey (0).
    """
    size = x.new_tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    points = keypoints[..., :2].float() * size
    centre = points[:, list(FACE_JOINTS)].mean(1)  # [B, 2] in pixels
    up = centre - points[:, NECK]
    return upright_crops(x, centre, up, side, raised=0.05)  # hats and hair reach above the face


def upright_crops(x: Tensor, centre: Tensor, up: Tensor, side: int, raised: float = 0.0) -> Tensor:
    """Square crops [B, 3, side, side], pixel for pixel, turned so that `up` points up.

    x: [B, 3, H, W]; centre, up: [B, 2] in pixels, y down, `up` of any length; raised: how much of the side
    the crop lies above its centre. Outside the picture is grey (0).
    """
    size = x.new_tensor([x.shape[-1], x.shape[-2]], dtype=torch.float32)
    up = F.normalize(up + torch.tensor([0.0, -1e-3], device=x.device), dim=-1)
    right = torch.stack([-up[:, 1], up[:, 0]], -1)
    centre = centre + raised * side * up
    steps = (torch.arange(side, device=x.device) + 0.5 - side / 2).float()
    grid = centre[:, None, None] + steps[None, None, :, None] * right[:, None, None]
    grid = grid - steps[None, :, None, None] * up[:, None, None]  # rows go down
    return F.grid_sample(x.float(), 2 * grid / size - 1, align_corners=False)


def _spot_weights() -> Tensor:
    """[spots, 18] weights that turn joints into the spots of `AppearanceEvaluator`.

    Hands, shoes and hats lie beyond the last joint: (a, b, share) continues the bone a-b by that share.
    """
    groups = [(j,) for j in range(18)] + list(_BONES) + list(_TORSO)
    weights = torch.zeros(len(groups) + len(_BEYOND), 18)
    for row, (start, end, share) in enumerate(_BEYOND, len(groups)):
        weights[row, start], weights[row, end] = -share, 1 + share
    for row, group in enumerate(groups):
        for joint in group:
            weights[row, joint] += 1 / len(group)
    return weights


def batches(
    evaluator: Any, pictures: np.ndarray, keypoints: np.ndarray, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `evaluator` takes of pictures uint8 [N, H, W, 3] and key-points [N, 18, 3], batch by batch.

    Raises ValueError when there are not as many key-point sets as pictures, or for pictures not uint8.
    """
    if len(pictures) != len(keypoints):
        raise ValueError(f"{len(pictures)} pictures but {len(keypoints)} sets of key-points: give one each")
    for chunk, points in zip(_chunks(pictures, batch_size), _chunks(keypoints, batch_size), strict=True):
        x = to_tensor(chunk, evaluator.size, evaluator.device).to(evaluator.dtype)
        yield x, torch.from_numpy(np.ascontiguousarray(points)).to(evaluator.device)


def _chunks(array: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """`array` in pieces of at most `size` rows."""
    return (array[i * size : (i + 1) * size] for i in range(math.ceil(len(array) / size)))
