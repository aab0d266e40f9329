"""Training of the person estimator: exact key-points and parts of avatars, seen through damaged pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bolid.estimator import STRIDE, EstimatorOutput, PersonEstimator
from bolid.pose import FACE, MIRROR
from bolid.training.degradation import (
    abstract_pictures,
    covers,
    degrade,
    empty_scenes,
    random_affine,
    shift_colours,
    some_rows,
)
from bolid.training.draws import Draws

PART_WEIGHTS = (0.6, 1.3, 1.0, 1.0, 1.8)  # background is most of a picture, head and feet the least
IN_REACH = 3.0  # cells: farther off, the heat-map must move first and the place's own loss would mislead
HIDDEN = 0.5  # confidence of a joint whose place is known though it cannot be seen
PCK_SHARE = 0.1  # of the person's box diagonal: within it a joint counts as found


@dataclass(frozen=True)
class EstimatorOptions:
    """What is trained and how strongly each term counts."""

    height: int = 192  # px
    width: int = 128  # px
    channels: tuple[int, int, int] = (64, 80, 128)  # widths at 1/4, 1/8 and 1/16 of the size
    layers: int = 2  # transformer layers at 1/16
    negatives: float = 0.15  # share of pictures without a person, added to every batch
    degraded: float = 0.4  # share of pictures that get each kind of damage
    sigma: float = 1.0  # of the heat-map's target, in cells of 4 px
    joints_weight: float = 1.0  # heat-map cross-entropy
    place_weight: float = 0.5  # smooth L1 of the read-out places, in cells
    parts_weight: float = 2.0  # cross-entropy of the part labels
    confidence_weight: float = 1.0  # binary cross-entropy of the confidences
    person_weight: float = 0.5  # binary cross-entropy of "is anyone there"


@dataclass(frozen=True)
class Views:
    """Pictures with people and what is true of them: pixels [B,3,H,W], keypoints [B,18,3] (visibility 0 or
    1), masks uint8 [B,H,W] of part labels.
    """

    pixels: Tensor
    keypoints: Tensor
    masks: Tensor

    def take(self, rows: Tensor) -> Views:
        return Views(self.pixels[rows], self.keypoints[rows], self.masks[rows])

    def put(self, rows: Tensor, other: Views) -> Views:
        def replaced(mine: Tensor, theirs: Tensor) -> Tensor:
            return mine.index_copy(0, rows, theirs)

        return Views(*map(replaced, vars(self).values(), vars(other).values()))


def mirrored(views: Views) -> Views:
    """Left and right exchanged, in the picture and in the names of the joints."""
    keypoints = views.keypoints[:, list(MIRROR)].clone()
    keypoints[..., 0] = 1 - keypoints[..., 0]
    return Views(views.pixels.flip(-1), keypoints, views.masks.flip(-1))


def warped(views: Views) -> Views:
    """Turned, scaled and shifted a little; borders are continued, as `PersonEstimator.fit` does."""
    batch, _, height, width = views.pixels.shape
    theta = random_affine(batch, height, width, views.pixels.device)
    grid = F.affine_grid(theta, [batch, 3, height, width], align_corners=False)
    pixels = F.grid_sample(views.pixels, grid, padding_mode="border", align_corners=False)
    masks = F.grid_sample(views.masks[:, None].float(), grid, mode="nearest", align_corners=False)
    # input = A output + shift, solved for output
    places = views.keypoints[..., :2] * 2 - 1 - theta[:, None, :, 2]
    places = torch.linalg.solve(theta[:, :, :2], places.transpose(1, 2)).transpose(1, 2)
    keypoints = torch.cat(((places + 1) / 2, views.keypoints[..., 2:]), -1)
    return Views(pixels, keypoints, masks[:, 0].to(torch.uint8))


def covered(views: Views) -> Views:
    """A box of another row's scene covers a place of each picture: joints under it are hidden, parts gone."""
    batch, _, height, width = views.pixels.shape
    box = covers(batch, height, width, views.pixels.device)
    scenes = empty_scenes(views.pixels, views.masks > 0).roll(1, 0)
    column = (views.keypoints[..., 0] * width).long().clamp(0, width - 1)
    row = (views.keypoints[..., 1] * height).long().clamp(0, height - 1)
    under = box.flatten(1).gather(1, row * width + column)  # [B,18]
    visible = views.keypoints[..., 2] * ~under
    keypoints = torch.cat((views.keypoints[..., :2], visible[..., None]), -1)
    return Views(torch.where(box[:, None], scenes, views.pixels), keypoints, views.masks * ~box)


def without_person(views: Views, count: int) -> Tensor:
    """`count` pictures with nobody in them, [count,3,H,W]: a fourth abstract, the others emptied scenes."""
    rows = some_rows(len(views.pixels), 1.0, views.pixels.device)[:count]
    scenes = empty_scenes(views.pixels[rows], views.masks[rows] > 0)
    abstract = torch.arange(len(rows), device=rows.device) % 4 == 0
    if abstract.any():
        scenes[abstract] = abstract_pictures(scenes[abstract])
    return scenes


def in_frame(keypoints: Tensor) -> Tensor:
    """Which joints lie inside the picture: bool [B,18] of keypoints [B,18,3]."""
    return ((keypoints[..., :2] >= 0) & (keypoints[..., :2] <= 1)).all(-1)


def target_confidence(keypoints: Tensor) -> Tensor:
    """1 seen, 0.5 hidden but known, 0 for hidden joints of the face (this tells front from back) and outside.

    keypoints: [B,18,3] with visibility 0 or 1 -> [B,18].
    """
    confidence = keypoints[..., 2].clamp(min=HIDDEN)
    confidence[:, list(FACE)] = keypoints[:, list(FACE), 2]
    return confidence * in_frame(keypoints)


class EstimatorObjective(nn.Module):
    """Losses of a PersonEstimator on a batch of avatars. `models` is what a run exports."""

    def __init__(self, options: EstimatorOptions) -> None:
        super().__init__()
        self.options = options
        self.estimator = PersonEstimator(options.height, options.width, options.channels, options.layers)
        self.estimator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def models(self) -> dict[str, PersonEstimator]:
        """What a run exports, by folder name."""
        return {"estimator": self.estimator}

    def forward(self, batch: dict[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """batch: image, reference [B,3,H,W] in [-1,1]; masks, reference_masks uint8 [B,H,W]; keypoints,
        reference_keypoints [B,18,3]; image_prompt and image_prompt_person (bool [B]) if there -> losses, with
        "loss".
        """
        with torch.autocast(
            batch["image"].device.type, enabled=False
        ):  # cosine blocks and affine maps need float32
            views, empty = self.augmented(batch)
        out = self.estimator(torch.cat((views.pixels, empty)))
        people = len(views.pixels)
        losses = self.person_losses(out, views)
        truth = torch.zeros_like(out.person, dtype=torch.float32)
        truth[:people] = 1
        losses["person"] = F.binary_cross_entropy_with_logits(out.person.float(), truth)
        labels = torch.cat(
            (views.masks.long(), views.masks.new_zeros(empty.shape[0], *empty.shape[-2:]).long())
        )
        weights = torch.tensor(PART_WEIGHTS, device=labels.device)
        losses["parts"] = F.cross_entropy(out.parts.float(), labels, weight=weights)
        confidence = torch.zeros_like(out.confidence, dtype=torch.float32)
        confidence[:people] = target_confidence(views.keypoints)
        losses["confidence"] = F.binary_cross_entropy_with_logits(out.confidence.float(), confidence)
        weighted = [getattr(self.options, f"{name}_weight") * value for name, value in losses.items()]
        return {
            "loss": torch.stack(weighted).sum(),
            **{name: value.detach() for name, value in losses.items()},
        }

    def person_losses(self, out: EstimatorOutput, views: Views) -> dict[str, Tensor]:
        """Heat-map and place losses of the rows that show a person; hidden joints count half."""
        people, height, width = len(views.pixels), self.options.height // STRIDE, self.options.width // STRIDE
        weight = in_frame(views.keypoints) * (0.5 + 0.5 * views.keypoints[..., 2])  # [B,18]
        total = weight.sum().clamp(min=1)
        cells = views.keypoints[..., :2] * torch.tensor((width, height), device=weight.device)
        x = torch.arange(width, device=weight.device) + 0.5 - cells[..., :1]  # [B,18,w]
        y = torch.arange(height, device=weight.device) + 0.5 - cells[..., 1:]
        two_variances = 2 * self.options.sigma**2
        along_x, along_y = (-(x**2) / two_variances).softmax(-1), (-(y**2) / two_variances).softmax(-1)
        target = (along_y[..., :, None] * along_x[..., None, :]).flatten(2)
        logits = out.heatmaps[:people].float().flatten(2)
        joints = (logits.logsumexp(-1) - (target * logits).sum(-1)) * weight
        error = (out.keypoints[:people] - views.keypoints[..., :2]) * torch.tensor(
            (width, height), device=weight.device
        )
        near = weight * (error.detach().norm(dim=-1) < IN_REACH)
        place = F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").sum(-1) * near
        return {"joints": joints.sum() / total, "place": place.sum() / total}

    @torch.no_grad()
    def augmented(self, batch: dict[str, Tensor]) -> tuple[Views, Tensor]:
        """The batch as it is trained on: (views with a person [B], pictures without [..,3,H,W])."""
        image = Views(batch["image"], batch["keypoints"], batch["masks"])
        reference = Views(batch["reference"], batch["reference_keypoints"], batch["reference_masks"])
        size, device = len(image.pixels), image.pixels.device
        rows = some_rows(size, 0.5, device)
        views = image.put(rows, reference.take(rows))
        empty = without_person(views, max(1, round(size * self.options.negatives)))
        if "image_prompt_person" in batch:  # real empty scenes, where the data says which they are
            real = batch["image_prompt"][~batch["image_prompt_person"].bool()][: (len(empty) + 1) // 2]
            empty = torch.cat((real, empty[len(real) :]))
        for change, share in ((mirrored, 0.5), (warped, 0.6), (covered, 0.3)):
            rows = some_rows(size, share, device)
            if len(rows):
                views = views.put(rows, change(views.take(rows)))
        pixels = torch.cat((views.pixels, empty))
        rows = some_rows(len(pixels), 0.5, device)
        pixels[rows] = shift_colours(pixels[rows])
        pixels = degrade(pixels, self.options.degraded)
        return replace(views, pixels=pixels[:size]), pixels[size:]

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held-out figures on `image`, clean and damaged, and on the same scenes without the person."""
        views = Views(batch["image"], batch["keypoints"], batch["masks"])
        clean = self.estimator(views.pixels)
        figures = self.figures(clean, views)
        damaged = self.figures(self.estimator(degrade(views.pixels)), views)
        figures |= {f"{name}_degraded": damaged[name] for name in ("pck", "part_iou")}
        empty = self.estimator(without_person(views, len(views.pixels)))
        correct = torch.cat((clean.person > 0, empty.person < 0))
        return {**figures, "person_accuracy": float(correct.float().mean())}

    def figures(self, out: EstimatorOutput, views: Views) -> dict[str, float]:
        """PCK@0.1 of the person's box diagonal and median error (pixels) of seen joints, PCK of hidden ones,
        mean IoU of the four parts, and how often the confidence (cut at 0.75) tells seen from hidden.
        """
        size = torch.tensor((self.options.width, self.options.height), device=views.pixels.device)
        truth, seen = views.keypoints[..., :2] * size, views.keypoints[..., 2] > 0.5
        diagonal = (truth.amax(1) - truth.amin(1)).norm(dim=-1, keepdim=True)  # [B,1]
        error = (out.keypoints * size - truth).norm(dim=-1)  # [B,18]
        found = (error < PCK_SHARE * diagonal).float()
        guess, masks = out.parts.argmax(1), views.masks.long()
        overlap = [
            ((guess == k) & (masks == k)).sum() / ((guess == k) | (masks == k)).sum().clamp(min=1)
            for k in range(1, 5)
        ]
        told = (out.confidence.float().sigmoid() > (1 + HIDDEN) / 2) == seen
        return {
            "pck": float(found[seen].mean()),
            "pck_hidden": float(found[~seen].mean()),
            "median_px": float(error[seen].median()),
            "part_iou": float(torch.stack(overlap).mean()),
            "confidence_accuracy": float(told.float().mean()),
        }
