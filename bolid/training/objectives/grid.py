"""Validation grids of the diffusion stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bolid.adapter import AdapterInputs
from bolid.lightning import Guidance, roll_out
from bolid.training.bases import TextConditions
from bolid.training.objectives.lightning_losses import few_step_scheduler


@torch.no_grad()
def sample_grid(
    objective: Any,
    batch: dict[str, Tensor],
    inputs: AdapterInputs,
    text: TextConditions,
    empty: TextConditions,
) -> np.ndarray:
    """uint8 [H, W, 3]; a column a row of the batch: map | skeleton | pose given | tokens only | truth.

    objective: has unet, adapter, scheduler, base and options with grid_steps and grid_guidance; text, empty:
    conditions of the prompts and of none. Draws its noise from torch's global generator.
    """
    options, decode = objective.options, objective.base.decode
    noise = torch.randn_like(batch["latents"])
    assert inputs.skeleton is not None
    assert inputs.appearance is not None

    def sample(given: AdapterInputs) -> Tensor:
        negative = objective.adapter.conditions(given.negative())
        guidance = None
        if options.grid_guidance > 1:
            added = {"added_cond_kwargs": empty.added}
            guidance = Guidance(options.grid_guidance, empty.states, negative, added)
        latents = roll_out(
            objective.unet,
            few_step_scheduler(objective.scheduler),
            noise,
            text.states,
            objective.adapter.conditions(given),
            options.grid_steps,
            guidance,
            added_cond_kwargs=text.added,
        )
        return decode(latents)

    bands = [
        decode(inputs.appearance[:, :-1]),
        inputs.skeleton * 2 - 1,
        sample(inputs),
        sample(inputs.without_pose()),
        decode(batch["latents"]),
    ]
    grid = torch.cat([torch.cat(list(band), dim=-1) for band in bands], dim=-2)
    return ((grid.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).cpu().numpy()
