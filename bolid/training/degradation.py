"""What pictures suffer before an estimator sees them: blur, low resolution, JPEG, noise, odd colours, covers.

All on float batches [B,3,H,W] in [-1,1], on any device, drawing from torch's global random state (the loop
seeds it). An estimator trained without these was useless on generated pictures (docs/LOG.md, mini.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8  # JPEG's block, pixels


def some_rows(batch: int, share: float, device: torch.device) -> Tensor:
    """Indices of a random `share` of the rows, int64 [round(batch * share)]."""
    return torch.randperm(batch, device=device)[: round(batch * share)]


def uniform(batch: int, low: float, high: float, like: Tensor) -> Tensor:
    """One number per row, [B,1,1,1] in [low, high)."""
    return torch.empty(batch, 1, 1, 1, device=like.device).uniform_(low, high)


def soften(pixels: Tensor) -> Tensor:
    """Lose resolution: all rows [B,3,H,W] go down to one random size (0.2 to 0.8 of theirs) and back."""
    height, width = pixels.shape[-2:]
    scale = float(torch.empty(()).uniform_(0.2, 0.8))
    small = F.interpolate(pixels, (max(4, int(height * scale)), max(4, int(width * scale))), mode="area")
    return F.interpolate(small, (height, width), mode="bilinear")


def quantise_blocks(pixels: Tensor, step: Tensor) -> Tensor:
    """JPEG's damage: every 8x8 block's cosine coefficients are rounded to multiples of step * (1 +
    frequency).

    pixels: [B,3,H,W] with H, W multiples of 8; step: [B,1,1,1] in units of pixel value (0.02 mild, 0.15
    ugly).
    """
    batch, _, height, width = pixels.shape
    k = torch.arange(BLOCK, device=pixels.device, dtype=torch.float32)
    basis = torch.cos(math.pi * (k + 0.5) * k[:, None] / BLOCK) * math.sqrt(2 / BLOCK)  # [frequency, place]
    basis[0] /= math.sqrt(2)
    blocks = pixels.view(batch, 3, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = blocks.transpose(3, 4)  # [B,3,h,w,8,8]
    unit = step[..., None, None] * (1 + k + k[:, None])
    coarse = torch.round(basis @ blocks @ basis.T / unit) * unit
    return (basis.T @ coarse @ basis).transpose(3, 4).reshape(pixels.shape)


def shift_colours(pixels: Tensor, amount: float = 0.15) -> Tensor:
    """Mix the channels of [B,3,H,W] by a random matrix near the identity, shift them and clamp to [-1,1]."""
    batch = pixels.shape[0]
    mix = torch.eye(3, device=pixels.device) + amount * torch.randn(batch, 3, 3, device=pixels.device)
    bias = 0.7 * amount * torch.randn(batch, 3, 1, device=pixels.device)
    return (mix @ pixels.flatten(2) + bias).view_as(pixels).clamp(-1, 1)


def degrade(pixels: Tensor, share: float = 0.4) -> Tensor:
    """Soften, quantise and roughen, each a random `share` of the rows (some rows all, some none).

    pixels: [B,3,H,W] in [-1,1] -> a new batch in [-1,1].
    """
    out, batch = pixels.clone(), pixels.shape[0]
    rows = some_rows(batch, share, out.device)
    for part in rows.chunk(3):  # three resolutions a batch
        out[part] = soften(out[part])
    rows = some_rows(batch, share, out.device)
    noise = uniform(len(rows), 0.0, 0.25, out)
    out[rows] = out[rows] + noise * torch.randn_like(out[rows])
    rows = some_rows(batch, share, out.device)
    out[rows] = quantise_blocks(out[rows], uniform(len(rows), 0.02, 0.15, out))
    return out.clamp(-1, 1)


def covers(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    """One random box per row that hides what is under it: bool [B,H,W]; sides 0.1 to 0.35 of the whole."""
    size = torch.empty(batch, 2, device=device).uniform_(0.1, 0.35)
    corner = torch.rand(batch, 2, device=device) * (1 - size)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    inside_y = (y >= corner[:, :1]) & (y < corner[:, :1] + size[:, :1])  # [B,H]
    inside_x = (x >= corner[:, 1:]) & (x < corner[:, 1:] + size[:, 1:])  # [B,W]
    return inside_y[:, :, None] & inside_x[:, None, :]


def random_affine(batch: int, height: int, width: int, device: torch.device) -> Tensor:
    """Small rotations (sigma 12 degrees), scales (0.75 to 1.25) and shifts as [B,2,3] for `affine_grid`.

    It maps normalised output places in [-1,1] to input places; rotation is right for the picture's
    proportions.
    """
    angle = torch.randn(batch, device=device) * math.radians(12)
    scale = torch.empty(batch, device=device).uniform_(0.75, 1.25)
    cosine, sine, aspect = angle.cos() / scale, angle.sin() / scale, height / width
    shift = torch.randn(batch, 2, device=device) * 0.1
    first = torch.stack((cosine, -sine * aspect, shift[:, 0]), -1)
    second = torch.stack((sine / aspect, cosine, shift[:, 1]), -1)
    return torch.stack((first, second), 1)


def empty_scenes(pixels: Tensor, people: Tensor) -> Tensor:
    """Take the person out: pixels [B,3,H,W], people bool [B,H,W] -> [B,3,H,W] with nobody in it.

    The (widened) person is filled with the picture moved sideways by half a width where that shows
    background, and with the mean background of that row of pixels elsewhere.
    """
    wide = F.max_pool2d(people[:, None].float(), 9, stride=1, padding=4)  # [B,1,H,W]
    free = 1 - wide
    mean = (pixels * free).sum(-1, keepdim=True) / free.sum(-1, keepdim=True).clamp(min=1)
    half = pixels.shape[-1] // 2
    moved, moved_free = pixels.roll(half, -1), free.roll(half, -1)
    return pixels * free + wide * (moved * moved_free + mean * (1 - moved_free))


def abstract_pictures(scenes: Tensor) -> Tensor:
    """Pictures of nothing: noise of a random coarseness, gradients between two colours, scenes cut up and
    shuffled.

    scenes: pictures [B,3,H,W] without a person -> [B,3,H,W], a third of each kind.
    """
    batch, _, height, width = scenes.shape
    corners = torch.rand(batch, 3, 2, 2, device=scenes.device) * 2 - 1
    out = F.interpolate(corners, (height, width), mode="bilinear", align_corners=True)
    rows = torch.arange(batch, device=scenes.device) % 3
    cells = int(2 ** torch.randint(2, 7, ()))
    noise = torch.rand(batch, 3, cells * 3 // 2, cells, device=scenes.device) * 2 - 1
    out = torch.where(
        (rows == 0)[:, None, None, None], F.interpolate(noise, (height, width), mode="nearest"), out
    )
    tiles = scenes.view(batch, 3, 6, height // 6, 4, width // 4).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    tiles = tiles[torch.randperm(len(tiles), device=scenes.device)].view(
        batch, 6, 4, 3, height // 6, width // 4
    )
    shuffled = tiles.permute(0, 3, 1, 4, 2, 5).reshape(scenes.shape)
    return torch.where((rows == 1)[:, None, None, None], shuffled, out)
