"""The stage `critic`: a critic learns to tell a trained model's few-step pictures from true ones, alone.

Nothing else learns, so a step needs no gradient of the model, and every row is one to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bolid.lightning import roll_out
from bolid.training.bases import FrozenBase
from bolid.training.draws import Draws
from bolid.training.objectives.conditions import Given, draw_conditions
from bolid.training.objectives.critic import Critic, mean
from bolid.training.objectives.latent import LatentObjective, LatentOptions, read_adapter, training_schedule
from bolid.training.objectives.lightning_losses import few_step_scheduler


@dataclass(frozen=True)
class CriticOptions(LatentOptions):
    """Options of the stage `critic`. `base` is the model that is judged; `adapter` its own unless given."""

    critic: str | None = None  # folder of a trained one to go on from; None: a new one
    steps: int = 2  # of the pictures that are judged, drawn without guidance
    pose_drop: float = 0.0  # a picture without a pose is not drawn in few steps
    grid_guidance: float = 1.0
    grid_steps: int = 2  # of the validation grid

    def __post_init__(self) -> None:
        if self.steps < 1 or self.pose_drop:
            raise ValueError(
                f"objective.steps={self.steps}, pose_drop={self.pose_drop}: at least 1 step, and a pose in "
                "every row (pose_drop=0): the critic is told it."
            )


class CriticObjective(LatentObjective):
    """L_critic of latents that the frozen base and its adapter draw from noise, against the rows' own.

    Raises:
        ValueError: no base is given, it holds no adapter, or the critic was made for another.
    """

    def __init__(self, options: CriticOptions, base: FrozenBase) -> None:
        if options.base is None:
            raise ValueError("objective.base is needed: the folder of a trained pipeline, with its adapter.")
        adapter = read_adapter(options.adapter or options.base, base.require("unet"))
        adapter.requires_grad_(False).attach(base.unet, matmul=not torch.cuda.is_available())
        super().__init__(options, base, base.unet, adapter, training_schedule(base))
        self.options = options
        known = options.critic
        self.critic = Critic.for_adapter(adapter) if known is None else Critic.open(known, adapter)
        self.models = {"critic": self.critic}

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of bolid.training.features.compute_features, as tensors, or raw rows.

        Returns scalars, means over the global batch: "loss", the critic's, and "adversarial", what its
        verdicts would cost the model.
        """
        batch = self.features(batch, draws)
        given = draw_conditions(self.adapter, batch, self.options, draws, self.base.fold)
        latents = batch["latents"].float()
        noise = draws.normal("noise", *latents.shape[1:])
        shake = draws.normal("critic", *latents.shape[1:])
        losses = self.critic.losses(self.drawn(batch, given, noise), latents, given.inputs, shake)
        return {"loss": draws.mean(losses["critic"]), "adversarial": draws.mean(losses["adversarial"])}

    @torch.no_grad()
    def drawn(self, batch: dict[str, Tensor], given: Given, noise: Tensor) -> Tensor:
        """Latents [B, C, h, w], float32, that the model draws from `noise` in `options.steps` steps."""
        text = self.encode(batch, given)
        drawn = roll_out(
            self.unet,
            few_step_scheduler(self.scheduler),
            noise,
            text.states,
            self.adapter.conditions(given.inputs),
            self.options.steps,
            added_cond_kwargs=text.added,
        )
        torch.clear_autocast_cache()  # its casts of weights have no gradient: see lightning._run
        return drawn.float()

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Held out, all conditions given: the share of rows whose truth is thought truer than the model's."""
        batch = self.features(batch)
        given, truth = self.whole(batch), batch["latents"].float()
        own = self.drawn(batch, given, torch.randn_like(truth))
        true, own = (mean(self.critic(x0, given.inputs)) for x0 in (truth, own))
        return {"told": float((true > own).float().mean())}
