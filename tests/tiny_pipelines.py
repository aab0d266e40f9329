"""Whole BoLID pipelines of real classes at tiny size with random weights, and a drawn person to refer to."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from bolid.adapter import BoLIDAdapter
from bolid.autoencoder import AvatarAutoencoder
from bolid.detail import DetailNet
from bolid.estimator import PersonEstimator
from bolid.garments import GarmentNet
from bolid.layout import LayoutNet
from bolid.pipeline import BoLIDPipeline
from bolid.pipeline_xl import BoLIDXLPipeline
from bolid.pose import LIMBS, Pose
from bolid.reference import Reference

HEIGHT, WIDTH = 96, 64
TEXT = 32  # text width
COLOURS = {1: (200, 150, 120), 2: (200, 40, 40), 3: (40, 60, 200), 4: (30, 30, 30)}


def make_mini(seed: int = 0) -> BoLIDPipeline:
    """A pipeline shaped like bolid-mini for pictures of 96 x 64."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=(HEIGHT // 8, WIDTH // 8),
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=(2, 2),
        cross_attention_dim=TEXT,
        norm_num_groups=8,
        only_cross_attention=(True, False),
    )
    scheduler = DDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        steps_offset=1,
    )
    vae = AvatarAutoencoder(
        latent_channels=4,
        block_out_channels=(12, 24, 24, 24),
        encoder_layers=(1, 1, 1),
        decoder_layers=(1, 1, 1),
    )
    components = own_components(unet)
    pipe = BoLIDPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=make_tokenizer(),
        unet=unet.eval(),
        scheduler=scheduler,
        default_steps=2,
        default_guidance_scale=2.0,
        **components,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_sd15(seed: int = 0) -> BoLIDPipeline:
    """A pipeline of Stable Diffusion 1.5's shape: noise is predicted, the autoencoder is a KL one."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=TEXT,
        norm_num_groups=8,
    )
    pipe = BoLIDPipeline(
        vae=make_vae(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        tokenizer=make_tokenizer(),
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        default_steps=2,
        default_guidance_scale=2.0,
        **own_components(unet),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def make_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet for a UNet that acts (its last layers do not start from zero)."""
    torch.manual_seed(5)
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    for layer in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.1)
    torch.nn.init.normal_(controlnet.controlnet_cond_embedding.conv_out.weight, std=0.1)
    return controlnet.eval()


def make_xl(seed: int = 0) -> BoLIDXLPipeline:
    """The same on a UNet and text encoders of SDXL's shape."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT,
        cross_attention_dim=2 * TEXT,
        norm_num_groups=8,
    )
    pipe = BoLIDXLPipeline(
        vae=make_vae(),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()).eval(),
        tokenizer=make_tokenizer(),
        tokenizer_2=make_tokenizer(),
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        add_watermarker=False,
        default_steps=2,
        default_guidance_scale=2.0,
        **own_components(unet),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


MAKERS = {"mini": make_mini, "sd15": make_sd15, "xl": make_xl}


def own_components(unet: UNet2DConditionModel, token_dim: int | None = None) -> dict[str, Any]:
    """An adapter whose layers all act (its body projections do not start from zero), vision encoder,
    estimator. token_dim: width of its tokens; None: the text's.
    """
    adapter = BoLIDAdapter.for_unet(
        unet,
        token_dim=token_dim or unet.config.cross_attention_dim,
        vision_dim=16,
        tokens_per_part=(2, 2, 2, 1),
        image_token_count=2,
        resampler_width=16,
        resampler_heads=2,
        body_channels=(8,) * len(unet.config.block_out_channels),
    )
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.body.weight, std=0.2)
    vision = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        )
    )
    estimator = PersonEstimator(height=HEIGHT, width=WIDTH, channels=(8, 8, 16), layers=1, heads=2)
    return {"adapter": adapter.eval(), "image_encoder": vision.eval(), "estimator": estimator.eval()}


def make_detail(words: int | None = None) -> DetailNet:
    """A DetailNet that acts: nothing of it starts from zero. words: the width of the embeddings it reads."""
    torch.manual_seed(0)
    net = DetailNet((8, 8), (1, 1), words, heads=2, share=0.2)
    torch.nn.init.normal_(net.leave.weight, std=0.1)
    for read in (stage.read for stage in net.down if stage.read is not None):
        torch.nn.init.normal_(read.to_out[0].weight)
    return net.eval()


def make_layout(pipe: Any) -> LayoutNet:
    """A LayoutNet for the words of a pipeline; its poses are as random as its weights."""
    torch.manual_seed(0)
    return LayoutNet(pipe.unet.config.cross_attention_dim, 16, width=16, layers=1, heads=2).eval()


def without(pipe: Any, name: str) -> Any:
    """The same pipeline, quiet, but for one of its components."""
    plain = type(pipe)(**{**pipe.components, name: None}, default_steps=2, default_guidance_scale=2.0)
    plain.set_progress_bar_config(disable=True)
    return plain


def make_garments(pipe: Any) -> GarmentNet:
    """A GarmentNet for the words of a pipeline; what it draws is as random as its weights."""
    torch.manual_seed(0)
    net = GarmentNet(pipe.unet.config.cross_attention_dim, channels=(6, 8), kernel=3, heads=2)
    torch.nn.init.normal_(net.leave.weight, std=1.0)
    return net.eval()


def make_tokenizer() -> CLIPTokenizer:
    """Letters as tokens; made without a download."""
    letters = [chr(code) for code in range(97, 123)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    tokenizer.model_max_length = 16
    return tokenizer


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=TEXT,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=TEXT,
        eos_token_id=53,
        bos_token_id=52,
        pad_token_id=53,
    )


def make_reference(
    pose: str = "standing", height: int = HEIGHT, width: int = WIDTH, colours: dict[int, Any] | None = None
) -> Reference:
    """A stick person of the four parts' colours on a green ground, with exact key-points and parts."""
    points = Pose.named(pose).keypoints
    places = (points[:, :2] * (width, height)).round().astype(int)
    parts = np.zeros((height, width), np.uint8)
    for a, b in LIMBS:
        label = 3 if max(a, b) in range(8, 14) else 1 if max(a, b) >= 14 or 0 in (a, b) else 2
        cv2.line(parts, places[a].tolist(), places[b].tolist(), label, max(4, width // 12))
    cv2.circle(parts, places[0].tolist(), max(4, width // 12), 1, -1)
    for ankle in (10, 13):
        cv2.circle(parts, places[ankle].tolist(), max(3, width // 16), 4, -1)
    image = np.full((height, width, 3), (90, 160, 90), np.uint8)
    for label, colour in (COLOURS | (colours or {})).items():
        image[parts == label] = colour
    return Reference(image, points, parts)
