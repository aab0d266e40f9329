"""How the mini evaluators are trained: on avatars, many of them spoilt as a generator would."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bolid.evaluators import AppearanceEvaluator, PoseEvaluator, decode_cells
from bolid.metrics import attribute_accuracy, identification, pck
from bolid.training.draws import Draws

COLUMNS = (
    "image",
    "reference",
    "keypoints",
    "reference_keypoints",
    "masks",
    "reference_masks",
    "labels",
    "visible",
    "reference_visible",
    "scene",
    "reference_scene",
)
"""Columns of the avatar rows that these objectives read."""


@dataclass(frozen=True)
class DegradeOptions:
    """How pictures are spoilt before an evaluator in training sees them."""

    share: float = 0.6  # of the pictures that are degraded at all; each way below is then taken half the time
    blur_px: float = 2.0  # largest standard deviation of the blur
    shrink: tuple[float, ...] = (0.25, 0.375, 0.5, 0.75)  # of the side, low resolution and back
    kept_frequencies: tuple[float, ...] = (2.0, 3.0, 4.0, 6.0)  # of the 8 x 8 block transform's 14 diagonals
    noise: float = 0.12  # largest deviation of white and of low-frequency noise; pictures span 2
    grey: float = (
        0.08  # share of all pictures whose background becomes neutral grey (as a raw appearance map)
    )


@dataclass(frozen=True)
class PoseEvaluatorOptions:
    """Options of `PoseEvaluatorObjective`."""

    hidden_weight: float = 0.4  # of joints that cannot be seen: their place is learnt, not scored
    offset_weight: float = 2.0  # of the place within the cell
    seen_weight: float = 0.2  # of the visibility
    degrade: DegradeOptions = field(default_factory=DegradeOptions)


@dataclass(frozen=True)
class AppearanceEvaluatorOptions:
    """Options of `AppearanceEvaluatorObjective`."""

    scene_weight: float = 0.3
    contrast_weight: float = 0.5  # of each of the two embeddings
    temperature: float = 0.1  # of the contrastive losses
    jitter: float = (
        0.012  # deviation of the key-points shown, of the picture's height: they will be estimated
    )
    hidden_jitter: float = 0.03  # the same for joints that cannot be seen
    degrade: DegradeOptions = field(default_factory=DegradeOptions)


def degrade(x: Tensor, options: DegradeOptions) -> Tensor:
    """Blur, block transform loss, low resolution and noise for some rows: [B, 3, H, W] in [-1, 1] -> same.

    The block transform with few coefficients and shaken ones stands for an autoencoder's reconstruction.
    """
    x = x.clone()
    chosen = _coin(x, options.share)
    for spoil in (_blur, _block_loss, _low_resolution, _noise):
        rows = (chosen & _coin(x, 0.5)).nonzero()[:, 0]
        if len(rows):
            x[rows] = spoil(x[rows], options).clamp(-1, 1).to(x.dtype)
    return x


def _coin(x: Tensor, share: float) -> Tensor:
    """True for about `share` of the rows: [B]."""
    return torch.rand(len(x), device=x.device) < share


def _blur(x: Tensor, options: DegradeOptions) -> Tensor:
    """Gaussian blur of one random width for the batch (rows differ by the coin, batches by the width)."""
    sigma = 0.4 + (options.blur_px - 0.4) * torch.rand((), device=x.device)
    taps = torch.arange(-4, 5, device=x.device, dtype=x.dtype)
    kernel = torch.softmax(-taps.square() / (2 * sigma**2), 0).expand(3, 1, 1, -1)
    padded = F.pad(x, (4, 4, 4, 4), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)


def _low_resolution(x: Tensor, options: DegradeOptions) -> Tensor:
    """Down by one factor of `shrink` and up again."""
    factor = options.shrink[int(torch.randint(len(options.shrink), ()))]
    small = F.interpolate(x, scale_factor=factor, mode="bilinear", antialias=True)
    return F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)


def _block_loss(x: Tensor, options: DegradeOptions) -> Tensor:
    """8 x 8 cosine transform, high diagonals dropped and the others shaken, back: H and W multiples of 8."""
    k = torch.arange(8, device=x.device, dtype=x.dtype)
    basis = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2  # orthonormal but for the first row
    basis[0] /= math.sqrt(2)
    blocks = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # [B, 3, H/8, 8, W/8, 8]
    spectrum = torch.einsum("bcyixj,ui,vj->bcyuxv", blocks, basis, basis)
    kept = options.kept_frequencies[int(torch.randint(len(options.kept_frequencies), ()))]
    gate = torch.sigmoid(2 * (kept + 0.5 - k[:, None] - k[None]))[:, None]  # [8, 1, 8]
    spectrum = (spectrum + 0.1 * torch.randn_like(spectrum)) * gate
    return torch.einsum("bcyuxv,ui,vj->bcyixj", spectrum, basis, basis).reshape(x.shape)


def _noise(x: Tensor, options: DegradeOptions) -> Tensor:
    """White noise, noise of an eighth of the resolution (wrong patches of colour), of one deviation a row."""
    size, deviation = x.shape[-2:], options.noise * torch.rand(len(x), 1, 1, 1, device=x.device)
    coarse = torch.randn(len(x), 3, size[0] // 8, size[1] // 8, device=x.device, dtype=x.dtype)
    coarse = F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return x + deviation * (torch.randn_like(x) + coarse)


def both_views(batch: Mapping[str, Tensor], options: DegradeOptions | None) -> dict[str, Tensor]:
    """Pictures then references in one batch of 2B rows: image, keypoints, visible, labels, scene (-1: none).

    Spoilt by `options`, or as they are for None.  A greyed background has no scene.
    """
    x = torch.cat([batch["image"], batch["reference"]])
    scene = batch["scene"]
    other = batch.get("reference_scene", torch.full_like(scene, -1))
    rows = {
        "keypoints": torch.cat([batch["keypoints"], batch["reference_keypoints"]]).float(),
        "visible": torch.cat([batch["visible"], batch["reference_visible"]]),
        "labels": torch.cat([batch["labels"], batch["labels"]]),
        "scene": torch.cat([scene, other]),
    }
    if options is not None:
        masks = torch.cat([batch["masks"], batch["reference_masks"]])
        grey = _coin(x, options.grey)
        x = x.masked_fill(grey[:, None, None, None] & (masks[:, None] == 0), 0.0)
        rows["scene"] = rows["scene"].masked_fill(grey, -1)
        x = degrade(x, options)
    return rows | {"image": x.contiguous(memory_format=torch.channels_last)}


class PoseEvaluatorObjective(nn.Module):
    """Trains a `PoseEvaluator`: cross-entropy of the joint's cell, offsets within it, visibility."""

    def __init__(
        self, options: PoseEvaluatorOptions | None = None, evaluator: PoseEvaluator | None = None
    ) -> None:
        super().__init__()
        self.options = options or PoseEvaluatorOptions()
        self.evaluator = evaluator or PoseEvaluator()
        self.models = {"pose": self.evaluator}

    def forward(self, batch: Mapping[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """Batch with `COLUMNS` as tensors -> scalar losses; `loss` is their weighted sum."""
        rows = both_views(batch, self.options.degrade)
        cells, offsets, seen = self.evaluator(rows["image"])
        height, width = cells.shape[-2:]
        points = rows["keypoints"]
        inside = ((points[..., :2] > 0) & (points[..., :2] < 1)).all(-1)
        weight = inside * (self.options.hidden_weight + (1 - self.options.hidden_weight) * points[..., 2])
        place = points[..., :2] * points.new_tensor([width, height])  # [2B, J, 2] in cells
        target = _cell_targets(place, height, width)
        entropy = -(target * cells.float().flatten(2).log_softmax(-1)).sum(-1)
        losses = {
            "cell": (weight * entropy).sum() / weight.sum(),
            "offset": (weight * _offset_loss(offsets.float(), place)).sum() / weight.sum(),
            "seen": F.binary_cross_entropy_with_logits(seen.float(), (points[..., 2] > 0.5).float()),
        }
        loss = losses["cell"] + self.options.offset_weight * losses["offset"]
        return losses | {"loss": loss + self.options.seen_weight * losses["seen"]}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """PCK@0.1 of visible joints (box diagonal), on the batch's pictures as they are and degraded."""
        figures = {}
        for name, options in (("pck", None), ("pck_degraded", self.options.degrade)):
            rows = both_views(batch, options)
            found = decode_cells(*self.evaluator(rows["image"])).cpu().numpy()
            size = (rows["image"].shape[-2], rows["image"].shape[-1])
            scores = pck(found, rows["keypoints"].cpu().numpy(), size)
            figures[name] = float(torch.from_numpy(scores).nanmean())
        return figures


def _cell_targets(place: Tensor, height: int, width: int) -> Tensor:
    """Gaussian (0.6 cells) around `place` [B, J, 2] in cells, summing to 1 over the cells: [B, J, h * w]."""
    x = torch.arange(width, device=place.device) + 0.5
    y = torch.arange(height, device=place.device) + 0.5
    squared = (place[..., 0, None] - x).square()[:, :, None] + (place[..., 1, None] - y).square()[..., None]
    return torch.softmax(-squared.flatten(2) / (2 * 0.6**2), -1)


def _offset_loss(offsets: Tensor, place: Tensor) -> Tensor:
    """Huber distance (cells) of the offsets [B, J, 2, h, w] in the joint's own cell to `place`: [B, J]."""
    height, width = offsets.shape[-2:]
    column = place[..., 0].long().clamp(0, width - 1)
    row = place[..., 1].long().clamp(0, height - 1)
    index = (row * width + column)[:, :, None, None].expand(-1, -1, 2, 1)
    inside = offsets.flatten(3).gather(3, index)[..., 0]  # [B, J, 2]
    truth = place - torch.stack([column, row], -1) - 0.5
    return F.smooth_l1_loss(inside, truth.clamp(-2, 2), reduction="none", beta=0.25).sum(-1)


def shaken(keypoints: Tensor, jitter: float, hidden_jitter: float) -> Tensor:
    """Key-points [B, J, 3] with the error that an estimate has, larger for hidden joints: deviations as
    shares of the picture's height and width."""
    deviation = jitter + (hidden_jitter - jitter) * (1 - keypoints[..., 2:])
    noise = deviation * torch.randn_like(keypoints[..., :2])
    return torch.cat([keypoints[..., :2] + noise, keypoints[..., 2:]], -1)


def attribute_loss(logits: Sequence[Tensor], rows: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy over visible attributes, mean over attributes (so that a rare one counts as much).

    logits: [B, values] for each attribute; rows: `visible` and `labels` [B, A].
    """
    losses = []
    for i, one in enumerate(logits):
        seen = rows["visible"][:, i].float()
        entropy = F.cross_entropy(one, rows["labels"][:, i], reduction="none")
        losses.append((seen * entropy).sum() / seen.sum().clamp(min=1))
    return torch.stack(losses).mean()


def attribute_figures(
    logits: Sequence[Tensor], rows: Mapping[str, Tensor], suffix: str = "", names: Sequence[str] = ()
) -> dict[str, float]:
    """`attributes` + suffix: mean over pictures of the share of visible attributes that are right; and
    `attribute/NAME` of the named ones."""
    best = torch.stack([one.argmax(-1) for one in logits], 1)
    seen, labels = rows["visible"].bool(), rows["labels"]
    scores = attribute_accuracy(best.cpu().numpy(), labels.cpu().numpy(), seen.cpu().numpy())
    figures = {"attributes" + suffix: float(torch.from_numpy(scores).nanmean())}
    share = ((best == labels) & seen).sum(0) / seen.sum(0).clamp(min=1)
    return figures | {f"attribute/{n}": s.item() for n, s in zip(names, share, strict=bool(names))}


class AppearanceEvaluatorObjective(nn.Module):
    """Trains an `AppearanceEvaluator`: attributes that can be seen, scene, and embeddings by contrast.

    The contrast is between a person's picture and their reference (another pose, another scene) in the batch.
    """

    def __init__(
        self, options: AppearanceEvaluatorOptions | None = None, evaluator: AppearanceEvaluator | None = None
    ) -> None:
        super().__init__()
        self.options = options or AppearanceEvaluatorOptions()
        self.evaluator = evaluator or _default_appearance_evaluator()
        self.models = {"appearance": self.evaluator}

    def forward(self, batch: Mapping[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """Batch with `COLUMNS` as tensors -> scalar losses; `loss` is their weighted sum."""
        rows = both_views(batch, self.options.degrade)
        options = self.options
        out = self.evaluator(rows["image"], shaken(rows["keypoints"], options.jitter, options.hidden_jitter))
        losses = {
            "attributes": attribute_loss(self.evaluator.split(out["attributes"].float()), rows),
            "scene": F.cross_entropy(out["scene"].float(), rows["scene"], ignore_index=-1),
            "body": contrast(out["body"], options.temperature),
            "head": contrast(out["head"], options.temperature),
        }
        told_apart = losses["body"] + losses["head"]
        loss = losses["attributes"] + options.scene_weight * losses["scene"]
        loss = loss + options.contrast_weight * told_apart
        return losses | {"loss": loss}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy of visible attributes and of the scene, and identification 1 of 16 (if B >= 16).

        With true key-points, as they are and degraded; `<attribute>` figures are of the pictures as they are.
        """
        figures: dict[str, float] = {}
        for suffix, options in (("", None), ("_degraded", self.options.degrade)):
            rows = both_views(batch, options)
            out = self.evaluator(rows["image"], rows["keypoints"])
            logits = self.evaluator.split(out["attributes"])
            figures |= attribute_figures(logits, rows, suffix, () if suffix else self.evaluator.names)
            known = rows["scene"] >= 0
            figures["scene" + suffix] = (
                (out["scene"].argmax(-1) == rows["scene"])[known].float().mean().item()
            )
            for name in ("body", "head"):
                pair = [half.float().cpu().numpy() for half in out[name].chunk(2)]
                if len(pair[0]) >= 16:
                    figures[f"identified_by_{name}{suffix}"] = float(identification(*pair).mean())
        return figures


def contrast(features: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between the first and the second half of `features` [2B, E], row i with row i."""
    first, second = features.chunk(2)
    logits = first @ second.T / temperature
    truth = torch.arange(len(first), device=features.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def _default_appearance_evaluator() -> AppearanceEvaluator:
    """An `AppearanceEvaluator` for the avatar world's attributes and scenes."""
    from bolid.avatars.identity import ATTRIBUTES
    from bolid.avatars.scene import SCENES

    return AppearanceEvaluator(tuple(ATTRIBUTES), tuple(map(len, ATTRIBUTES.values())), len(SCENES))
