"""The person estimator of bolid-mini: key-points, part masks and "is anyone there?" from one picture.

A small network that is cheap on a CPU: the picture is folded 4x4 into channels first (no full-resolution
convolution), most of the thinking happens in a transformer at 1/16 of the size (where the whole body is in
view, so left and right can be told apart), and heat-maps are read out at 1/4 of the size by a local
soft-argmax, which gives sub-cell places and gradients that reach the pixels (Eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

N_JOINTS = 18
N_LABELS = 5  # background and the four parts
STRIDE = 4  # picture pixels per heat-map cell


@dataclass(frozen=True)
class EstimatorOutput:
    """What the network says of a batch, all differentiable with respect to the pixels.

    heatmaps: logits [B,18,H/4,W/4]; keypoints: [B,18,2], x and y in [0,1]; confidence: logits [B,18];
    parts: logits [B,5,H,W]; person: logits [B].
    """

    heatmaps: Tensor
    keypoints: Tensor
    confidence: Tensor
    parts: Tensor
    person: Tensor


@dataclass(frozen=True)
class Estimate:
    """A finished estimate. keypoints: float32 [B,18,3], x, y in [0,1] and confidence in [0,1] (about 1 seen,
    0.5 hidden but known, 0 a face joint turned away or nobody there); parts: uint8 [B,H,W] label map of
    bolid.pose.PARTS, 0 background; person: float32 [B], the probability that a person is in the picture.
    """

    keypoints: np.ndarray
    parts: np.ndarray
    person: np.ndarray


class CellNorm(nn.LayerNorm):
    """LayerNorm over the channels of every cell of [B,C,h,w]: no batch statistics, cheap channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualConvs(nn.Module):
    """x + two 3x3 convolutions of the same width, [B,C,h,w] -> [B,C,h,w]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = CellNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.between = CellNorm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(F.silu(self.norm(x)))
        return x + self.second(F.silu(self.between(hidden)))


class GlobalLayer(nn.Module):
    """A pre-norm transformer layer over the cells of a small map, [B,N,C] -> [B,N,C].

    Plain matmul and softmax: at ~100 cells on a CPU it beats the fused kernel.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, channels = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, cells, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [B,heads,N,d]
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        x = x + self.out((weights @ value).transpose(1, 2).reshape(batch, cells, channels))
        return x + self.mlp(self.mlp_norm(x))


def local_soft_argmax(heatmaps: Tensor, radius: int = 3) -> tuple[Tensor, Tensor]:
    """Places of the peaks, by the mean of the softmax inside a window around each highest cell.

    heatmaps: logits [B,J,h,w]; radius: half the window, in cells. The window keeps the other side's joint out
    of the mean. Returns (places [B,J,2], x and y in [0,1]; softmax over all cells [B,J,h,w]), float32,
    differentiable.
    """
    height, width = heatmaps.shape[-2:]
    probability = heatmaps.float().flatten(2).softmax(-1)  # [B,J,h*w]
    peak = probability.argmax(-1, keepdim=True)
    cell = torch.arange(height * width, device=heatmaps.device)
    row, column = cell // width, cell % width
    near = ((row - peak // width).abs() <= radius) & ((column - peak % width).abs() <= radius)
    window = probability * near
    window = window / window.sum(-1, keepdim=True)
    x = (window * (column + 0.5)).sum(-1) / width
    y = (window * (row + 0.5)).sum(-1) / height
    return torch.stack((x, y), -1), probability.view_as(heatmaps)


class PersonEstimator(ModelMixin, ConfigMixin):
    """Key-points, parts and person probability of one person per picture.

    height, width: the size it works at, multiples of 16 (other sizes are fitted to it by `predict`);
    channels: widths at 1/4, 1/8 and 1/16 of the size; layers: transformer layers at 1/16; heads: of each.

    Raises: ValueError for a size that is no multiple of 16.
    """

    @register_to_config
    def __init__(
        self,
        height: int = 192,
        width: int = 128,
        channels: tuple[int, int, int] = (64, 80, 128),
        layers: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16, got {height}x{width}: round them")
        fine, middle, coarse = channels
        self.stem = nn.Sequential(nn.PixelUnshuffle(STRIDE), nn.Conv2d(3 * STRIDE**2, fine, 3, padding=1))
        self.down_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle = ResidualConvs(middle)
        self.down_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, height * width // 256, coarse) * 0.02)
        self.body = nn.ModuleList(GlobalLayer(coarse, heads) for _ in range(layers))
        self.up_middle = nn.Conv2d(coarse, middle, 1)
        self.middle_again = ResidualConvs(middle)
        self.up_fine = nn.Conv2d(middle, fine, 1)
        self.fine = ResidualConvs(fine)
        self.head_norm = CellNorm(fine)
        self.joints = nn.Conv2d(fine, 2 * N_JOINTS, 1)  # heat-maps and, at each cell, "is it seen here?"
        self.labels = nn.Conv2d(fine, N_LABELS * STRIDE**2, 1)  # every pixel of a cell has its own logits
        self.person = nn.Linear(2 * coarse, 1)

    def forward(self, pixels: Tensor) -> EstimatorOutput:
        """pixels: [B,3,height,width] in [-1,1], of the configured size -> EstimatorOutput.

        Raises: ValueError for another size (use `predict`, or resize with torch.nn.functional.interpolate).
        """
        size = (self.config["height"], self.config["width"])
        if tuple(pixels.shape[-2:]) != size:
            raise ValueError(
                f"pictures are {tuple(pixels.shape[-2:])}, they must be {size} (height, width): resize"
            )
        fine, tokens = self.features(pixels.contiguous(memory_format=torch.channels_last))
        heatmaps, seen = self.joints(fine).chunk(2, 1)
        keypoints, probability = local_soft_argmax(heatmaps)
        confidence = (probability.detach() * seen).sum((-1, -2))
        pooled = torch.cat((tokens.mean(1), tokens.amax(1)), -1)
        parts = F.pixel_shuffle(self.labels(fine), STRIDE)
        return EstimatorOutput(heatmaps, keypoints, confidence, parts, self.person(pooled)[:, 0])

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels [B,3,H,W] -> (fine map [B,C0,H/4,W/4] ready for the heads, body tokens [B,H*W/256,C2])."""
        fine = self.stem(pixels)
        middle = self.middle(self.down_middle(F.silu(fine)))
        coarse = self.down_coarse(F.silu(middle))
        tokens = coarse.flatten(2).transpose(1, 2) + self.position
        for layer in self.body:
            tokens = layer(tokens)
        coarse = tokens.transpose(1, 2).reshape(coarse.shape)
        middle = self.middle_again(middle + F.interpolate(self.up_middle(coarse), scale_factor=2.0))
        fine = self.fine(fine + F.interpolate(self.up_fine(middle), scale_factor=2.0))
        return F.silu(self.head_norm(fine)), tokens

    @torch.no_grad()
    def predict(self, image: np.ndarray) -> Estimate:
        """One picture or a batch -> Estimate at the pictures' own size (always with a leading batch axis).

        image: uint8 RGB [H,W,3] or [B,H,W,3] of any size; a picture of other proportions is fitted inside the
        working size, its border continued outwards.
        Raises: ValueError for anything else.
        """
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise ValueError(
                f"expected uint8 RGB [H,W,3] or [B,H,W,3], got {image.dtype} {image.shape}: convert it"
            )
        batch = np.ascontiguousarray(image[None] if image.ndim == 3 else image)
        pixels = torch.from_numpy(batch).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 127.5 - 1
        fitted, (left, top, width, height) = self.fit(pixels)
        out = self(fitted)
        size = torch.tensor((self.config["width"], self.config["height"]), device=self.device)
        corner = torch.tensor((left, top), device=self.device)
        inner = torch.tensor((width, height), device=self.device)
        places = ((out.keypoints * size - corner) / inner).clamp(0, 1)
        person = out.person.float().sigmoid()
        confidence = out.confidence.float().sigmoid()
        logits = out.parts[:, :, top : top + height, left : left + width].float()
        parts = F.interpolate(logits, pixels.shape[-2:], mode="bilinear").argmax(1).to(torch.uint8)
        keypoints = torch.cat((places, confidence[..., None]), -1)
        return Estimate(keypoints.float().cpu().numpy(), parts.cpu().numpy(), person.cpu().numpy())

    def fit(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int, int, int]]:
        """Scale pictures to fit the working size and continue their borders to fill it.

        pixels: [B,3,H,W] -> ([B,3,height,width], box (left, top, width, height) of the picture in it, in
        pixels).
        """
        height, width = pixels.shape[-2:]
        scale = min(self.config["height"] / height, self.config["width"] / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        if inner != (height, width):
            pixels = F.interpolate(pixels.float(), inner, mode="bilinear", antialias=True).to(pixels.dtype)
        top, left = (self.config["height"] - inner[0]) // 2, (self.config["width"] - inner[1]) // 2
        border = (left, self.config["width"] - inner[1] - left, top, self.config["height"] - inner[0] - top)
        return F.pad(pixels, border, mode="replicate"), (left, top, inner[1], inner[0])
