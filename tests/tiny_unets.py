"""Real UNets and pipelines at tiny size, with random weights, for several tests."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bolid.attention import Conditions

CROSS = 24  # text width
COMMON: dict[str, Any] = {"layers_per_block": 1, "cross_attention_dim": CROSS, "norm_num_groups": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
    },
    "sdxl": {
        "block_out_channels": (8, 16, 24),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (1, 2, 3),
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + CROSS,
    },
    "mini": {
        "block_out_channels": (64, 64, 128),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
        "only_cross_attention": (True, False, False),
        "attention_head_dim": (2, 2, 4),
        "cross_attention_dim": 64,
        "addition_embed_type": "text",
        "norm_num_groups": 32,
    },
}


def make_unet(family: str) -> tuple[UNet2DConditionModel, Callable[..., Tensor]]:
    """A UNet of that family, and a function that runs it on two fixed rows of 12 × 8 latents."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=(12, 8), in_channels=4, out_channels=4, **(COMMON | FAMILIES[family])
    )
    noise, text = torch.randn(2, 4, 12, 8), torch.randn(2, 7, unet.config.cross_attention_dim)
    added = {"text_embeds": torch.randn(2, CROSS), "time_ids": torch.rand(2, 6)} if family == "sdxl" else None

    def call(unet: UNet2DConditionModel, conditions: Conditions | None = None, **options: Any) -> Tensor:
        if conditions is not None:
            options["cross_attention_kwargs"] = conditions.kwargs()
        rows = options.pop("rows", slice(None))
        extra = None if added is None else {name: value[rows] for name, value in added.items()}
        return unet(noise[rows], 7, text[rows], added_cond_kwargs=extra, **options).sample

    return unet.eval(), call


def make_pipeline(family: str) -> StableDiffusionPipeline:
    """A stock Stable Diffusion pipeline around a tiny UNet."""
    unet, _ = make_unet(family)
    letters = [chr(code) for code in range(97, 123)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 16
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=unet.config.cross_attention_dim,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            eos_token_id=len(words) - 1,
            bos_token_id=len(words) - 2,
            pad_token_id=len(words) - 1,
        )
    )
    vae = AutoencoderTiny(
        encoder_block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
