"""How the evaluator of attributes is trained: on avatars, many of them spoilt as a generator would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bolid.attribute_evaluator import AttributeEvaluator
from bolid.training.draws import Draws
from bolid.training.objectives.evaluators import (
    DegradeOptions,
    attribute_figures,
    attribute_loss,
    both_views,
    shaken,
)


@dataclass(frozen=True)
class AttributeEvaluatorOptions:
    """Options of `AttributeEvaluatorObjective`."""

    combinations: float = (
        0.05  # share of training rows with a combination that generators never see: the world's
    )
    jitter: float = 0.012  # deviation of the key-points shown, as a share of the picture's sides
    hidden_jitter: float = 0.03  # the same for joints that cannot be seen
    degrade: DegradeOptions = field(default_factory=lambda: DegradeOptions(share=0.4))


class AttributeEvaluatorObjective(nn.Module):
    """Trains an `AttributeEvaluator` to name the attributes that a picture shows."""

    def __init__(
        self, options: AttributeEvaluatorOptions | None = None, evaluator: AttributeEvaluator | None = None
    ) -> None:
        super().__init__()
        self.options = options or AttributeEvaluatorOptions()
        self.evaluator = evaluator or _default_evaluator()
        self.models = {"attributes": self.evaluator}

    def forward(self, batch: Mapping[str, Tensor], _draws: Draws | None = None) -> dict[str, Tensor]:
        """Batch with `evaluators.COLUMNS` as tensors -> {"loss": cross-entropy, mean over attributes}."""
        options = self.options
        rows = both_views(batch, options.degrade)
        keypoints = shaken(rows["keypoints"], options.jitter, options.hidden_jitter)
        logits = self.evaluator(rows["image"], keypoints)
        return {"loss": attribute_loss(self.evaluator.split(logits.float()), rows)}

    @torch.no_grad()
    def evaluate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Share of visible attributes that are right, with true key-points, of pictures as they are and
        degraded; `attribute/NAME` figures are of the pictures as they are."""
        figures: dict[str, float] = {}
        for suffix, options in (("", None), ("_degraded", self.options.degrade)):
            rows = both_views(batch, options)
            logits = self.evaluator.split(self.evaluator(rows["image"], rows["keypoints"]))
            figures |= attribute_figures(logits, rows, suffix, () if suffix else self.evaluator.names)
        return figures


def _default_evaluator() -> AttributeEvaluator:
    """One for the avatar world's attributes."""
    from bolid.avatars.identity import ATTRIBUTES

    return AttributeEvaluator(tuple(ATTRIBUTES), tuple(map(len, ATTRIBUTES.values())))
