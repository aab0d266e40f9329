"""`BoLIDPipeline`: from a reference, a prompt, a pose and an image prompt to pictures of that person.

The stock pipelines do the denoising; this mixin only prepares what is added to their cross-attentions (Eq.
6) and hands it over in `cross_attention_kwargs`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from transformers import CLIPImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

import bolid.inputs as inputs
from bolid.adapter import BoLIDAdapter
from bolid.conditioning import ConditioningMixin
from bolid.estimator import PersonEstimator
from bolid.loading import LoadingMixin, require_fit
from bolid.pictures import PictureSource


class BoLIDMixin(ConditioningMixin, LoadingMixin):
    """What BoLID adds to a stock pipeline. Comes before it in the bases.

    Components beside the stock ones: `adapter` (BoLIDAdapter), `image_encoder` (a CLIP vision model) and
    `estimator` (PersonEstimator). Without them the pipeline is the stock one.
    """

    scheduler: Any
    config: Any

    def _listen(self) -> None:
        """Put the adapter's processors into the UNet, if it fits. Its weights stay outside."""
        if self.adapter is not None:
            require_fit(self.adapter, self.unet)
            self.adapter.attach(self.unet)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        reference: Any = None,
        pose: Any = None,
        image_prompt: PictureSource | Sequence[PictureSource | None] | None = None,
        image_prompt_strength: float = 0.5,
        id_strength: Any = inputs.ID_STRENGTH,
        pose_strength: float = 1.0,
        retarget: bool = True,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Draw the person of `reference`, in `pose`, as `prompt` says.

        prompt: one text or a list; lists of references, poses or image prompts go with it row by row, and
            single ones serve all rows.
        reference: a picture of the person (PIL, path, uint8 array, `Reference`), a list of pictures of one
            person, an `Identity`, or for several prompts a list of `Identity` or of lists. None: the base
            draws from text alone.
        pose: a name of `bolid.pose.POSE_NAMES`, a picture of a person, a skeleton map, key-points [18, 2|3]
            with x, y in [0, 1], a `Pose`, or None: then no body condition runs and the identity comes by
            tokens alone.
        image_prompt: a picture whose scene or style is taken, with its strength, 0 or more.
        id_strength: 0 or more, for all parts or {part: strength} of head, upper, lower, feet (parts left
            out: 0.8). A part at 0 has no influence; all at 0 (without pose and image prompt) is exactly the
            stock pipeline.
        pose_strength: 0 or more; 0 is as pose=None.
        retarget: give the pose the reference's proportions.
        num_inference_steps, guidance_scale: None takes the model's own defaults.
        height, width: pixels, multiples of 8; None takes the model's own size.
        num_images_per_prompt: pictures of each prompt, side by side in the result.
        generator: a seed: picture j of every prompt is drawn from seed + j, whatever else is in the batch;
            or a list of seeds or torch.Generator, one per picture; or one torch.Generator, as in the stock
            pipeline.
        callback_on_step_end: called as in the stock pipeline; its first argument is this call's own copy of
            the pipeline, so setting `_interrupt` there stops this call only.
        kwargs: further arguments of the stock pipeline.

        Returns: the stock pipeline's output. Raises ValueError for anything that cannot be used; nothing is
        guessed.
        """
        valid = {
            *inspect.signature(self.__call__).parameters,
            *inspect.signature(super().__call__).parameters,  # pyright: ignore[reportAttributeAccessIssue]
        }
        inputs.known_arguments(kwargs, valid - {"kwargs"})
        people = None if reference is None else inputs.person_rows(reference)
        poses = inputs.pose_rows(pose)
        pictures = list(image_prompt) if isinstance(image_prompt, list | tuple) else [image_prompt]
        rows = inputs.row_count(prompt, kwargs.get("prompt_embeds"), people, poses, pictures)
        size = inputs.picture_size(height, width, self.picture_size, self.vae_scale_factor)
        request = inputs.Request(
            rows=rows,
            people=people,
            poses=inputs.as_list(poses, "pose", rows),
            pictures=inputs.as_list(pictures, "image_prompt", rows),
            strength=inputs.part_strengths(id_strength, rows),
            pose_strength=inputs.number(pose_strength, "pose_strength"),
            image_strength=inputs.number(image_prompt_strength, "image_prompt_strength"),
            retarget=retarget,
            height=size[0],
            width=size[1],
        )
        per_row = inputs.count(num_images_per_prompt, "num_images_per_prompt")
        steps = self.config.default_steps if num_inference_steps is None else num_inference_steps
        guidance = self.config.default_guidance_scale if guidance_scale is None else guidance_scale
        if callback_on_step_end is not None:
            kwargs["callback_on_step_end"] = callback_on_step_end
        return self._run(
            request,
            per_row,
            prompt=inputs.text_rows(prompt, rows),
            negative_prompt=inputs.text_rows(negative_prompt, rows, isinstance(prompt, list)),
            num_inference_steps=inputs.count(steps, "num_inference_steps"),
            guidance_scale=inputs.number(guidance, "guidance_scale"),
            generator=inputs.generators(generator, rows, per_row),
            output_type=output_type,
            **kwargs,
        )

    def _run(self, request: inputs.Request, per_row: int, **kwargs: Any) -> Any:
        """The stock call, on a copy: stock pipelines keep per-call state on themselves and their
        scheduler.
        """
        given = self.prepare(request)
        if given is not None:
            guided = kwargs["guidance_scale"] > 1 and self.unet.config.time_cond_proj_dim is None
            passed = kwargs.pop("cross_attention_kwargs", None) or {}
            conditions = self.conditions(given, per_row, guided)
            kwargs["cross_attention_kwargs"] = {**passed, **conditions.kwargs()}
        run = copy.copy(self)
        run.scheduler = type(self.scheduler).from_config(self.scheduler.config)
        stock = super(BoLIDMixin, run).__call__  # pyright: ignore[reportAttributeAccessIssue]
        size = {"height": request.height, "width": request.width}
        return stock(num_images_per_prompt=per_row, **size, **kwargs)


class BoLIDPipeline(BoLIDMixin, StableDiffusionPipeline):
    """BoLID on Stable Diffusion 1.5 and on bolid-mini, which has its shape.

    default_steps, default_guidance_scale: what a call takes when it says nothing.
    """

    _optional_components = ["safety_checker", "feature_extractor", "image_encoder", "adapter", "estimator"]  # noqa: RUF012
    _exclude_from_cpu_offload = ["safety_checker", "adapter", "estimator"]  # noqa: RUF012 - called piecewise

    def __init__(
        self,
        vae: ModelMixin,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler: ConfigMixin,
        safety_checker: PreTrainedModel | None = None,
        feature_extractor: CLIPImageProcessor | None = None,
        image_encoder: PreTrainedModel | None = None,
        adapter: BoLIDAdapter | None = None,
        estimator: PersonEstimator | None = None,
        requires_safety_checker: bool = False,
        default_steps: int = 50,
        default_guidance_scale: float = 7.5,
    ) -> None:
        stock: dict[str, Any] = {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": scheduler,
            "safety_checker": safety_checker,
            "feature_extractor": feature_extractor,
            "image_encoder": image_encoder,
            "requires_safety_checker": requires_safety_checker,
        }
        super().__init__(**stock)
        self.register_modules(adapter=adapter, estimator=estimator)
        self.register_to_config(default_steps=default_steps, default_guidance_scale=default_guidance_scale)
        self._listen()
