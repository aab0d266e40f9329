"""Stock diffusers pipelines around the components of ours, and what tests draw with both."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from bolid.baselines.export import take_text_alone
from bolid.encoder import crop_person
from bolid.reference import Reference

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


def stock_picture(pipe: Any, person: Reference, file: Path, **options: Any) -> torch.Tensor:
    """What stock diffusers draws of a person with a file and the image_encoder beside it."""
    found = person.resized(*pipe.picture_size)
    image = torch.from_numpy(found.image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    crop, _ = crop_person(
        image, torch.from_numpy(found.parts.copy())[None], pipe.image_encoder.config.image_size
    )
    mean, std = (torch.tensor(each)[:, None, None] for each in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    pixels = ((crop[:, 0] + 1) / 2 - mean) / std  # as CLIPImageProcessor has them, but not rounded to bytes
    return by_stock(pipe, file, "image_encoder", ip_adapter_image=pixels, **options)


def by_stock(pipe: Any, file: Path, encoder: str | None = None, **options: Any) -> torch.Tensor:
    """What stock diffusers draws of `ip_adapter_image` or `ip_adapter_image_embeds` with such a file."""
    pipe.adapter.detach(pipe.unet)
    plain = stock(pipe)
    plain.register_modules(image_encoder=None, feature_extractor=None)  # it finds its own
    plain.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=encoder)
    take_text_alone(plain.unet)  # nothing to do on the public bases
    plain.set_ip_adapter_scale(1.0)
    noise = torch.Generator().manual_seed(7)
    common: dict[str, Any] = {
        "num_inference_steps": 2,
        "output_type": "latent",
        "guidance_scale": 1.0,
        **options,
    }
    return plain("a beach", generator=noise, **common).images
