"""What the tests of official checkpoints share: opened baselines and their tokens."""

from __future__ import annotations

from typing import Any

import torch
from official_files import LAYOUTS, checkpoint, tiny_features, tiny_unet, zero_pixels
from torch import Tensor

from bolid.attention import Conditions
from bolid.baselines import METHODS, Baseline, Features, build_baseline, split_checkpoint


def opened(layout: str, unet: Any = None) -> Baseline:
    method, family = LAYOUTS[layout]
    parts = split_checkpoint(checkpoint(layout), file_name=f"{layout}.bin")
    assert parts.method.name == method
    return build_baseline(parts, tiny_unet(family) if unet is None else unet)


def features(layout: str) -> Features:
    """Only what the method needs, so that nothing else can be used."""
    given = tiny_features(layout)
    return Features(**{name: given[name] for name in METHODS[LAYOUTS[layout][0]].features})


def tokens_of(baseline: Baseline, layout: str) -> tuple[Tensor, Tensor]:
    """Positive and negative tokens."""
    with torch.no_grad():
        negative = baseline.negative(features(layout), zero_pixels())
        return baseline.tokens(features(layout)), negative


def mixed(baseline: Baseline, layout: str, **options: Any) -> Conditions:
    """Row 0 the negative half of the first person, row 1 the second person: as recorded."""
    positive, negative = tokens_of(baseline, layout)
    with torch.no_grad():
        halves = [baseline.conditions(rows, 0.7, **options) for rows in (negative[:1], positive[1:])]
    return Conditions.cat(*halves)
