"""L_rec at the timesteps of few-step sampling, partly from the model's own first guess.

With a pose, a reference and a prompt nearly all of a picture is decided; what few-step sampling needs then is
a good x0 from pure noise, and later steps that mend the model's own x0 rather than trust it. A model that was
trained on noised truth alone has never seen its own mistakes: each further step made its pictures worse
(docs/LOG.md). So those rows are noised from x0 as the model sees it at the first step, without gradient (the
"backward simulation" of DMD2, Yin et al. 2024), and x0 is what their error is measured on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor

from bolid.training.draws import Draws


@dataclass(frozen=True)
class FewStepOptions:
    """Which rows are trained for few-step sampling. Rows without a pose never are: too little fixes them."""

    share: float = 0.0  # of the rows with a pose; 0: all rows see all timesteps
    steps: int = 4  # of the sampling
    first_share: float = 0.6  # among those rows: at the first step, pure noise
    own_share: float = 0.8  # among the later steps': noised from the model's own first x0, not from the truth
    huber: float = 0.2  # errors of x0 above it, in standard deviations of the latents, count linearly

    def __post_init__(self) -> None:
        for name in ("share", "first_share", "own_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"few_step.{name}={getattr(self, name)}: a share between 0 and 1 is needed.")
        if self.steps < 1 or self.huber <= 0:
            raise ValueError(
                f"few_step.steps={self.steps}, huber={self.huber}: at least 1 step, and huber above 0."
            )


@dataclass(frozen=True)
class FewStepRows:
    """few: bool [B], the rows trained so; steps: int64 [B], every row's timestep; own: bool [B], those of
    `few` whose latents come from the model's own x0; last: bool [B], those of `few` at the last step."""

    few: Tensor
    steps: Tensor
    own: Tensor
    last: Tensor


def require_zero_snr(scheduler: Any) -> None:
    """Raises ValueError unless the first step sees pure noise and predicts v: x0 = -v there."""
    config = scheduler.config
    if config.prediction_type != "v_prediction" or not config.rescale_betas_zero_snr:
        raise ValueError(
            "objective.few_step.share needs v_prediction and rescale_betas_zero_snr, as the mini base has; "
            "for other bases use stage=distill or objective.lightning.lora."
        )


def few_step_rows(
    options: FewStepOptions, scheduler: Any, steps: Tensor, posed: Tensor, draws: Draws
) -> FewStepRows:
    """Chooses the rows; `steps` int64 [B] are the timesteps of the others, posed: bool [B]."""
    o = options
    sampler: Any = DDIMScheduler.from_config(scheduler.config)
    sampler.set_timesteps(o.steps)
    grid = torch.as_tensor(sampler.timesteps, device=steps.device)  # first step first
    later = 1 + draws.integers("few_step/place", max(o.steps - 1, 1))
    is_first = (draws.uniform("few_step/first") < o.first_share) | (o.steps == 1)
    few = posed & (draws.uniform("few_step/share") < o.share)
    own = few & ~is_first & (draws.uniform("few_step/own") < o.own_share)
    place = torch.where(is_first, torch.zeros_like(later), later)
    return FewStepRows(few, torch.where(few, grid[place], steps), own, few & (place == o.steps - 1))


@torch.no_grad()
def noised(
    scheduler: Any, latents: Tensor, noise: Tensor, rows: FewStepRows, first_x0: Callable[[Tensor], Tensor]
) -> Tensor:
    """x_t [B, C, h, w] of the truth, or in the rows `own` of the model's x0: first_x0(row numbers [k]) ->
    [k, C, h, w], what it sees in pure noise."""
    x0 = latents
    chosen = rows.own.nonzero()[:, 0]
    if len(chosen):
        x0 = latents.index_copy(0, chosen, first_x0(chosen).to(latents.dtype))
        torch.clear_autocast_cache()  # its casts of weights have no gradient: see lightning._run
    return scheduler.add_noise(x0, noise, rows.steps)


def x0_of(prediction: Tensor, noisy: Tensor, alphas: Tensor, kind: str) -> Tensor:
    """x̂0 [B, C, h, w], float32: √ᾱ x_t - √(1-ᾱ) v, or (x_t - √(1-ᾱ) ε) / √ᾱ; alphas: ᾱ_t [B]."""
    alphas, prediction = alphas.view(-1, 1, 1, 1), prediction.float()
    if kind == "epsilon":
        return (noisy - (1 - alphas).sqrt() * prediction) / alphas.sqrt()
    return alphas.sqrt() * noisy - (1 - alphas).sqrt() * prediction


def x0_huber(x0: Tensor, latents: Tensor, pixel_weight: Tensor, huber: float) -> Tensor:
    """Pseudo-Huber error [B] of x̂0: mean over C, h, w of √(e² + c²) - c, near |e|.

    x0, latents: [B, C, h, w]; pixel_weight: broadcastable to that.
    """
    error = ((x0 - latents).square() + huber**2).sqrt() - huber
    return (error * pixel_weight).mean((1, 2, 3))
