"""Few-step generation inside training: from pure noise to latents with the conditions a batch already has."""

from typing import Any

import torch
from diffusers.schedulers import DDIMScheduler
from torch import Tensor


def roll_out(
    unet: Any,
    scheduler: DDIMScheduler,
    noise: Tensor,
    text: Tensor,
    conditions: Any,
    steps: int = 4,
    guidance: tuple[float, Tensor, Any] | None = None,
) -> Tensor:
    """Latents x0 [B, C, h, w] after `steps` deterministic DDIM steps from `noise` [B, C, h, w].

    text [B, T, D] and `conditions` (bolid.attention.Conditions) are those of the positive half; `guidance` is
    (scale, negative text, negative conditions) or None for none. The scheduler's config decides prediction
    type and
    spacing; a fresh one is made of it, so nothing shared is changed.
    """
    schedule: Any = DDIMScheduler.from_config(scheduler.config)
    schedule.set_timesteps(steps, device=noise.device)
    latents = noise
    for t in schedule.timesteps:
        prediction = unet(latents, t, text, cross_attention_kwargs={"ip_hidden_states": conditions}).sample
        if guidance is not None:
            scale, negative_text, negative_conditions = guidance
            away = unet(
                latents, t, negative_text, cross_attention_kwargs={"ip_hidden_states": negative_conditions}
            ).sample
            prediction = away + scale * (prediction - away)
        latents = schedule.step(prediction.float(), t, latents).prev_sample
    assert torch.is_tensor(latents)
    return latents
