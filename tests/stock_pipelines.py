"""Stock diffusers pipelines around the components of ours, and what tests draw with both."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import torch

NEAR = {"rtol": 0, "atol": 2e-5}  # fp32 sums in another order


def draw(pipe: Any, prompt: Any = "a beach", reference: Any = None, **options: Any) -> torch.Tensor:
    """Latents [B, 4, h, w] of a two-step call."""
    options = {"generator": 7, "output_type": "latent", "num_inference_steps": 2} | options
    return pipe(prompt, reference, **options).images


def stock(pipe: Any, kind: str = "") -> Any:
    """The stock pipeline around the same components; kind: "", "Img2Img", "ControlNetInpaint", ..."""
    family = "StableDiffusionXL" if "text_encoder_2" in pipe.components else "StableDiffusion"
    plain = getattr(diffusers, f"{family}{kind}Pipeline")
    wanted = inspect.signature(plain.__init__).parameters
    given = {name: part for name, part in pipe.components.items() if name in wanted}
    if "requires_safety_checker" in wanted:
        given["requires_safety_checker"] = False
    made = plain(**given)
    made.set_progress_bar_config(disable=True)
    return made
