"""A public few-step LoRA (LCM, Lightning, Hyper) on the lightning branch, and nowhere else."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin

NAME = "few_step"  # the LoRA's name on the UNet


def with_few_step_lora(unet: Any, source: str, strength: float = 1.0, is_xl: bool = False) -> Any:
    """A second UNet that shares every weight of `unet` and has the frozen LoRA on top.

    Two UNets rather than a switch: L_rec runs without the LoRA in the same step, and what checkpointing
    computes again in backward must meet the same layers as before. The copy costs the LoRA's weights alone.

    Args:
        source: a safetensors file, a folder or a Hub id, in diffusers' or kohya's layout.
        strength: scale of the LoRA.

    Raises:
        ValueError: peft is not installed, or the LoRA cannot be read or has nothing for this UNet.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError(f"lightning.lora={source!r} needs the package peft: pip install peft")
    family: Any = StableDiffusionXLLoraLoaderMixin if is_xl else StableDiffusionLoraLoaderMixin
    try:
        weights, alphas = family.lora_state_dict(source, unet_config=unet.config)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"lightning.lora={source!r} cannot be read ({str(error).splitlines()[0]}): give a safetensors "
            "file, a folder with pytorch_lora_weights.safetensors, or the id of a Hub repository in reach."
        ) from error
    if not any(name.startswith("unet.") for name in weights):
        raise ValueError(f"lightning.lora={source!r} holds no LoRA of a UNet; is it for another model?")
    twin = _twin(unet)
    try:
        family.load_lora_into_unet(weights, alphas, twin, adapter_name=NAME)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"lightning.lora={source!r} does not fit this base ({str(error).splitlines()[0]}): take one that "
            f"was made for {'SDXL' if is_xl else 'SD 1.5'}."
        ) from error
    twin.set_adapters(NAME, strength)
    for name, parameter in twin.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(False)
    return twin


def _twin(unet: Any) -> Any:
    """The same modules once more around the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    return copy.deepcopy(unet, shared)
