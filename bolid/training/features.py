"""What the frozen networks say of training rows: latents, identity patches, appearance maps, token ids.

Two ways to the same columns: kept on disk once (`bolid.training.feature_store`), or computed in the step
(`in_step`), where augmentation makes every epoch another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bolid.appearance import appearance_map
from bolid.body import pack_appearance
from bolid.pose import PARTS, known
from bolid.training.augmentation import Augment, augment
from bolid.training.bases import FrozenBase
from bolid.training.draws import Draws
from bolid.training.precision import fast

VARIANTS = 2
"""Appearance maps kept per row: one of all parts, one with parts faded or absent."""

PICTURES = ("image", "reference", "image_prompt")
PASSED = ("time_ids", "face_embedding", "face_seen", "caption_ids", "plain_ids")
"""Columns that go through as they are, where a row has them."""

HEAD, HEAD_AND_FEET = (1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 1.0)  # strengths in the order of PARTS
SPREAD = 0.1  # of the blur that fills a person's place in a picture without an image prompt, of the height


def random_strengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Part strengths [count, VARIANTS, 4] of the appearance maps.

    The first map has every part, half of the time at 1 and else at one strength of 0.7 to 1 (what people
    use). In the others each part is at 1 (45 %), absent (35 %) or anywhere between; a fifth of them has one
    strength for all, and a quarter the head alone, or head and feet: their clothes are the words' business.
    """
    shape = (count, VARIANTS, len(PARTS))
    kind, between = rng.random(shape), rng.random(shape)
    strengths = np.where(kind < 0.45, 1.0, np.where(kind < 0.8, 0.0, between))
    alike = rng.random((count, VARIANTS, 1))
    strengths = np.where(alike < 0.2, between[..., :1], strengths)
    undressed = np.where(rng.random((count, VARIANTS, 1)) < 0.5, HEAD, HEAD_AND_FEET)
    strengths = np.where(alike > 0.75, undressed, strengths)
    strengths[:, 0] = np.where(rng.random((count, 1)) < 0.5, 1.0, 1 - 0.3 * rng.random((count, 1)))
    return strengths.astype(np.float32)


def raw_tensors(rows: Mapping[str, Any], base: FrozenBase) -> dict[str, Tensor]:
    """A chunk of rows as tensors, captions as token ids; pictures stay uint8 [B, H, W, 3].

    rows: arrays as of `bolid.avatars.dataset.render_arrays` or `bolid.training.table.TableRows.read`, and
    where some parts of a reference are not the target's, `shared_parts` bool [B, 4].
    """
    names = (*PICTURES, "masks", "keypoints", "reference_masks", "reference_keypoints", *PASSED)
    names = (*names, "own_reference", "has_prompt", "shared_parts")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(rows[name])) for name in names if name in rows}
    count = len(rows["image"])
    tensors.setdefault("own_reference", torch.zeros(count, dtype=torch.bool))
    tensors.setdefault("has_prompt", torch.full((count,), "image_prompt" in rows))
    tensors["caption_ids"] = torch.from_numpy(base.token_ids(list(rows["caption"])))
    tensors["plain_ids"] = torch.from_numpy(base.token_ids(list(rows["caption_without_identity"])))
    if not base.is_xl:
        tensors.pop("time_ids", None)
    return tensors


@torch.no_grad()
def condition_columns(
    raw: Mapping[str, Tensor], base: FrozenBase, strengths: Tensor, estimate: bool
) -> dict[str, Tensor]:
    """The feature columns of raw rows, on their device.

    raw: `raw_tensors`, pictures already [B, 3, H, W] in [-1, 1]; strengths: [B, VARIANTS, 4]; estimate: read
    the reference's key-points and parts by the base's estimator, as when a user brings a picture (for rows
    that know them exactly); else the rows' own are used, which are estimates already.

    Returns: latents [B, C, h, w]; appearance [B, V, C + 1, h, w], the packed appearance maps; strengths [B,
    V, 4]; part_share uint8 [B, 4, h, w] (0-255) of the target's parts; patches [B, 4, L, D], present [B,
    4], or as `base.look` says; prompt_patches [B, L, D] of the image prompt; keypoints [B, 18, 3]; and what
    of PASSED there is.
    """
    image, reference = raw["image"], raw["reference"]
    device = image.device
    targets = torch.as_tensor(known(raw["keypoints"].cpu().numpy()), device=device)
    parts, points = raw["reference_masks"], raw["reference_keypoints"]
    if estimate:
        pictures = ((reference + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        found = base.require("estimator").predict(pictures)
        parts, points = (torch.as_tensor(each, device=device) for each in (found.parts, found.keypoints))
    else:
        points = torch.as_tensor(known(points.cpu().numpy()), device=device)
    size = base.require("image_encoder").config.image_size
    crops, present = base.look.crops(reference, parts, size)
    prompt = resize_whole(_prompts(raw), size)
    overflows = getattr(base.vae.config, "force_upcast", False)  # in half precision
    vision, pixels = fast(device), fast(device, not overflows)
    maps = []
    for variant in range(strengths.shape[1]):
        faded = appearance_map(reference, parts, points, targets, strengths[:, variant])
        with pixels:
            coded = base.latents(faded[:, :3])
        maps.append(pack_appearance(coded.float(), faded[:, 3:]))
    with pixels:
        latents = base.latents(image)
    with vision:
        patches, prompt_patches = base.see(crops), base.patches(prompt)
    share = torch.stack([(raw["masks"] == part + 1).float() for part in range(len(PARTS))], 1)
    return {
        "latents": latents,
        "appearance": torch.stack(maps, 1),
        "strengths": strengths,
        "part_share": (functional.avg_pool2d(share, base.fold) * 255).round().byte(),
        "patches": patches.float(),
        "present": present,
        "prompt_patches": prompt_patches.float(),
        "keypoints": targets,
        **{name: raw[name] for name in PASSED if name in raw},
    }


def _prompts(raw: Mapping[str, Tensor]) -> Tensor:
    """Image prompts [B, 3, H, W]; where a row has none, its picture with the person blurred out of it."""
    image, masks = raw["image"], raw["masks"]
    given = raw["has_prompt"].view(-1, 1, 1, 1)
    if "image_prompt" in raw and bool(given.all()):
        return raw["image_prompt"]
    reach = max(1, round(SPREAD * image.shape[-2] / 2)) * 2 + 1
    person = functional.max_pool2d((masks > 0).float()[:, None], 5, 1, 2)  # the outline belongs to it
    ground = 1 - person
    filled, weight = image * ground, ground
    for _ in range(3):  # a box blur thrice is nearly a Gaussian
        filled, weight = (
            functional.avg_pool2d(x, reach, 1, reach // 2, count_include_pad=False) for x in (filled, weight)
        )
    mean = (image * ground).sum((2, 3), keepdim=True) / ground.sum((2, 3), keepdim=True).clamp_min(1)
    blurred = torch.where(weight > 1e-3, filled / weight.clamp_min(1e-3), mean)
    without = torch.where(person > 0, blurred, image)
    return torch.where(given, raw["image_prompt"], without) if "image_prompt" in raw else without


def _pictures(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with pictures as float [B, 3, H, W] in [-1, 1]."""
    return {
        name: value.permute(0, 3, 1, 2).float() / 127.5 - 1 if name in PICTURES else value
        for name, value in raw.items()
    }


def in_step(
    batch: dict[str, Tensor],
    base: FrozenBase,
    draws: Draws,
    augmentation: Augment = "own",
    estimate: bool = False,
    faded_share: float | None = None,
) -> dict[str, Tensor]:
    """Features of a raw batch (`raw_tensors`, on the base's device); a batch that has them comes back as it
    is.

    Strengths and augmentation are drawn from `draws`: another epoch sees other ones. With `faded_share` each
    row gets but the one appearance map that `conditions.draw_conditions` would choose by that share: V is 1.
    """
    if "latents" in batch:
        return batch
    raw = augment(_pictures(batch), draws, augmentation)
    seeds = draws.integers("feature strengths", 2**62).tolist()
    strengths = np.concatenate([random_strengths(1, np.random.default_rng(seed)) for seed in seeds])
    if faded_share is not None:
        faded = (draws.uniform("drop/faded") < faded_share).long().cpu().numpy()
        strengths = strengths[np.arange(len(faded)), faded][:, None]
    if "shared_parts" in raw:  # the others would tell what the target does not wear
        strengths = strengths * raw["shared_parts"].cpu().numpy()[:, None]
    return condition_columns(raw, base, torch.as_tensor(strengths, device=raw["image"].device), estimate)


def compute_features(
    rows: Mapping[str, Any],
    base: FrozenBase,
    seed: int,
    device: torch.device,
    *,
    numbers: np.ndarray | None = None,
    augmentation: Augment = "own",
    estimate: bool = True,
) -> dict[str, np.ndarray]:
    """Features of a chunk of rows, to be kept: the columns of `condition_columns`, float16, uint8 and int64.

    numbers: [N] numbers of the rows in their dataset, which key strengths and augmentation together with
    `seed`; None counts from 0.
    """
    numbers = np.arange(len(rows["image"])) if numbers is None else np.asarray(numbers)
    draws = Draws(seed, 0, numbers, int(numbers.max()) + 1, device)
    raw = {name: value.to(device) for name, value in raw_tensors(rows, base).items()}
    columns = in_step(raw, base, draws, augmentation, estimate)
    return {name: _stored(name, value) for name, value in columns.items()}


def _stored(name: str, value: Tensor) -> np.ndarray:
    whole = name in ("keypoints", "time_ids", "face_embedding")
    if value.is_floating_point():
        return value.float().cpu().numpy().astype(np.float32 if whole else np.float16)
    return value.cpu().numpy()


def resize_whole(image: Tensor, size: int) -> Tensor:
    """The whole picture as the vision encoder's square [B, 3, size, size] (aspect not kept: nothing is cut
    off)."""
    return functional.interpolate(image, (size, size), mode="bilinear", antialias=True)


def token_ids(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Token ids [N, T] padded to the tokenizer's length, as pipelines pad prompts."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return np.asarray(encoded["input_ids"], np.int64)
