"""How the evaluator of heads is trained: people found again among others, often in other clothes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bolid.head_evaluator import HeadEvaluator
from bolid.metrics import identification
from bolid.training.draws import Draws
from bolid.training.objectives.evaluators import DegradeOptions, both_views, contrast, shaken


@dataclass(frozen=True)
class HeadEvaluatorOptions:
    """Options of `HeadEvaluatorObjective`."""

    other_clothes: float = 0.5  # share of the rows whose reference wears other clothes
    temperature: float = 0.1
    jitter: float = 0.012  # deviation of the key-points shown, as a share of the picture's sides
    hidden_jitter: float = 0.03  # the same for joints that cannot be seen
    degrade: DegradeOptions = field(default_factory=lambda: DegradeOptions(share=0.4))


class HeadEvaluatorObjective(nn.Module):
    """Trains a `HeadEvaluator` to find each person's head of one picture among the batch's of the other."""

    def __init__(
        self, options: HeadEvaluatorOptions | None = None, evaluator: HeadEvaluator | None = None
    ) -> None:
        super().__init__()
        self.options = options or HeadEvaluatorOptions()
        self.evaluator = evaluator or HeadEvaluator()
        self.models = {"head": self.evaluator}

    def forward(self, batch: Mapping[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """Batch with `evaluators.COLUMNS` as tensors -> {"loss": InfoNCE, both ways}."""
        options = self.options
        rows = both_views(batch, options.degrade)
        keypoints = shaken(rows["keypoints"], options.jitter, options.hidden_jitter)
        return {"loss": contrast(self.evaluator(rows["image"], keypoints), options.temperature)}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Identification 1 of 16 (if B >= 16), with true key-points, of pictures as they are and degraded."""
        figures: dict[str, float] = {}
        for suffix, options in (("", None), ("_degraded", self.options.degrade)):
            rows = both_views(batch, options)
            pair = [half.cpu().numpy() for half in self.evaluator(rows["image"], rows["keypoints"]).chunk(2)]
            if len(pair[0]) >= 16:
                figures["identified" + suffix] = float(identification(*pair).mean())
        return figures
