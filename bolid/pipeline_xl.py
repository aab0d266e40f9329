"""`BoLIDXLPipeline`: BoLID on the SDXL family."""

from __future__ import annotations

from typing import Any

from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from transformers import CLIPImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from bolid.adapter import BoLIDAdapter
from bolid.detail import DetailNet
from bolid.estimator import PersonEstimator
from bolid.garments import GarmentNet
from bolid.layout import LayoutNet
from bolid.pipeline import OWN, PIECEWISE, BoLIDMixin


class BoLIDXLPipeline(BoLIDMixin, StableDiffusionXLPipeline):
    """BoLID on SDXL: the same call; `prompt_2`, `original_size` and the like go through to the stock
    pipeline.

    default_steps, default_guidance_scale: what a call takes when it says nothing; with `_unposed` what one
    without any pose takes (None: the same).
    """

    _optional_components = [  # noqa: RUF012
        "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "image_encoder", "feature_extractor",
        *OWN,
    ]  # fmt: skip
    _exclude_from_cpu_offload = [*PIECEWISE]  # noqa: RUF012
    is_xl = True

    def __init__(
        self,
        vae: ModelMixin,
        text_encoder: PreTrainedModel,
        text_encoder_2: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tokenizer_2: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler: ConfigMixin,
        image_encoder: PreTrainedModel | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        adapter: BoLIDAdapter | None = None,
        estimator: PersonEstimator | None = None,
        detail: DetailNet | None = None,
        layout: LayoutNet | None = None,
        garments: GarmentNet | None = None,
        face: ModelMixin | None = None,
        controlnet: ModelMixin | None = None,
        force_zeros_for_empty_prompt: bool = True,
        add_watermarker: bool | None = None,
        default_steps: int = 50,
        default_guidance_scale: float = 5.0,
        default_steps_unposed: int | None = None,
        default_guidance_scale_unposed: float | None = None,
    ) -> None:
        stock: dict[str, Any] = {
            "vae": vae,
            "text_encoder": text_encoder,
            "text_encoder_2": text_encoder_2,
            "tokenizer": tokenizer,
            "tokenizer_2": tokenizer_2,
            "unet": unet,
            "scheduler": scheduler,
            "image_encoder": image_encoder,
            "feature_extractor": feature_extractor,
            "force_zeros_for_empty_prompt": force_zeros_for_empty_prompt,
            "add_watermarker": add_watermarker,
        }
        super().__init__(**stock)
        self.register_modules(
            adapter=adapter, estimator=estimator, detail=detail, layout=layout, garments=garments,
            face=face, controlnet=controlnet,
        )  # fmt: skip
        self.register_to_config(
            default_steps=default_steps,
            default_guidance_scale=default_guidance_scale,
            default_steps_unposed=default_steps_unposed,
            default_guidance_scale_unposed=default_guidance_scale_unposed,
        )
        self._listen()
