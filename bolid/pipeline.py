"""`BoLIDPipeline`: from a reference, a prompt, a pose and an image prompt to pictures of that person.

The stock pipelines do the denoising; this mixin only prepares what is added to their cross-attentions (Eq.
6) and hands it over in `cross_attention_kwargs`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

import bolid.inputs as inputs
import bolid.variants as variants
from bolid.adapter import BoLIDAdapter
from bolid.care import CareMixin
from bolid.conditioning import ConditioningMixin
from bolid.detail import DetailNet
from bolid.estimator import PersonEstimator
from bolid.garments import GarmentNet
from bolid.hub import HubMixin
from bolid.layout import LayoutNet
from bolid.loading import LoadingMixin, require_fit
from bolid.pictures import PictureSource
from bolid.plan import Plan
from bolid.pose import skeleton_map
from bolid.posing import PosingMixin
from bolid.refine import RefineMixin
from bolid.request import Asked, Request, make_request
from bolid.variants import Start, read_start

# Components beside the stock ones that are called piece by piece, or not in the stock call: no hook of
# offloading would see it.
PIECEWISE = ("adapter", "estimator", "detail", "layout", "garments", "face")
OWN = (*PIECEWISE, "controlnet")


class BoLIDMixin(ConditioningMixin, PosingMixin, RefineMixin, CareMixin, HubMixin, LoadingMixin):
    """What BoLID adds to a stock pipeline. Comes before it in the bases.

    Components beside the stock ones: `adapter` (BoLIDAdapter), `image_encoder` (a CLIP vision model),
    `estimator` (PersonEstimator), `detail` (DetailNet), `layout` (LayoutNet), `garments` (GarmentNet), `face`
    (FaceAdapter) and `controlnet` (any ControlNet of skeleton maps). Without them the pipeline is the stock
    one.
    """

    scheduler: Any
    detail: Any
    layout: Any
    garments: Any
    image_processor: Any
    watermark: Any
    safety_checker: Any
    run_safety_checker: Any
    config: Any
    is_xl = False

    def _listen(self) -> None:
        """Put the adapter's processors into the UNet, if it fits. Its weights stay outside."""
        if self.adapter is not None and self.unet is not None:
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
        retarget: bool | None = None,
        negative_prompt: str | list[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[..., Any] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        control_image: Any = None,
        detail_strength: float = 1.0,
        appearance_strength: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        """Draw the person of `reference`, in `pose`, as `prompt` says.

        prompt: one text or a list; lists of references, poses or image prompts go with it row by row, and
            single ones serve all rows.
        reference: a picture of the person (PIL, path, uint8 array, `Reference`), a list of pictures of one
            person, an `Identity`, or for several prompts a list of `Identity` or of lists. None: the base
            draws from text alone. Such a list with one text is several people in one picture, with a pose
            each.
        pose: a name of `bolid.pose.POSE_NAMES`, a picture of a person, a skeleton map, key-points [18, 2|3]
            with x, y in [0, 1], a `Pose`, or None: then the pipeline's `layout` finds one for the prompt,
            another for each picture (see `pose_from_prompt`); without a layout, and where there is no person
            to draw or a picture to start from, no body condition runs and the identity comes by tokens
            alone. For several people a list: names and pictures are set side by side, key-points and
            skeleton maps are taken where they are. With a `controlnet` it gets the skeleton too.
        image_prompt: a picture whose scene or style is taken, with its strength, 0 or more.
        id_strength: 0 or more, for all parts or {part: strength} of head, upper, lower, feet (parts left
            out: 1). A part at 0 has no influence; all at 0 (without pose and image prompt) is exactly the
            stock pipeline.
        pose_strength: 0 or more; 0: no body condition, tokens alone, and no pose is looked for.
        retarget: give the pose the reference's proportions: how wide shoulders and hips are. None: where the
            pose is a name, a picture or found for the prompt, for it is somebody else's then; key-points and
            skeleton maps are taken as they are.
        num_inference_steps, guidance_scale: None takes the model's own defaults, see `call_defaults`.
        height, width: pixels, multiples of 8; None takes the size of `image`, or else the model's own (for
            several people as wide as they need).
        num_images_per_prompt: pictures of each prompt, side by side in the result.
        generator: a seed: picture j of every prompt is drawn from seed + j, whatever else is in the batch;
            or a list of seeds or torch.Generator, one per picture; or one torch.Generator, as in the stock
            pipeline.
        callback_on_step_end: called as in the stock pipeline; its first argument is this call's own copy of
            the pipeline, so setting `_interrupt` there stops this call only.
        image: a picture to start from, or one per prompt (img2img); with mask_image, white where it is to be
            drawn anew (inpainting). strength: in (0, 1], how far to go from it; None: 0.8, and 1 with a mask.
        control_image: a map for the pipeline's `controlnet`, or one per prompt; None: the skeleton of `pose`.
        detail_strength: in [0, 1], how far the decoded picture is corrected from the appearance map by the
            pipeline's `detail`, where it has one; 0 leaves out that network. Without a pose there is no map,
            pose_strength and img2img's strength below 1 count too, and with padding_mask_crop there are none.
        appearance_strength: in [0, 1], how far the reference's pixels, laid where the pose wants them, take
            part; 0: the person comes by tokens alone, less exactly and with more freedom.
        kwargs: further arguments of the stock pipeline that does the task.

        Returns: the stock pipeline's output. Raises ValueError for anything that cannot be used; nothing is
        guessed.
        """
        start = read_start(image, mask_image, strength, control_image)
        asked = Asked(
            prompt, kwargs.get("prompt_embeds"), reference, pose, image_prompt, image_prompt_strength,
            id_strength, pose_strength, retarget, height, width, appearance_strength,
        )  # fmt: skip
        default = start.size(self.vae_scale_factor) or self.picture_size
        request = make_request(asked, default, self.vae_scale_factor)
        self._known_arguments(kwargs, start)
        per_row = inputs.count(num_images_per_prompt, "num_images_per_prompt")
        if callback_on_step_end is not None:
            kwargs["callback_on_step_end"] = callback_on_step_end
        texts = inputs.text_rows(negative_prompt, request.rows, isinstance(prompt, list))
        kwargs |= {"prompt": inputs.text_rows(prompt, request.rows), "negative_prompt": texts}
        posed = request.has_pose or bool(self._rows_to_pose(request, start))
        kwargs |= self._steps(num_inference_steps, guidance_scale, posed)
        kwargs["generator"] = inputs.generators(generator, request.rows, per_row)
        detailed = inputs.share(detail_strength, "detail_strength")
        request, per_row, kwargs = self._with_poses(request, start, per_row, kwargs)
        return self._run(request, start, per_row, detailed, output_type=output_type, **kwargs)

    def _steps(self, steps: int | None, guidance: float | None, posed: bool) -> dict[str, Any]:
        """How many steps and how much guidance: the call's, or the model's own. Raises ValueError."""
        own_steps, own_guidance = self.call_defaults(posed)
        steps = own_steps if steps is None else steps
        guidance = own_guidance if guidance is None else guidance
        return {
            "num_inference_steps": inputs.count(steps, "num_inference_steps"),
            "guidance_scale": inputs.number(guidance, "guidance_scale"),
        }

    def call_defaults(self, posed: bool = True) -> tuple[int, float]:
        """Steps and guidance of a call that says nothing of them, with or without a pose.

        A pose and a reference decide nearly all of a picture, so few steps do; without a pose they do not.
        """
        names = ("default_steps", "default_guidance_scale")
        own = [self.config[name] for name in names]
        if not posed:
            free = [self.config[f"{name}_unposed"] for name in names]
            own = [value if other is None else other for value, other in zip(own, free, strict=True)]
        return own[0], own[1]

    def _known_arguments(self, kwargs: dict[str, Any], start: Start) -> None:
        """Raises ValueError for an argument that neither this call nor the stock one it comes to knows."""
        controlled = getattr(self, "controlnet", None) is not None
        stock = variants.stock_class(self.is_xl, start.task, controlled).__call__
        valid = {*inspect.signature(self.__call__).parameters, *inspect.signature(stock).parameters}
        inputs.known_arguments(kwargs, valid - {"kwargs"})

    def _run(self, request: Request, start: Start, per_row: int, detailed: float, **kwargs: Any) -> Any:
        """The stock call, and after it the details of the appearance maps, by the share `detailed`."""
        words = self._words(request, kwargs)
        plan, wanted = self.plan(request, words), kwargs["output_type"]
        detailed *= min(1.0, request.pose_strength)  # what follows the pose less lies less under the map
        detailed *= start.strength if start.task == "image" else 1.0
        elsewhere = (
            wanted == "latent" or kwargs.get("padding_mask_crop") is not None
        )  # no picture of this size
        if self.detail is None or not detailed or elsewhere or not request.has_identity:
            return self._draw(plan, start, per_row, **kwargs)
        if not request.has_pose or not plan.maps[:, 3].any():
            return self._draw(plan, start, per_row, **kwargs)
        fold = self.detail.fold
        if any(side % fold for side in request.size):
            raise ValueError(
                f"height and width are {request.height} and {request.width}; this model's details need "
                f"multiples of {fold}, or detail_strength=0"
            )
        as_dict, seen = kwargs.pop("return_dict", True), self._seen_by_detail(plan)
        drawn = self._draw(plan, start, per_row, **(kwargs | {"output_type": "pt"}))
        pictures = 2 * drawn.images - 1
        change = detailed * start.open_to_change(request, per_row).to(pictures)
        finished = pictures + change * (self._with_details(pictures, seen, per_row) - pictures)
        if not self.is_xl:
            finished = self._checked(finished, pictures, drawn)
        elif self.watermark is not None:
            finished = self.watermark.apply_watermark(finished)  # the stock call's lies under the details
        drawn["images"] = self.image_processor.postprocess(finished, output_type=wanted)
        return drawn if as_dict else tuple(getattr(drawn, each.name) for each in fields(drawn))

    def _words(self, request: Request, kwargs: dict[str, Any]) -> list[Tensor] | None:
        """The states of each row's prompt, where a part of ours reads them. Made before the stock call, whose
        end takes text encoders off the device again where they are offloaded.

        kwargs: of the stock call, which has the prompts or their embeddings.
        """
        reads = self.detail is not None and self.detail.config.cross_attention_dim is not None
        if not request.has_pose or not (reads or self.garments is not None):
            return None
        return self.text_states(kwargs["prompt"], kwargs, range(request.rows))

    def _seen_by_detail(self, plan: Plan) -> list[Tensor]:
        """What DetailNet sees beside the pictures, [rows, ...] each."""
        seen = [plan.maps, plan.skeletons]
        if self.detail.config.cross_attention_dim is not None:
            assert plan.words is not None
            seen.append(torch.cat(plan.words))
        return seen

    def _with_details(self, pictures: Tensor, seen: list[Tensor], per_row: int) -> Tensor:
        """Pictures [rows * per_row, 3, H, W] in [-1, 1] as DetailNet corrects them, in [-1, 1]."""
        device = self.detail.device
        rows = (each.to(device).repeat_interleave(per_row, dim=0) for each in seen)
        return self.detail(pictures.to(device), *rows).clamp(-1, 1).to(pictures)

    def _checked(self, finished: Tensor, pictures: Tensor, drawn: Any) -> Tensor:
        """Finished pictures [N, 3, H, W] through the safety checker, if there is one; those that it refused
        before stay what they became then. `drawn` is told of both.
        """
        if self.safety_checker is None:
            return finished
        before = drawn.nsfw_content_detected or [False] * len(pictures)
        seen, after = self.run_safety_checker(finished, self._execution_device, self.unet.dtype)
        drawn["nsfw_content_detected"] = [a or b for a, b in zip(before, after, strict=True)]
        kept = torch.tensor(before, device=pictures.device).view(-1, 1, 1, 1)
        return torch.where(kept, pictures, seen)

    def _draw(self, plan: Plan, start: Start, per_row: int, **kwargs: Any) -> Any:
        """The stock call, on a pipeline of this call's own: stock pipelines keep per-call state on themselves
        and their scheduler.
        """
        request = plan.request
        maps = self._control_maps(plan, start)
        guided = kwargs["guidance_scale"] > 1 and self.unet.config.time_cond_proj_dim is None
        conditions = self.conditions_for(plan, per_row, guided)
        if conditions is not None:
            passed = kwargs.pop("cross_attention_kwargs", None) or {}
            kwargs["cross_attention_kwargs"] = {**passed, **conditions.kwargs()}
        if maps is None and start.task == "text":
            run = copy.copy(self)
            run.scheduler = type(self.scheduler).from_config(self.scheduler.config)
            stock = super(BoLIDMixin, run).__call__  # pyright: ignore[reportAttributeAccessIssue]
            size = {"height": request.height, "width": request.width}
            return stock(num_images_per_prompt=per_row, **size, **kwargs)
        if maps is not None:
            scale = kwargs.pop("controlnet_conditioning_scale", 1.0)
            drawn = start.control is None  # a skeleton of ours, which pose_strength speaks of
            kwargs["controlnet_conditioning_scale"] = scale * request.pose_strength if drawn else scale
        return variants.draw(self, self.is_xl, request, start, maps, per_row, kwargs)

    def _control_maps(self, plan: Plan, start: Start) -> list[Image.Image] | None:
        """Maps for the ControlNet, one per row; None where it takes no part.

        Raises ValueError for maps without a ControlNet, or rows with and without a pose.
        """
        rows, size = plan.request.rows, plan.request.size
        if getattr(self, "controlnet", None) is None:
            if start.control is not None:
                raise ValueError(
                    "control_image is given, but the pipeline has no controlnet; leave it out, or load one: "
                    "BoLIDPipeline.from_pretrained(..., controlnet=ControlNetModel.from_pretrained(...))"
                )
            return None
        if start.control is not None:
            return start.rows_of(start.control, "control_image", rows, size)
        given = [pose is not None for pose in plan.poses]
        if not any(given):
            return None
        if not all(given):
            raise ValueError("some rows have a pose, some none; with a controlnet give one to all or to none")
        drawn = [skeleton_map(pose[None], *size)[0] for pose in plan.poses if pose is not None]
        drawn = [np.maximum.reduce(drawn)] if plan.request.group else drawn
        return [Image.fromarray(each) for each in drawn]


class BoLIDPipeline(BoLIDMixin, StableDiffusionPipeline):
    """BoLID on Stable Diffusion 1.5 and on bolid-mini, which has its shape.

    default_steps, default_guidance_scale: what a call takes when it says nothing; with `_unposed` what one
    without any pose takes (None: the same).
    """

    _optional_components = ["safety_checker", "feature_extractor", "image_encoder", *OWN]  # noqa: RUF012
    _exclude_from_cpu_offload = ["safety_checker", *PIECEWISE]  # noqa: RUF012

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
        detail: DetailNet | None = None,
        layout: LayoutNet | None = None,
        garments: GarmentNet | None = None,
        face: ModelMixin | None = None,
        controlnet: ModelMixin | None = None,
        requires_safety_checker: bool = False,
        default_steps: int = 50,
        default_guidance_scale: float = 7.5,
        default_steps_unposed: int | None = None,
        default_guidance_scale_unposed: float | None = None,
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
