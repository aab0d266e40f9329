"""Which stock pipeline draws a call: from noise, from a picture, inside a mask; with a ControlNet or without.

A BoLID pipeline holds components. For a call with a picture, a mask or a control map they are lent to the
stock class that knows the task: the arithmetic is diffusers' own, and "no identity" is the stock result.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import bolid.inputs as inputs
from bolid.autoencoder import encode_latents
from bolid.pictures import load_picture
from bolid.request import Request

Task = Literal["text", "image", "inpaint"]
ENDINGS: dict[Task, str] = {"text": "", "image": "Img2Img", "inpaint": "Inpaint"}
SHARED_STATE = ("_progress_bar_config", "_all_hooks", "_offload_device", "_offload_gpu_id", "watermark")
IMAGE_STRENGTH = 0.8  # how far img2img goes from its picture when the call says nothing
STOCK_INPAINT = (4, 9)  # input channels of UNets that the stock inpainting pipelines take


def stock_name(xl: bool, task: Task, controlled: bool) -> str:
    """Name of the stock class, for example StableDiffusionXLControlNetImg2ImgPipeline."""
    return f"StableDiffusion{'XL' * xl}{'ControlNet' * controlled}{ENDINGS[task]}Pipeline"


def stock_class(xl: bool, task: Task, controlled: bool) -> Any:
    return getattr(importlib.import_module("diffusers"), stock_name(xl, task, controlled))


def lend(pipe: Any, kind: Any) -> Any:
    """A stock pipeline of class `kind` around the components of `pipe`, for one call: its own scheduler."""
    wanted = inspect.signature(kind.__init__).parameters
    has = {**pipe.config, **pipe.components}
    # without the UNet: the stock constructors compare its sample_size with a number, and ours may be a pair
    made = kind(**{name: has[name] for name in wanted if name in has} | {"unet": None})
    made.register_modules(unet=pipe.unet)
    made.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    for name in SHARED_STATE:
        if hasattr(pipe, name):
            setattr(made, name, getattr(pipe, name))
    return made


def accepted(kind: Any, **options: Any) -> dict[str, Any]:
    """The options that a stock class's call knows."""
    names = inspect.signature(kind.__call__).parameters
    return {name: value for name, value in options.items() if name in names}


def spread(kwargs: dict[str, Any], rows: int, per_row: int) -> dict[str, Any]:
    """Every row `per_row` times: the stock pipelines with a picture mix up pictures and prompts otherwise."""
    wide = dict(kwargs)
    if per_row == 1:
        return wide
    for name, value in kwargs.items():
        if name.endswith("prompt_embeds") and value is not None:
            wide[name] = value.repeat_interleave(per_row, dim=0)
        elif name in ("prompt", "negative_prompt", "prompt_2", "negative_prompt_2") and value is not None:
            texts: Any = [value] * rows if isinstance(value, str) else value
            wide[name] = [text for text in texts for _ in range(per_row)]
        elif name in ("image", "mask_image", "control_image") and value is not None:
            wide[name] = [picture for picture in value for _ in range(per_row)]
    return wide


@dataclass(frozen=True)
class Start:
    """What a call starts from beside noise. pictures, masks, control: one or several; None: not given."""

    pictures: list[Any] | None = None
    masks: list[Any] | None = None
    control: list[Any] | None = None
    strength: float = 1.0

    @property
    def task(self) -> Task:
        if self.pictures is None:
            return "text"
        return "image" if self.masks is None else "inpaint"

    def size(self, factor: int) -> tuple[int, int] | None:
        """(height, width) of the first picture, down to multiples of `factor` as the stock pipelines have it;
        None without one.
        """
        if self.pictures is None:
            return None
        first = load_picture(self.pictures[0], "image")
        height, width = (max(factor, side // factor * factor) for side in (first.height, first.width))
        return height, width

    def open_to_change(self, request: Request, per_row: int) -> Tensor:
        """float [rows * per_row or 1, 1, H, W]: 1 where a call may draw, 0 what its mask, black or white as
        the stock pipelines read it, keeps.
        """
        if self.masks is None:
            return torch.ones(1, 1, 1, 1)
        masks = self.rows_of(self.masks, "mask_image", request.rows, request.size)
        grey = torch.from_numpy(np.stack([np.asarray(mask.convert("L")) for mask in masks])) / 255
        return (grey >= 0.5).float()[:, None].repeat_interleave(per_row, dim=0)

    @staticmethod
    def rows_of(sources: list[Any], what: str, rows: int, size: tuple[int, int]) -> list[Image.Image]:
        """A picture per row at `size` (height, width). Raises ValueError for another number of them."""
        pictures = [load_picture(source, what) for source in inputs.as_list(sources, what, rows)]
        wanted = (size[1], size[0])
        return [
            each if each.size == wanted else each.resize(wanted, Image.Resampling.LANCZOS)
            for each in pictures
        ]


def read_start(image: Any, mask_image: Any, strength: Any, control_image: Any) -> Start:
    """The call's pictures, checked. Raises ValueError for a mask or a strength without a picture."""
    listed = [list(each) if isinstance(each, list | tuple) else None if each is None else [each]
              for each in (image, mask_image, control_image)]  # fmt: skip
    if image is None and (mask_image is not None or strength is not None):
        what = "mask_image" if mask_image is not None else "strength"
        raise ValueError(f"{what} is given without a picture to start from; give image= too, or leave it out")
    if any(each == [] for each in listed):
        raise ValueError("image, mask_image or control_image is an empty list; give one, or one per prompt")
    usual = IMAGE_STRENGTH if mask_image is None else 1.0
    far = inputs.number(usual if strength is None else strength, "strength")
    if not 0 < far <= 1:
        raise ValueError(
            f"strength is {far:g}; it must be above 0 and at most 1: 1 leaves nothing of the picture"
        )
    pictures, masks, control = listed
    return Start(pictures, masks, control, far)


def draw(
    pipe: Any, xl: bool, request: Request, start: Start, maps: Any, per_row: int, kwargs: dict[str, Any]
) -> Any:
    """Call the stock class that does the task, around the pipeline's components.

    maps: a picture per row for the ControlNet, or None; kwargs: further arguments of the stock call.
    """
    size, rows, task = request.size, request.rows, start.task
    pictures = None if start.pictures is None else start.rows_of(start.pictures, "image", rows, size)
    masks = None if start.masks is None else start.rows_of(start.masks, "mask_image", rows, size)
    if task == "inpaint" and pipe.unet.config.in_channels not in STOCK_INPAINT:
        task = "image"
        then, seen = kwargs.get("callback_on_step_end"), "callback_on_step_end_tensor_inputs"
        wanted = kwargs.get(seen) or getattr(then, "tensor_inputs", [])
        kwargs[seen] = list(dict.fromkeys(["latents", *wanted]))
        shown, hidden = (
            [each for each in some for _ in range(per_row)] for some in (pictures or [], masks or [])
        )
        kwargs["callback_on_step_end"] = Keeping(shown, hidden, kwargs["generator"], then)
    kind = stock_class(xl, task, maps is not None)
    first = maps if task == "text" else pictures
    given = accepted(
        kind,
        image=first,
        mask_image=masks,
        control_image=maps,
        strength=start.strength,
        height=size[0],
        width=size[1],
    )
    call = spread({**kwargs, **given}, rows, per_row)
    return lend(pipe, kind)(num_images_per_prompt=1, **call)


class Keeping:
    """Inpainting by a step callback on img2img, for UNets that the stock inpainting pipelines refuse.

    As there: after each step, what lies outside the mask is the given picture again, at the step's noise.

    Args:
        masks: one per picture, white is drawn anew.
        generators: of the pictures (the noise outside of the masks comes from their seeds), or None.
        then: the caller's own callback, called afterwards.
    """

    def __init__(
        self, pictures: Sequence[Image.Image], masks: Sequence[Image.Image], generators: Any, then: Any
    ):
        self.pictures, self.masks, self.generators, self.then = pictures, masks, generators, then
        self.kept: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, run: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents = values["latents"]
        original, noise, mask = self.kept = self.kept or self._prepare(run, latents)
        later = run.scheduler.timesteps[run.scheduler.timesteps < time]
        if len(later):
            original = run.scheduler.add_noise(original, noise, later[:1].expand(len(latents)))
        values["latents"] = mask * latents + (1 - mask) * original
        return values if self.then is None else self.then(run, step, time, values)

    def _prepare(self, run: Any, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pixels = run.image_processor.preprocess(list(self.pictures)).to(latents.device)
        original = encode_latents(run.vae, pixels).to(latents)
        noise = [torch.randn(latents.shape[1:], generator=self._generator(i)) for i in range(len(latents))]
        grey = torch.from_numpy(np.stack([np.asarray(mask.convert("L")) for mask in self.masks])) / 255
        mask = functional.interpolate(grey[:, None], latents.shape[-2:], mode="area").round()
        return original, torch.stack(noise).to(latents), mask.to(latents)

    def _generator(self, index: int) -> torch.Generator | None:
        if self.generators is None:
            return None
        if isinstance(self.generators, list):
            return torch.Generator().manual_seed(self.generators[index].initial_seed() + 1)
        return torch.Generator().manual_seed(self.generators.initial_seed() + 1 + index)
