"""The stage `layout`: a LayoutNet learns which poses the words of a prompt mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bolid.avatars.caption import POSE_WORDS, VIEW_WORDS
from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS
from bolid.layout import LayoutNet
from bolid.pose import known, skeleton_map
from bolid.training.bases import FrozenBase
from bolid.training.draws import Draws

CAPTIONS = ("caption", "caption_without_identity")
COLUMNS = (*CAPTIONS, "keypoints", "pose_family", "view")
KINDS: dict[str, list[Sequence[str]]] = {
    "pose_family": [POSE_WORDS[family] for family in POSE_FAMILIES],
    "view": [VIEW_WORDS[view] for view in VIEWS],
}
"""What of a pose a caption may tell -> for each value, in the order of the column, its words."""
MAP_HEIGHT, MAP_WIDTH = 192, 128  # pixels of a skeleton in the grid


@dataclass(frozen=True)
class LayoutOptions:
    """Options of the stage `layout`."""

    pipeline: str = "models/bolid-mini"  # folder or Hub id: its text encoder is read, and it gets the network
    width: int = 64  # see LayoutNet
    layers: int = 3
    heads: int = 4
    empty_share: float = 0.1  # of rows that get no words
    seen_weight: float = 1.0  # of the loss on what is seen, against that on places


class LayoutObjective(nn.Module):
    """Flow matching: the velocity from key-points to noise, at a random time between them.

    Args:
        empty: states [L, C] of the prompt without words.
        known_poses: the training rows' key-points [N, 18, 3] with their pose_family and view [N], against
            which samples are judged.
    """

    def __init__(self, options: LayoutOptions, empty: Tensor, known_poses: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.options = options
        length, width = empty.shape
        self.net = LayoutNet(width, length, options.width, options.layers, options.heads)
        self.net.empty.copy_(empty)
        self.models: dict[str, Any] = {"layout": self.net}
        self._poses = torch.from_numpy(known(known_poses["keypoints"]))
        self._kinds = {name: torch.from_numpy(known_poses[name]) for name in KINDS}

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of `layout_rows`. Returns scalars, means over the global batch."""
        told = draws.integers("caption", len(CAPTIONS)).to(batch["words"].device)
        context = batch["words"][torch.arange(len(told), device=told.device), told]
        silent = draws.uniform("empty") < self.options.empty_share
        context = torch.where(silent[:, None, None], self.net.empty, context)
        squares = self.squares(batch, context, draws.uniform("time"), draws.normal("noise", 18, 3))
        places = draws.mean(squares[..., :2], placed(batch)[..., None])
        seen = draws.mean(squares[..., 2])
        found = places + self.options.seen_weight * seen
        return {"loss": found, "places": places.detach(), "seen": seen.detach()}

    def squares(self, batch: dict[str, Tensor], context: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Squared errors [B, 18, 3] of the velocity at `time` [B]."""
        points = self.net.normalised(batch["keypoints"])
        share = time[:, None, None]
        velocity = self.net((1 - share) * points + share * noise, time, context)
        return (velocity - (noise - points)).square()

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held out, by the captions without identity: `flow`, the loss on places; `pose_family` and `view`,
        the share of sampled poses whose nearest training pose has what the caption tells, among rows whose
        caption tells it; the same with `_truth` of the rows' own poses, which is the most to be had; and
        `hidden`, the mean number of hidden joints, with the truth's beside it.
        """
        context, points = batch["words"][:, 1], batch["keypoints"]
        times = (torch.arange(len(points), device=points.device) + 0.5) / len(points)
        squares = self.squares(batch, context, times, _noise(points, 0))
        weight = placed(batch)[..., None].expand_as(squares[..., :2])
        figures = {"flow": float((weight * squares[..., :2]).sum() / weight.sum())}
        drawn = self.net.sample(context, _noise(points, 1))
        for name, poses in (("", drawn), ("_truth", points)):
            nearest = self.nearest(poses)
            for kind, values in self._kinds.items():
                right = values[nearest].to(points.device) == batch[kind]
                told = batch[f"{kind}_told"]
                figures[kind + name] = float((right & told).sum() / told.sum().clamp_min(1))
            figures[f"hidden{name}"] = float((poses[..., 2] < 1).sum(1).float().mean())
        return figures

    def nearest(self, poses: Tensor) -> Tensor:
        """For poses [B, 18, 3] the numbers [B] of the most alike training poses, on the CPU: places of the
        joints that both know, and which are seen."""
        found = []
        bank = self.net.normalised(self._poses)
        bank_placed = self._poses[..., 2] > 0
        points = torch.from_numpy(known(poses.cpu().numpy()))
        for one, sure in zip(self.net.normalised(points), points[..., 2] > 0, strict=True):
            both = (bank_placed & sure).float()
            apart = (bank[..., :2] - one[:, :2]).square().sum(-1)
            unlike = (bank[..., 2] - one[:, 2]).square().mean(-1)
            found.append(int(((apart * both).sum(1) / both.sum(1).clamp_min(1) + unlike).argmin()))
        return torch.tensor(found)

    @torch.no_grad()
    def picture(self, batch: dict[str, Tensor]) -> np.ndarray:
        """A grid of skeleton maps, uint8 [H, W, 3]; a column a row of the batch: two samples from its caption
        without identity | truth."""
        context, points = batch["words"][:, 1], batch["keypoints"]
        samples = [self.net.sample(context, _noise(points, seed)) for seed in (1, 2)]
        shown = [known(poses.cpu().numpy()) for poses in (*samples, points)]
        return np.concatenate([np.concatenate(list(skeleton_map(each, MAP_HEIGHT, MAP_WIDTH)), 1)
                               for each in shown])  # fmt: skip

    def complete(self, folder: Path) -> None:
        """Make the export a whole pipeline: the one whose words were read, with this network."""
        from bolid.training.objectives.export import pipeline_with

        pipeline_with(folder, self.options.pipeline)


def _noise(like: Tensor, seed: int) -> Tensor:
    """Noise of the shape of held-out key-points, the same at every evaluation."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def placed(batch: dict[str, Tensor]) -> Tensor:
    """float [B, 18]: 1 where a joint's place is to be learnt, 0 where it is unknown."""
    return (batch["keypoints"][..., 2] > 0).float()


def layout_rows(columns: Mapping[str, Any], base: FrozenBase) -> dict[str, np.ndarray]:
    """Columns of `COLUMNS` -> what the stage learns from.

    Returns: words float16 [N, 2, L, C], the states of the two `CAPTIONS`; keypoints [N, 18, 3] as of
    `bolid.pose.known`; pose_family and view int64 [N], and with `_told` bool [N] whether the caption without
    identity tells it.
    """
    texts = columns["caption_without_identity"]
    told = {
        f"{kind}_told": np.array(
            [any(word in text for word in words[value])
             for text, value in zip(texts, columns[kind], strict=True)]
        )
        for kind, words in KINDS.items()
    }  # fmt: skip
    words = np.stack([states_of(columns[name], base) for name in CAPTIONS], 1)
    kept = {kind: columns[kind] for kind in KINDS}
    return {"words": words, "keypoints": known(columns["keypoints"]), **kept, **told}


def states_of(texts: Sequence[str], base: FrozenBase, at_once: int = 256) -> np.ndarray:
    """The states that the UNet gets of texts, float16 [N, L, C]."""
    coded = []
    for start in range(0, len(texts), at_once):
        ids = torch.from_numpy(base.token_ids(list(texts[start : start + at_once])))
        coded.append(base.encode_text(ids.to(base.device)).states.half().cpu().numpy())
    return np.concatenate(coded)
