# ruff: noqa: ARG001 - all drawers have one signature
"""The rows of the table: for each, the pictures that are measured.

Everything that the pipeline makes starts from the reference's pixels; of the truth it sees only the target's
key-points (the pose that was asked for) and the prompt without identity words.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bolid.appearance import appearance_map
from bolid.evaluation import probes
from bolid.evaluation.calls import Call, DrawOptions, identities
from bolid.evaluation.pairs import Pairs
from bolid.inputs import ID_STRENGTH
from bolid.pose import known

Chunk = slice
Drawer = Callable[[Any, Pairs, Chunk, DrawOptions], np.ndarray]
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_truth(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The ground truth itself: the ceiling of every figure."""
    return pairs.image[chunk]


@torch.no_grad()
def draw_reconstruction(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The truth through the autoencoder and back: the model's own ceiling."""
    vae = pipe.vae
    x = _pixels(pairs.image[chunk]).to(vae.device, vae.dtype)
    encoded = vae.encode(x)
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return _pictures(vae.decode(latents).sample)


def draw_appearance_map(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The appearance map alone, on grey, as the pipeline's estimator sees the reference: the gate to beat."""
    found = identities(pipe, pairs.reference[chunk])
    pictures = np.full_like(pairs.image[chunk], 128)
    for row, identity in enumerate(found):
        if identity is None:
            continue
        reference, target = identity.references[0].resized(*pairs.size), known(pairs.keypoints[chunk][row])
        drawn = appearance_map(
            _pixels(reference.image[None]),
            torch.from_numpy(reference.parts[None].copy()),
            torch.from_numpy(reference.keypoints[None].copy()),
            torch.from_numpy(target[None]),
        )
        pictures[row] = _pictures(drawn[:, :3])[0]
    return pictures


def draw_blurred(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The truth blurred by two pixels: evaluators should still read it, and FID-mini should see it."""
    return np.stack([cv2.GaussianBlur(picture, (0, 0), 2.0) for picture in pairs.image[chunk]])


def draw_recoloured(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The truth with its person's channels exchanged: right pose and scene, wrong colours."""
    person = pairs.masks[chunk][..., None] > 0
    return np.where(person, np.roll(pairs.image[chunk], 1, axis=-1), pairs.image[chunk])


def draw_swapped(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The next pair's truth: another person in another pose and scene."""
    return np.roll(pairs.image, -1, axis=0)[chunk]


def draw_reposed(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The truth's person and scene in the reference's pose: only the pose is wrong."""
    return np.stack([probes.reposed(int(seed), pairs.avatars, *pairs.size) for seed in pairs.seed[chunk]])


def draw_redressed(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The truth in the clothes that `clothes_in_prompt` asks for: the ceiling of its figures."""
    asked = zip(pairs.seed[chunk], pairs.clothes[chunk], strict=True)
    return np.stack([probes.redressed(int(seed), pairs.avatars, worn, *pairs.size) for seed, worn in asked])


DRAWERS: dict[str, Drawer] = {
    "truth": draw_truth,
    "reconstruction": draw_reconstruction,
    "generated": Call(),
    "without_pose": Call(pose=None),  # as the pipeline does without one
    "tokens_alone": Call(pose=None, further={"appearance_strength": 0.0}),  # no pixel of the reference
    "appearance_map": draw_appearance_map,
    "base": Call(person=None, pose=None),  # no adapter, no pose
    "other_reference": Call(person="next"),  # chance, for all that is of the person
    "without_details": Call(further={"detail_strength": 0.0}),  # latents alone, no DetailNet
    "pose_from_picture": Call(pose="picture"),
    "own_pose_fitted": Call(further={"retarget": True}),
    "another_pose": Call(pose="another", further={"retarget": True}),
    "another_pose_as_given": Call(pose="another", further={"retarget": False}),
    "no_scene_word": Call(prompt="prompt_without_scene"),
    "image_prompt": Call(prompt="prompt_without_scene", image_prompt=True),
    "image_prompt_full": Call(
        prompt="prompt_without_scene", image_prompt=True, further={"image_prompt_strength": 1.0}
    ),
    "clothes_in_prompt": Call(
        prompt="prompt_with_clothes", further={"id_strength": {"upper": 0, "lower": 0}}
    ),
    "redressed": draw_redressed,
    **{f"strength_{value:g}": Call(further={"id_strength": value}) for value in STRENGTHS},
    "blurred": draw_blurred,
    "recoloured": draw_recoloured,
    "swapped": draw_swapped,
    "reposed": draw_reposed,
}


def same_pictures(name: str, options: DrawOptions) -> str:
    """The first of `DRAWERS` that draws what row `name` draws: a sweep's point at the call's own strength is
    the row of that call.
    """
    usual = ID_STRENGTH if options.id_strength is None else options.id_strength

    def asked(drawer: Drawer) -> Drawer:
        if not isinstance(drawer, Call) or drawer.further.get("id_strength") != usual:
            return drawer
        further = {key: value for key, value in drawer.further.items() if key != "id_strength"}
        return replace(drawer, further=further)

    return next(row for row, drawer in DRAWERS.items() if asked(drawer) == asked(DRAWERS[name]))


def draw_row(
    name: str, pipe: Any, pairs: Pairs, options: DrawOptions, folder: Path
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, pictures uint8 [n, H, W, 3]) of a row, chunk by chunk; `folder` keeps what is drawn.

    Raises ValueError for an unknown row.
    """
    if name not in DRAWERS:
        raise ValueError(f"unknown row {name!r}: one of {', '.join(DRAWERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(pairs), options.batch_size):
        stop = min(start + options.batch_size, len(pairs))
        path = folder / f"{start:05d}-{stop:05d}.npy"
        if not path.exists():
            _save(path, DRAWERS[name](pipe, pairs, slice(start, stop), options))
        yield start, np.load(path)


def _save(path: Path, pictures: np.ndarray) -> None:
    """Write whole or not at all: a stopped run leaves no half file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.save(file, pictures)
    os.replace(temporary, path)


def _pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _pictures(x: torch.Tensor) -> np.ndarray:
    """float [N, 3, H, W] in [-1, 1] -> uint8 [N, H, W, 3]."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
