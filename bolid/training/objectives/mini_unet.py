"""The UNet and the noise schedule of bolid-mini, which are trained together with its adapter."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler

PLAIN_DOWN, PLAIN_UP = "DownBlock2D", "UpBlock2D"  # of a level without attention
PLAIN_MID = "UNetMidBlock2D"  # a single residual block


@dataclass(frozen=True)
class UNetOptions:
    """Shape of a new UNet."""

    block_out_channels: tuple[int, ...] = (96, 128, 128)  # of a new UNet, finest level first
    layers_per_block: int = 1  # of a new UNet
    attention_head_counts: tuple[int, ...] = (3, 4, 4)  # heads (not widths) per level
    attention: tuple[bool, ...] = (True,)  # which levels have any, or one value for all
    mid_attention: bool = True  # whether the block in the middle has any


def mini_scheduler() -> DDIMScheduler:
    """v-prediction on a schedule that ends in pure noise: few-step sampling sees in training what it meets
    later."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # stock pipelines insist on it; trailing spacing does not use it
    )


def mini_unet(options: UNetOptions, latent_channels: int, text_dim: int) -> UNet2DConditionModel:
    """The UNet of bolid-mini: cross-attention, and self-attention where it is cheap, not at the finest level.

    `addition_embed_type="text"` adds the attention-pooled prompt to the time embedding; a stock SD 1.5
    pipeline drives it without extra arguments.
    """
    levels = len(options.block_out_channels)
    attends = tuple(options.attention) * levels if len(options.attention) == 1 else tuple(options.attention)
    if len(attends) != levels or not any(attends):
        raise ValueError(
            f"objective.attention={list(options.attention)} for {levels} levels: give one value for all, or "
            "one each, at least one of them true."
        )
    down = tuple("CrossAttnDownBlock2D" if here else PLAIN_DOWN for here in attends)
    up = tuple("CrossAttnUpBlock2D" if here else PLAIN_UP for here in reversed(attends))
    return UNet2DConditionModel(
        sample_size=(24, 16),  # pyright: ignore[reportArgumentType]
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=options.block_out_channels,
        layers_per_block=options.layers_per_block,
        down_block_types=down,  # pyright: ignore[reportArgumentType]
        up_block_types=up,  # pyright: ignore[reportArgumentType]
        mid_block_type="UNetMidBlock2DCrossAttn" if options.mid_attention else PLAIN_MID,
        only_cross_attention=(True,) + (False,) * (levels - 1),  # pyright: ignore[reportArgumentType]
        attention_head_dim=options.attention_head_counts,  # pyright: ignore[reportArgumentType] # heads, by its meaning
        cross_attention_dim=text_dim,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    )
