# ruff: noqa: ARG001 - all drawers have one signature
"""The rows of the table: for each, the pictures that are measured.

Everything that the pipeline makes starts from the reference's pixels; of the truth it sees only the target's
key-points (the pose that was asked for) and the prompt without identity words.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bolid.appearance import appearance_map
from bolid.evaluation.pairs import Pairs
from bolid.pose import Pose, known


@dataclass(frozen=True)
class DrawOptions:
    """How pictures are drawn. None takes the pipeline's own default."""

    steps: int | None = None
    guidance: float | None = None
    id_strength: float | None = None
    seed: int = 0  # pair i is drawn from seed + i
    batch_size: int = 16  # pairs a pipeline call; results do not depend on it


Chunk = slice
Drawer = Callable[[Any, Pairs, Chunk, DrawOptions], np.ndarray]


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


def draw_generated(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """What the model is for: reference, prompt and pose to a picture."""
    return _call(pipe, pairs, chunk, options, identities(pipe, pairs.reference[chunk]), posed=True)


def draw_other_reference(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The same with the next pair's reference: chance, for all that is of the person."""
    others = np.roll(pairs.reference, -1, axis=0)[chunk]
    return _call(pipe, pairs, chunk, options, identities(pipe, others), posed=True)


def draw_base(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """The base model from the prompt alone: no adapter, no pose."""
    return _call(pipe, pairs, chunk, options, None, posed=False)


def draw_without_pose(pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions) -> np.ndarray:
    """Reference and prompt, pose=None: tokens alone carry the person."""
    return _call(pipe, pairs, chunk, options, identities(pipe, pairs.reference[chunk]), posed=False)


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


DRAWERS: dict[str, Drawer] = {
    "truth": draw_truth,
    "reconstruction": draw_reconstruction,
    "generated": draw_generated,
    "appearance_map": draw_appearance_map,
    "base": draw_base,
    "other_reference": draw_other_reference,
    "without_pose": draw_without_pose,
    "blurred": draw_blurred,
    "recoloured": draw_recoloured,
    "swapped": draw_swapped,
}


def identities(pipe: Any, references: np.ndarray) -> list[Any]:
    """An `Identity` for each reference uint8 [N, H, W, 3]; None where it is refused (nobody found)."""
    found = []
    for picture in references:
        try:
            found.append(pipe.encode_identity(picture))
        except (
            ValueError
        ):  # the pipeline's way to say that it finds no person; such rows count as drawn without one
            found.append(None)
    return found


def _call(
    pipe: Any, pairs: Pairs, chunk: Chunk, options: DrawOptions, people: list[Any] | None, posed: bool
) -> np.ndarray:
    """One pipeline call for the rows of `chunk`; rows whose reference was refused are drawn without one."""
    rows = range(*chunk.indices(len(pairs)))
    kept = [k for k in range(len(rows)) if people is None or people[k] is not None]
    pictures = np.zeros_like(pairs.image[chunk])
    for group, with_people in (
        (kept, people is not None),
        ([k for k in range(len(rows)) if k not in kept], False),
    ):
        if not group:
            continue
        optional = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
        if options.id_strength is not None:
            optional["id_strength"] = options.id_strength
        drawn = pipe(
            [pairs.prompt[rows[k]] for k in group],
            [people[k] for k in group] if with_people and people is not None else None,
            pose=[Pose(known(pairs.keypoints[rows[k]])) for k in group] if posed else None,
            generator=[options.seed + rows[k] for k in group],
            height=pairs.size[0],
            width=pairs.size[1],
            output_type="np",
            **optional,
        ).images
        pictures[group] = np.round(np.clip(np.asarray(drawn), 0, 1) * 255).astype(np.uint8)
    return pictures


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
