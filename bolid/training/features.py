"""What the frozen networks say of every training row, computed once and kept on disk."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from bolid.appearance import appearance_map
from bolid.body import pack_appearance
from bolid.encoder import crop_parts, part_patches
from bolid.pose import PARTS, known
from bolid.training.components import FrozenNetworks
from bolid.training.data import Rows

BATCH = 16
"""Rows that go through the networks at once."""

VARIANTS = 2
"""Appearance maps kept per row: one of all parts, one with parts faded or absent."""


def random_strengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Part strengths [count, VARIANTS, 4] of the appearance maps.

    The first map has every part, half of the time at 1 and else at one strength of 0.7 to 1 (what people
    use). In the
    others each part is at 1 (45 %), absent (35 %) or anywhere between, and a fifth of them has one strength
    for all.
    """
    shape = (count, VARIANTS, len(PARTS))
    kind, between = rng.random(shape), rng.random(shape)
    strengths = np.where(kind < 0.45, 1.0, np.where(kind < 0.8, 0.0, between))
    alike = rng.random((count, VARIANTS, 1))
    strengths = np.where(alike < 0.2, between[..., :1], strengths)
    strengths[:, 0] = np.where(rng.random((count, 1)) < 0.5, 1.0, 1 - 0.3 * rng.random((count, 1)))
    return strengths.astype(np.float32)


@torch.no_grad()
def compute_features(
    rows: Mapping[str, np.ndarray], frozen: FrozenNetworks, seed: int, device: torch.device
) -> dict[str, np.ndarray]:
    """Features of a chunk of avatar rows (see bolid.avatars.dataset.render_arrays for the columns).

    Key-points and part masks of the reference come from the estimator, as they will when a user brings a
    picture;
    those of the target are exact. Returns float16/uint8 arrays:
    latents [N, C, h, w]; appearance [N, V, C + 1, h, w], the packed appearance maps; strengths [N, V, 4];
    part_share [N, 4, h, w] (0-255) of the target's parts; patches [N, 4, L, D], present [N, 4];
    prompt_patches [N, L, D] of the image prompt; keypoints [N, 18, 3]; caption_ids, plain_ids [N, T].
    """
    count = len(rows["image"])
    reference, image = _pictures(rows["reference"], device), _pictures(rows["image"], device)
    estimate = frozen.estimator.predict(np.asarray(rows["reference"]))
    fast = torch.autocast(device.type, torch.bfloat16)
    parts = torch.as_tensor(estimate.parts, device=device)
    targets = torch.as_tensor(known(rows["keypoints"]), device=device)
    strengths = random_strengths(count, np.random.default_rng(seed))
    maps = []
    for variant in range(VARIANTS):
        faded = appearance_map(
            reference,
            parts,
            torch.as_tensor(estimate.keypoints, device=device),
            targets,
            torch.as_tensor(strengths[:, variant], device=device),
        )
        with fast:
            coded = encode_latents(frozen.vae, faded[:, :3]).float()
        maps.append(pack_appearance(coded, faded[:, 3:]))
    crops, present = crop_parts(reference, parts, size=frozen.image_encoder.config.image_size)
    prompt = resize_whole(_pictures(rows["image_prompt"], device), frozen.image_encoder.config.image_size)
    with fast:
        latents = encode_latents(frozen.vae, image)
        patches = part_patches(frozen.image_encoder, crops)
        prompt_patches = part_patches(frozen.image_encoder, prompt)
    share = torch.stack(
        [(torch.as_tensor(rows["masks"], device=device) == p + 1).float() for p in range(len(PARTS))], 1
    )
    return {
        "latents": _half(latents),
        "appearance": _half(torch.stack(maps, 1)),
        "strengths": strengths.astype(np.float16),
        "part_share": _bytes(functional.avg_pool2d(share, 8)),
        "patches": _half(patches),
        "present": present.cpu().numpy(),
        "prompt_patches": _half(prompt_patches),
        "keypoints": targets.cpu().numpy(),
        "caption_ids": token_ids(frozen.tokenizer, list(rows["caption"])),
        "plain_ids": token_ids(frozen.tokenizer, list(rows["caption_without_identity"])),
    }


def encode_latents(vae: Any, image: Tensor) -> Tensor:
    """image [B, 3, H, W] in [-1, 1] -> scaled latents [B, C, H/8, W/8], what the UNet works on."""
    return vae.encode(image).latents * vae.config.scaling_factor


def resize_whole(image: Tensor, size: int) -> Tensor:
    """The whole picture as the vision encoder's square [B, 3, size, size] (aspect not kept: nothing is cut
    off)."""
    return functional.interpolate(image, (size, size), mode="bilinear", antialias=True)


def token_ids(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Token ids [N, T] padded to the tokenizer's length, as pipelines pad prompts."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
    return np.asarray(encoded["input_ids"], np.int64)


def _pictures(array: np.ndarray, device: torch.device) -> Tensor:
    return Rows({"p": np.asarray(array)}).batch(np.arange(len(array)), device)["p"]


def _half(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy().astype(np.float16)


def _bytes(tensor: Tensor) -> np.ndarray:
    return (tensor * 255).round().clamp(0, 255).byte().cpu().numpy()


def cached_features(
    chunks: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    frozen: FrozenNetworks,
    key: str,
    cache_dir: str | Path,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Features of all chunks, from `cache_dir` when the same rows went through the same networks before.

    Written to a temporary file and renamed, so a kill leaves no half file.
    """
    name = hashlib.sha256(f"{key}:{frozen.fingerprint()}:{VARIANTS}".encode()).hexdigest()[:16]
    file = Path(cache_dir) / f"features-{name}.npz"
    if not file.is_file():
        parts: list[dict[str, np.ndarray]] = []
        with tqdm(desc="features", unit="row") as bar:
            for chunk in chunks():
                for low in range(0, len(chunk["image"]), BATCH):
                    batch = {column: values[low : low + BATCH] for column, values in chunk.items()}
                    parts.append(compute_features(batch, frozen, seed=bar.n, device=device))
                    bar.update(len(batch["image"]))
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with open(partial, "wb") as handle:
            columns: dict[str, Any] = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
            np.savez(handle, **columns)
        os.replace(partial, file)
    with np.load(file) as stored:
        return {k: stored[k] for k in stored.files}
