"""SD 1.5 and SDXL at their full size with random weights: enough to measure time and memory."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from bolid.training.bases import FrozenBase
from bolid.training.config import load_config
from bolid.training.objectives.diffusion import AdapterOptions

UNETS: dict[str, dict[str, Any]] = {  # the public configs, as far as they differ from the class's defaults
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
SCALING = {"sd15": 0.18215, "sdxl": 0.13025}  # of the VAE's latents
TEXT_WIDTHS = {"sd15": (768,), "sdxl": (768, 1280)}  # of the text encoders


def random_base(name: str, side: int | None = None, dtype: torch.dtype = torch.bfloat16) -> FrozenBase:
    """A base whose UNet and VAE have the public sizes, with uniform weights within ±0.02.

    Text encoders and vision encoder have the public widths and one layer: a training step with cached
    features has no use for more.

    Args:
        name: "sd15" or "sdxl".
        side: pixels a side of the pictures (None: 512, for SDXL 1024).
    """
    config: dict[str, Any] = UNETS[name] | ({} if side is None else {"sample_size": side // 8})
    vae: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "scaling_factor": SCALING[name],
        "sample_size": 8 * config["sample_size"],
    }
    with torch.device("meta"):
        models: dict[str, Any] = {
            "unet": UNet2DConditionModel(**config),
            "vae": AutoencoderKL(**vae),
            "image_encoder": CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=1280, intermediate_size=5120, num_attention_heads=16, patch_size=14,
                    num_hidden_layers=1,
                )
            ),
        }  # fmt: skip
    tokenizer = small_tokenizer(77)
    components: dict[str, Any] = {key: filled(model, dtype) for key, model in models.items()}
    for place, width in enumerate(TEXT_WIDTHS[name]):
        ending = f"_{place + 1}" if place else ""
        kind: Any = CLIPTextModelWithProjection if place else CLIPTextModel
        text = CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64,
            num_hidden_layers=1, projection_dim=width, vocab_size=len(tokenizer), bos_token_id=0,
            eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        components |= {f"text_encoder{ending}": kind(text).to(dtype), f"tokenizer{ending}": tokenizer}
    components["scheduler"] = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    return FrozenBase(components, f"{name}, random weights", zero_empty=name == "sdxl")


def adapter_shape(config: str | Path) -> dict[str, Any]:
    """What a training config says of its adapter's shape, by the names of `AdapterOptions`."""
    given, names = load_config(config).objective, {each.name for each in fields(AdapterOptions)}
    return {name: value for name, value in given.items() if name in names}


def small_tokenizer(length: int) -> CLIPTokenizer:
    """A tokenizer of three tokens whose prompts have `length` of them."""
    tokenizer = CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}, merges=[])
    tokenizer.model_max_length = length
    return tokenizer


@torch.no_grad()
def filled(model: nn.Module, dtype: torch.dtype) -> Any:
    """A model of the meta device on the CPU, its weights uniform within ±0.02."""
    positions = {name: value.shape for name, value in model.named_buffers() if value.is_meta}
    model = model.to(dtype).to_empty(device="cpu")
    for weight in model.parameters():
        weight.uniform_(-0.02, 0.02)
    for name, shape in positions.items():  # a vision encoder's places
        model.get_buffer(name).copy_(torch.arange(shape.numel()).view(shape))
    return model
