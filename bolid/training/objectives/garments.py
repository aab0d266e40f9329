"""The stage `garments`: a GarmentNet learns to draw the clothes that a prompt names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bolid.appearance import appearance_map
from bolid.avatars.identity import ATTRIBUTES
from bolid.clothes import CLOTHES, with_clothes
from bolid.garments import COLUMNS as PARTS_DRAWN
from bolid.garments import DRAWN, GarmentNet
from bolid.losses import picture_loss
from bolid.plan import pixels_of
from bolid.pose import PARTS, known, skeleton_map
from bolid.training.bases import FrozenBase
from bolid.training.draws import Draws
from bolid.training.objectives.detail import appearance_of, skeleton_of
from bolid.training.objectives.diffusion import PERCEIVERS, perceived
from bolid.training.objectives.layout import states_of
from bolid.training.objectives.loss_networks import Kind, load_loss_networks

PICTURES = ("image", "masks", "keypoints", "reference", "reference_masks", "reference_keypoints")
COLUMNS = (*PICTURES, "caption", "caption_without_identity", "labels")
NAMES = (  # of a garment in captions, as whole words ("dressed" is none); a dress is both
    re.compile(r"\b(t-shirt|tee|sweater|pullover|tank top|hoodie|hooded sweatshirt|jacket|dress)\b"),
    re.compile(r"\b(trousers|pants|shorts|skirt|dress)\b"),
)
PROMPTS = 3  # of each row: of nobody in particular, with top and bottom, with one of them or as it was told
TOLD = (0.15, 0.65)  # of the draws: up to which the first of these prompts is taken, and the second
AT_ONCE = 64  # rows whose maps are drawn together


@dataclass(frozen=True)
class GarmentWeights:
    """The λ of each loss; 0 leaves it out and loads nothing for it."""

    picture: float = 1.0  # colours and edges inside the garments
    coverage: float = 1.0  # where they lie
    perceptual: float = 0.0  # features in a network that knows appearances
    details: float = 0.0  # the same in one that names attributes
    answers: float = 0.0  # what that network names


@dataclass(frozen=True)
class GarmentOptions:
    """Options of the stage `garments`."""

    pipeline: str = "models/bolid-mini"  # folder or Hub id: its text encoder is read, and it gets the network
    channels: tuple[int, int] = (40, 64)  # see GarmentNet
    kernel: int = 5
    heads: int = 4
    weights: GarmentWeights = field(default_factory=GarmentWeights)
    loss_networks: str | None = None  # a folder of them: see loss_networks.py
    seen_rows: int = 8  # of the global batch: which loss networks look at


class GarmentObjective(nn.Module):
    """Colours and edges of the garments that a prompt names, and where they lie.

    Args:
        words_dim: width of the rows' `words`.

    Raises ValueError when a loss has a weight and its network is missing.
    """

    def __init__(self, options: GarmentOptions, words_dim: int) -> None:
        super().__init__()
        self.options = options
        self.net = GarmentNet(words_dim, options.channels, options.kernel, options.heads)
        self.models: dict[str, Any] = {"garments": self.net}
        wanted: dict[str, Kind] = {
            name: kind for name, kind in PERCEIVERS.items() if getattr(options.weights, name)
        }
        networks = load_loss_networks(options.loss_networks, wanted.values())
        self.seen_by = nn.ModuleDict({name: networks[kind] for name, kind in wanted.items()})

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of `garment_rows`. Returns scalars, means over the global batch."""
        o, level = self.options, draws.uniform("prompt")
        prompt = torch.bucketize(level, level.new_tensor(TOLD), right=True)
        truth, (colours, logits), place = batch["image"], *self.drawn(batch, prompt)
        inside = place.sum(1, keepdim=True)
        colours = torch.where(inside > 0, colours.float(), truth)  # what lies elsewhere is no error
        weight = inside / inside.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
        missed = F.binary_cross_entropy_with_logits(logits.float(), place, reduction="none")
        means = {
            "picture": draws.mean(picture_loss(colours, truth, weight)),
            "coverage": draws.mean(missed.mean((1, 2, 3))),
        }
        rows, points = draws.first(o.seen_rows), batch["keypoints"]
        seen = {name: truth.new_zeros(0) for name in self.seen_by}
        if len(rows) and seen:
            laid = laid_on(truth, batch["masks"], place, colours, logits)[rows]
            seen = {
                name: perceived(name, network, laid, truth[rows], points[rows], 1 + weight[rows])
                for name, network in self.seen_by.items()
            }
        means |= {name: draws.mean_of_first(each, o.seen_rows) for name, each in seen.items()}
        found = torch.stack([getattr(o.weights, name) * mean for name, mean in means.items()]).sum()
        return {"loss": found, **{name: mean.detach() for name, mean in means.items()}}

    def drawn(self, batch: dict[str, Tensor], prompt: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """What the network draws for prompt [B], an index of `PROMPTS`; and float [B, 2, H, W], where the
        garments lie which it names."""
        row = torch.arange(len(prompt), device=prompt.device)
        found = self.net(appearance_of(batch), skeleton_of(batch), batch["words"][row, prompt])
        parts = torch.tensor(PARTS_DRAWN, device=prompt.device) + 1
        place = batch["masks"][:, None] == parts[:, None, None]
        return found, (place & batch["told"][row, prompt][:, :, None, None]).float()

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held out, by the prompts that name both: `rgb`, the mean RGB distance (0 to 442) inside the
        garments; `overlap`, intersection over union of where they lie; `unasked`, the mean coverage for the
        prompts that name none."""
        both = torch.ones(len(batch["image"]), dtype=torch.long, device=batch["image"].device)
        (colours, logits), place = self.drawn(batch, both)
        inside = place.sum(1) > 0
        apart = 127.5 * (colours.float().clamp(-1, 1) - batch["image"]).square().sum(1).sqrt()
        covered, place = logits > 0, place > 0
        unasked = self.drawn(batch, 0 * both)[0][1].sigmoid()
        return {
            "rgb": float(apart[inside].mean()),
            "overlap": float((covered & place).sum() / (covered | place).sum().clamp_min(1)),
            "unasked": float(unasked.mean()),
        }

    @torch.no_grad()
    def picture(self, batch: dict[str, Tensor]) -> np.ndarray:
        """A grid, uint8 [H, W, 3]; a column a row of the batch, by the prompts that name both: map | what is
        laid into it | truth."""
        both = torch.ones(len(batch["image"]), dtype=torch.long, device=batch["image"].device)
        (colours, logits), _ = self.drawn(batch, both)
        cover = logits.sigmoid().sum(1, keepdim=True).clamp(max=1)
        shown = (batch["rgb"], (cover * colours).float().clamp(-1, 1), batch["image"])
        grid = torch.cat([torch.cat(list(each), -1) for each in shown], -2)
        return ((grid + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    def complete(self, folder: Path) -> None:
        """Make the export a whole pipeline: the one whose words were read, with this network."""
        from bolid.training.objectives.export import pipeline_with

        pipeline_with(folder, self.options.pipeline)


def laid_on(truth: Tensor, masks: Tensor, place: Tensor, colours: Tensor, logits: Tensor) -> Tensor:
    """The truth's pictures [B, 3, H, W] with the drawn garments in the place of their own: what these leave
    bare has the mean colour of the background, so that their outline tells nothing.

    masks: [B, H, W]; place: [B, 2, H, W]; colours, logits: of GarmentNet.
    """
    behind = (masks == 0)[:, None].float()
    mean = (truth * behind).sum((2, 3), keepdim=True) / behind.sum((2, 3), keepdim=True).clamp_min(1)
    bare = torch.where(place.sum(1, keepdim=True) > 0, mean, truth)
    named = (place.amax((2, 3), keepdim=True) > 0).float()
    cover = (logits.float().sigmoid() * named).sum(1, keepdim=True).clamp(max=1)
    free = torch.isin(masks, masks.new_tensor([0, *(part + 1 for part in PARTS_DRAWN)]))[:, None]
    return bare + cover * free * (colours - bare)  # heads and shoes lie over them


def garment_rows(columns: Mapping[str, Any], base: FrozenBase, seed: int) -> dict[str, np.ndarray]:
    """Columns of `COLUMNS` -> what the stage learns from; what a row lacks is drawn by `seed`.

    Returns: image, rgb (the appearance map's, faded), skeleton uint8 [N, H, W, 3]; coverage (the map's, 0 to
    255) uint8 [N, H, W, 1]; masks uint8 [N, H, W]; keypoints [N, 18, 3]; words float16
    [N, 3, L, C], the states of `PROMPTS`; told bool [N, 3, 2], which of `DRAWN` each names.
    """
    rng = np.random.default_rng([seed, 0x6A12])
    size = columns["masks"].shape[1:]
    prompts, told = zip(*(_prompts(columns, row, rng) for row in range(len(columns["labels"]))), strict=True)
    strength = np.stack([_strengths(rng) for _ in prompts])
    points = known(columns["keypoints"])
    rgb, coverage = [], []
    for start in range(0, len(points), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        maps = appearance_map(
            pixels_of(columns["reference"][part]),
            *(
                torch.from_numpy(each[part])
                for each in (
                    columns["reference_masks"], known(columns["reference_keypoints"]), points, strength
                )
            ),
        )  # fmt: skip
        rgb.append(((maps[:, :3] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        coverage.append((maps[:, 3:] * 255).round().byte().permute(0, 2, 3, 1).numpy())
    states = states_of([text for row in prompts for text in row], base)
    return {
        **{name: columns[name] for name in ("image", "masks", "keypoints")},
        "rgb": np.concatenate(rgb),
        "coverage": np.concatenate(coverage),
        "skeleton": skeleton_map(points, *size),
        "words": states.reshape(len(prompts), PROMPTS, *states.shape[1:]),
        "told": np.array(told),
    }


def _prompts(columns: Mapping[str, Any], row: int, rng: np.random.Generator) -> tuple[list[str], list[Any]]:
    """The `PROMPTS` of a row, and which of `DRAWN` each names."""
    labels = dict(zip(ATTRIBUTES, columns["labels"][row], strict=True))
    worn = {name: ATTRIBUTES[name][labels[name]] for name in CLOTHES}
    plain, caption = columns["caption_without_identity"][row], columns["caption"][row]
    prompts, chance = [plain, with_clothes(plain, worn)], rng.random()
    if chance < 0.5:
        prompts.append(caption)
    else:
        top = chance < 0.75
        prompts.append(with_clothes(plain, worn, top, not top))
    return prompts, [[bool(named.search(text)) for named in NAMES] for text in prompts]


def _strengths(rng: np.random.Generator) -> np.ndarray:
    """Part strengths float32 [4] of a row's map: mostly one of `DRAWN` or both absent, or faded, or all."""
    strength, kind = np.ones(len(PARTS), np.float32), rng.random()
    if kind < 0.5:
        strength[list(PARTS_DRAWN)] = 0
    elif kind < 0.8:
        strength[PARTS_DRAWN[int(kind < 0.65)]] = 0
    elif kind < 0.9:
        strength[:] = 0
    else:
        strength[list(PARTS_DRAWN)] = rng.random(len(DRAWN))
    return strength
