"""The tokens of one picture as a file for stock tools: `python -m bolid export`."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Literal

FORMATS = ("ip-adapter-plus",)
Group = Literal["identity", "image"]


def export(pipe: Any, path: str | os.PathLike[str], group: Group = "identity") -> Path:
    """Write a pipeline's person ("identity") or image-prompt ("image") tokens in IP-Adapter Plus layout.

    The file opens with `load_ip_adapter` of diffusers and, where `comfyui_reads` it, with ComfyUI's nodes. It
    is written whole or not at all. It holds tokens only: pose and appearance map stay behind. An adapter that
    knows parts is written in the one form that the layout can hold, all parts' queries over the whole person,
    `encode_identity(reference, whole=True)`. Stock pipelines also draw guidance's negative half from the
    tokens of a blank picture, which ours leaves without any. eval/export_cost.py measures what that costs.

    Raises ValueError for a pipeline without an adapter, a file of another ending, or what the layout cannot
    hold.
    """
    from bolid.baselines.export import export_ip_adapter_plus

    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"--output is {target.name!r}; the file must end in .safetensors")
    if not target.parent.is_dir():
        raise ValueError(f"the folder {str(target.parent)!r} does not exist; make it first")
    if getattr(pipe, "adapter", None) is None:
        raise ValueError("the model has no adapter, so there are no tokens to write; give a BoLID model")
    export_ip_adapter_plus(pipe.adapter, target, group, pipe.unet.config.cross_attention_dim)
    return target


def comfyui_reads(path: str | os.PathLike[str]) -> bool:
    """Whether ComfyUI's IP-Adapter nodes can hold such a file; diffusers goes by what the file has.

    The nodes build one size only: 16 tokens by a resampler of the text's width and 12 heads of 64 channels,
    on SDXL of width 1280 and 20 heads (ComfyUI_IPAdapter_plus at b103c67, read, not run).
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        shape = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    text = shape["ip_adapter.1.to_k_ip.weight"][1]
    width, heads = (1280, 20) if text == 2048 else (text, 12)
    queries = shape["image_proj.layers.0.0.to_q.weight"]
    return shape["image_proj.latents"] == (1, 16, width) and queries == (64 * heads, width)


def export_encoder(pipe: Any, folder: str | os.PathLike[str]) -> Path:
    """Write a pipeline's vision encoder for stock tools: `load_ip_adapter` finds it as "image_encoder".

    Stock pipelines prepare pictures by CLIP's statistics, x' = (p - clip_mean) / clip_std for p in [0, 1]. An
    encoder that learned with others sees x = a x' + b, so its first layer W becomes a W, and the sum of b W
    goes to the patches' places: the same states from what stock tools hand over.

    Raises ValueError for a pipeline without a vision encoder, or a folder that holds something already.
    """
    target = Path(folder)
    if pipe.image_encoder is None:
        raise ValueError("the model has no image_encoder; give a BoLID model")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{str(target)!r} is there already; give a new folder, or empty this one")
    stock_encoder(pipe.image_encoder, pipe.feature_extractor).save_pretrained(target)
    return target


def stock_encoder(encoder: Any, processor: Any) -> Any:
    """A copy of a vision encoder that takes pictures normalised by CLIP's statistics.

    processor: has `image_mean` and `image_std` of what the encoder takes; None: pictures in [-1, 1].
    """
    import torch
    from transformers import CLIPVisionModelWithProjection
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    if isinstance(encoder, CLIPVisionModelWithProjection):
        made: Any = copy.deepcopy(encoder)
    else:  # the class that stock pipelines open; its projection is not asked for these tokens
        made = CLIPVisionModelWithProjection(encoder.config).to(encoder.dtype)
        made.vision_model.load_state_dict(getattr(encoder, "vision_model", encoder).state_dict())
    half = (0.5,) * 3
    mean, std = (half, half) if processor is None else (processor.image_mean, processor.image_std)
    clip_mean, clip_std, mean, std = map(torch.tensor, (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, mean, std))
    factor, shift = clip_std / std, (clip_mean - mean) / std  # a and b, channel by channel
    embeddings = made.vision_model.embeddings
    first, places = embeddings.patch_embedding.weight.data, embeddings.position_embedding.weight.data
    places[1:] += torch.einsum("dcij,c->d", first.float(), shift).to(places)  # place 0 is the class token's
    first *= factor.to(first)[:, None, None]
    return made.eval()
