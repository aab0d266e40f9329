"""From exported weights to a folder that people can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from bolid.loading import LATER, adapter_class
from bolid.training.bases import FrozenBase, open_base

DEFAULTS = (  # of a pipeline's call, kept in model_index.json
    "default_steps",
    "default_guidance_scale",
    "default_steps_unposed",
    "default_guidance_scale_unposed",
)


def complete_pipeline(
    folder: Path, base: FrozenBase, scheduler: Any, defaults: dict[str, Any] | None = None
) -> None:
    """Fill up an export with the parts that were not trained.

    On bolid-mini's base it becomes a whole float16 pipeline for `BoLIDPipeline.from_pretrained`. On others it
    becomes a folder for `load_bolid_adapter`: adapter, vision encoder, estimator; nobody wants gigabytes of a
    public base again.

    Args:
        folder: holds `adapter` and, where a UNet was trained, `unet`.
        scheduler: of the pipeline.
        defaults: the pipeline's default steps and guidance; None takes those of the base's folder.
    """
    if not base.draws_avatars:
        for name in ("image_encoder", "estimator"):
            if getattr(base, name) is not None:
                getattr(base, name).save_pretrained(folder / name)
        return
    from bolid.pipeline import BoLIDPipeline

    half = open_base(base.source, torch.float16)  # a second reading: the training's own stay float32
    if (folder / "unet").is_dir():
        half.unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float16)
    BoLIDPipeline(
        vae=half.vae,
        text_encoder=half.text_encoders[0],
        tokenizer=half.tokenizers[0],
        unet=half.unet,
        scheduler=scheduler,
        image_encoder=half.image_encoder,
        adapter=adapter_class(folder / "adapter").from_pretrained(
            folder / "adapter", torch_dtype=torch.float16
        ),
        estimator=half.estimator,
        **(pipeline_defaults(base.source) if defaults is None else defaults),
    ).save_pretrained(folder)


def pipeline_with(folder: Path, source: str) -> None:
    """Fill up an export that holds one of `LATER` to the float16 pipeline of `source` with it."""
    from bolid.pipeline import BoLIDPipeline

    parts = {
        name: kind.from_pretrained(folder / name, torch_dtype=torch.float16)
        for name, kind in LATER.items()
        if (folder / name).is_dir()
    }
    BoLIDPipeline.from_pretrained(source, dtype=torch.float16, **parts).save_pretrained(folder)


def pipeline_defaults(source: str | Path) -> dict[str, Any]:
    """Default steps and guidance of a saved pipeline; what it does not say is left out."""
    index = Path(source) / "model_index.json"
    stored = json.loads(index.read_text()) if index.is_file() else {}
    return {name: stored[name] for name in DEFAULTS if name in stored}
