"""The stage `detail`: a DetailNet learns to correct what a trained pipeline draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bolid.detail import DetailNet, changeable
from bolid.losses import picture_loss
from bolid.training.draws import Draws
from bolid.training.objectives.critic import PictureCritic
from bolid.training.objectives.diffusion import PERCEIVERS, perceived
from bolid.training.objectives.loss_networks import Kind, load_loss_networks


@dataclass(frozen=True)
class DetailWeights:
    """The λ of each loss; 0 leaves it out and loads nothing for it."""

    picture: float = 1.0  # colours and edges
    perceptual: float = 0.0  # features in a network that knows appearances
    details: float = 0.0  # the same in one that names attributes
    answers: float = 0.0  # what that network names
    adversarial: float = 0.0  # against a critic that learns beside it


@dataclass(frozen=True)
class DetailOptions:
    """Options of the stage `detail`."""

    pipeline: str = "models/bolid-mini"  # folder or Hub id of what draws the pictures
    channels: tuple[int, ...] = (48, 96, 128)  # see DetailNet
    blocks: tuple[int, ...] = (2, 2, 2)
    words: bool = True  # whether it reads the prompt
    share: float = 0.35  # of the map in what it makes
    start_as: str | None = None  # folder of a pipeline whose smaller DetailNet it starts as
    weights: DetailWeights = field(default_factory=DetailWeights)
    loss_networks: str | None = None  # a folder of them: see loss_networks.py
    seen_rows: int = 6  # of the global batch: which loss networks and critic look at
    critic: str | None = None  # folder of a trained one, for weights.adversarial; None: a new one
    person_weight: float = 3.0  # weight of person pixels against background ones
    head_weight: float = 5.0  # the same for the head
    feet_weight: float = 5.0  # the same for the feet


class DetailObjective(nn.Module):
    """Colours, edges and features of the corrected picture against the truth's, near map and skeleton.

    Args:
        options: of the stage.
        words_dim: width of the rows' `words`.

    Raises:
        ValueError: a loss has a weight and its network is missing, a critic is named and has no weight, or
            the DetailNet to start as is missing or no smaller one.
    """

    def __init__(self, options: DetailOptions, words_dim: int) -> None:
        super().__init__()
        self.options = options
        words = words_dim if options.words else None
        self.net = DetailNet(options.channels, options.blocks, words, share=options.share)
        if options.start_as is not None:
            place = Path(options.start_as) / "detail"
            if not (place / "config.json").is_file():
                raise ValueError(f"objective.start_as={options.start_as!r} holds no detail/: an export does.")
            self.net.start_as(DetailNet.from_pretrained(place, torch_dtype=torch.float32))
        self.models: dict[str, Any] = {"detail": self.net}
        wanted: dict[str, Kind] = {
            name: kind for name, kind in PERCEIVERS.items() if getattr(options.weights, name)
        }
        networks = load_loss_networks(options.loss_networks, wanted.values())
        if options.critic is not None and not options.weights.adversarial:
            raise ValueError(
                "objective.critic is given, but objective.weights.adversarial is 0: give it a weight."
            )
        self.critic = None
        if options.weights.adversarial:
            known = options.critic
            self.critic = PictureCritic() if known is None else PictureCritic.open(known)
        self.companions = {} if self.critic is None else {"critic": self.critic}
        self.seen_by = nn.ModuleDict({name: networks[kind] for name, kind in wanted.items()})

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of `drawn_rows.DrawnRows`. Returns scalars, means over the global batch."""
        o, truth = self.options, batch["image"]
        weight, picture = self.pixel_weight(batch), self.corrected(batch).float()
        means = {"picture": draws.mean(picture_loss(picture, truth, weight))}
        rows, points = draws.first(o.seen_rows), batch["keypoints"]
        for name, network in self.seen_by.items():
            seen = picture.new_zeros(0)
            if len(rows):
                seen = perceived(name, network, picture[rows], truth[rows], points[rows], weight[rows])
            means[name] = draws.mean_of_first(seen, o.seen_rows)
        found = torch.stack([getattr(o.weights, name) * mean for name, mean in means.items()]).sum()
        if self.critic is not None:
            told = self.judged(self.critic, picture, batch, draws)
            found = found + told["critic"] + o.weights.adversarial * told["adversarial"]
            means |= told
        return {"loss": found, **{name: mean.detach() for name, mean in means.items()}}

    def judged(
        self,
        critic: PictureCritic,
        picture: Tensor,
        batch: dict[str, Tensor],
        draws: Draws,
    ) -> dict[str, Tensor]:
        """The critic's and the adversarial loss of the first rows: the same ground in both pictures, for what
        is far from the person is not to be mended."""
        rows, appearance = draws.first(self.options.seen_rows), appearance_of(batch)
        drawn = batch["drawn"]
        truth = drawn + changeable(appearance, skeleton_of(batch)) * (batch["image"] - drawn)
        noise = draws.normal("critic", *drawn.shape[1:])
        found = {name: drawn.new_zeros(0) for name in ("critic", "adversarial")}
        if len(rows):
            found = critic.losses(picture[rows], truth[rows], appearance[rows], noise[rows])
        return {
            name: draws.mean_of_first(value.float(), self.options.seen_rows) for name, value in found.items()
        }

    def corrected(self, batch: dict[str, Tensor]) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] as DetailNet corrects the drawn ones."""
        words = batch["words"] if self.options.words else None
        return self.net(batch["drawn"], appearance_of(batch), skeleton_of(batch), words)

    def pixel_weight(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, 1, H, W] of mean 1 per row; 0 where nothing may change."""
        o, parts = self.options, batch["masks"][:, None].long()
        table = torch.tensor([1.0, o.head_weight, o.person_weight, o.person_weight, o.feet_weight])
        weight = table.to(batch["image"])[parts] * changeable(appearance_of(batch), skeleton_of(batch))
        return weight / weight.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held out: `picture_loss`, of the corrected and of the drawn pictures, and the mean RGB distance (0
        to 442) on the person."""
        weight, truth = self.pixel_weight(batch), batch["image"]
        figures = {}
        for name, picture in (("", self.corrected(batch).float().clamp(-1, 1)), ("_drawn", batch["drawn"])):
            figures[f"picture{name}"] = float(picture_loss(picture, truth, weight).mean())
            apart = 127.5 * (picture - truth).square().sum(1).sqrt()
            figures[f"rgb_person{name}"] = float(apart[batch["masks"] > 0].mean())
        return figures

    @torch.no_grad()
    def picture(self, batch: dict[str, Tensor]) -> np.ndarray:
        """A grid, uint8 [H, W, 3]; a column a row of the batch: map | drawn | corrected | truth."""
        shown = (batch["rgb"], batch["drawn"], self.corrected(batch).float().clamp(-1, 1), batch["image"])
        grid = torch.cat([torch.cat(list(each), -1) for each in shown], -2)
        return ((grid + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    def complete(self, folder: Path) -> None:
        """Make the export a whole pipeline: the one that drew, with this network."""
        from bolid.training.objectives.export import pipeline_with

        pipeline_with(folder, self.options.pipeline)


def appearance_of(batch: dict[str, Tensor]) -> Tensor:
    """The faded appearance map [B, 4, H, W] of the columns rgb and coverage, as `DrawnRows` has them."""
    coverage = batch["coverage"].permute(0, 3, 1, 2).to(batch["rgb"]) / 255
    return torch.cat([batch["rgb"] * (coverage > 0), coverage], 1)


def skeleton_of(batch: dict[str, Tensor]) -> Tensor:
    """The skeleton map [B, 3, H, W] in [0, 1] of the column skeleton, as `DrawnRows` has it."""
    return (batch["skeleton"] + 1) / 2
