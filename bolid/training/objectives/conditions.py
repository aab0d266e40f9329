"""What a training row is told: its conditions, each dropped independently, from `Draws` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bolid.adapter import AdapterInputs, BoLIDAdapter
from bolid.pose import PARTS, skeleton_map
from bolid.training.bases import FrozenBase, TextConditions
from bolid.training.draws import Draws

IMAGE_ALONE = (
    0.5  # of the rows with an image prompt: without words, for it must be able to set the scene alone
)


@dataclass(frozen=True)
class ConditionOptions:
    """Shares of the rows that miss a condition; every share is drawn by itself."""

    text_drop: float = 0.1  # share of rows without a prompt
    identity_drop: float = 0.12  # share without identity (tokens and map)
    part_drop: float = 0.15  # share of each part's tokens left out, in rows without an appearance map
    map_drop: float = 0.08  # share that keeps its tokens and loses the appearance map
    pose_drop: float = 0.15  # share without any body condition: identity by tokens alone
    faded_share: float = 0.3  # share whose appearance map (and tokens) has parts faded or absent
    image_prompt_share: float = 0.3  # share of rows that see an image prompt
    plain_share: float = 0.6  # share whose prompt has no identity words
    plain_missing: float = 0.25  # of that share, among rows that lack a part: only words could tell it


@dataclass(frozen=True)
class Given:
    """The conditions of a batch: the adapter's inputs, and the prompts as token ids.

    ids: [B, T] or, for SDXL, [B, 2, T]; no_text: bool [B], rows that get the empty prompt instead.
    """

    inputs: AdapterInputs
    ids: Tensor
    no_text: Tensor


def batch_inputs(
    adapter: BoLIDAdapter, batch: Mapping[str, Tensor], variant: Tensor, fold: int
) -> AdapterInputs:
    """All conditions of the rows, nothing dropped.

    batch: columns of `bolid.training.features.compute_features`, and `skeleton` of `draw_skeletons` where it
    was drawn ahead; variant: int64 [B], which of a row's
    appearance maps (0: all parts); fold: pixels per latent pixel.
    """
    rows = torch.arange(len(variant), device=variant.device)
    skeleton = batch["skeleton"] if "skeleton" in batch else draw_skeletons(batch, fold)
    return adapter.inputs(
        patches=batch["patches"],
        present=batch["present"],
        strength=batch["strengths"][rows, variant],
        image_patches=None if adapter.image_resampler is None else batch["prompt_patches"],
        skeleton=skeleton.to(variant.device).permute(0, 3, 1, 2).float() / 255,
        appearance=batch["appearance"][rows, variant],
    )


def draw_skeletons(batch: Mapping[str, Tensor], fold: int) -> Tensor:
    """Skeleton maps uint8 [B, H, W, 3] of the rows' poses, on the CPU."""
    height, width = (fold * side for side in batch["latents"].shape[-2:])
    return torch.from_numpy(skeleton_map(batch["keypoints"].cpu().numpy(), height, width))


def draw_conditions(
    adapter: BoLIDAdapter, batch: Mapping[str, Tensor], options: ConditionOptions, draws: Draws, fold: int
) -> Given:
    """The rows' conditions with each kind dropped by its own share.

    A part is dropped from tokens and map alike, as at inference: by the faded variants where there is a map
    (features hold one with parts faded or absent), by its tokens where there is none.
    """
    o = options

    def chance(name: str, share: float) -> Tensor:
        return draws.uniform(f"drop/{name}") < share

    no_map, no_pose = chance("map", o.map_drop), chance("pose", o.pose_drop)
    no_image = ~chance("image", o.image_prompt_share)
    variants = batch["appearance"].shape[1]
    faded = 1 + draws.integers("variant", variants - 1) if variants > 1 else torch.zeros_like(no_map).long()
    inputs = batch_inputs(adapter, batch, faded * chance("faded", o.faded_share), fold)
    assert inputs.appearance is not None
    assert inputs.strength is not None
    inputs = replace(
        inputs,
        appearance=inputs.appearance.masked_fill(no_map.view(-1, 1, 1, 1), 0),
        strength=inputs.strength.masked_fill(
            _lost_parts(draws, o.part_drop) & (no_map | no_pose)[:, None], 0
        ),
    )
    no_identity = chance("identity", o.identity_drop)
    inputs = inputs.without_identity(no_identity).without_pose(no_pose).without_image(no_image)
    missing = (inputs.strength == 0).any(1)
    plain = chance("plain", o.plain_share) & (~missing | chance("plain/missing", o.plain_missing))
    no_text = chance("text", o.text_drop) | (~no_image & chance("words", IMAGE_ALONE))
    return Given(inputs, chosen_ids(batch, plain), no_text)


def _lost_parts(draws: Draws, share: float) -> Tensor:
    """bool [B, 4]: which parts' tokens a row without a map is to miss."""
    return draws.uniform("drop/parts", len(PARTS)) < share


def chosen_ids(batch: Mapping[str, Tensor], plain: Tensor) -> Tensor:
    """Token ids of each row's caption, without identity words where `plain` (bool [B])."""
    ids = batch["caption_ids"]
    return torch.where(plain.view(-1, *(1,) * (ids.ndim - 1)), batch["plain_ids"], ids)


def encode_prompts(
    base: FrozenBase, batch: Mapping[str, Tensor], given: Given, empty: TextConditions
) -> TextConditions:
    """Text conditions of the rows' prompts; `empty`: `base.empty_text(1)`, for the rows without one."""
    size = (base.fold * batch["latents"].shape[-2], base.fold * batch["latents"].shape[-1])
    text = base.encode_text(given.ids, size, batch.get("time_ids"))
    return as_float(text).where(given.no_text, empty)


def as_float(text: TextConditions) -> TextConditions:
    """float32: adapters and new UNets are, and autocast casts again where it wants."""
    added = None if text.added is None else {name: value.float() for name, value in text.added.items()}
    return TextConditions(text.states.float(), added)


def on_device(text: TextConditions, device: torch.device) -> TextConditions:
    """The same on another device."""
    added = None if text.added is None else {name: value.to(device) for name, value in text.added.items()}
    return TextConditions(text.states.to(device), added)
