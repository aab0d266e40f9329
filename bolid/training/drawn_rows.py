"""Rows of what a trained pipeline draws, for a network that mends it: picture, appearance map and truth.

Drawn once and kept on disk (`feature_store`), as people call the pipeline: key-points and parts of the
reference by its estimator, default steps and guidance, strengths as people choose them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.pipeline import BoLIDPipeline
from bolid.pose import PARTS, Pose, known
from bolid.reference import Reference
from bolid.request import Asked, make_request
from bolid.training.config import DataConfig
from bolid.training.feature_store import CODE, KeptRows, RawRows, code_fingerprint

MADE_BY = (
    *CODE,
    "adapter.py",
    "attention.py",
    "autoencoder.py",
    "conditioning.py",
    "estimator.py",
    "garments.py",
    "inputs.py",
    "pipeline.py",
    "plan.py",
    "request.py",
    "training/drawn_rows.py",
)
NAMED = 0.3  # share of the prompts that name hair and clothes too
USUAL = (0.8, 1.0)  # strengths that most calls have
ALIKE = 0.55  # share of calls at one of USUAL; then LESS of them at another one for all parts
LESS = 0.3
LEAST = 0.25


class DrawnRows(KeptRows):
    """Columns drawn, image, rgb, skeleton uint8 [H, W, 3], coverage uint8 [H, W, 1], masks uint8 [H, W],
    keypoints float32 [18, 3], words float16 [L, C].

    `drawn` is what the pipeline made, `image`, `masks` and `keypoints` are the truth's; `rgb` (-1 to 1) and
    `coverage` (0 to 1) are the faded appearance map, `skeleton` (-1 to 1) is its pose's map, `words` the
    embeddings of the prompt.

    Args:
        rows: of avatars; with `shared_parts`, the other parts are drawn at strength 0.
        source: folder or Hub id of the pipeline; its own `detail` is left out.
        fingerprint: of its weights (`pipeline_fingerprint`).
    """

    def __init__(self, rows: RawRows, source: str, fingerprint: str, data: DataConfig) -> None:
        made_by = [rows.fingerprint, fingerprint, code_fingerprint(patterns=MADE_BY)]
        key = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]
        opened: list[Any] = []

        def compute(numbers: np.ndarray) -> dict[str, np.ndarray]:
            if not opened:
                pipe = BoLIDPipeline.from_pretrained(source, detail=None)
                pipe.set_progress_bar_config(disable=True)
                opened.append(pipe.to("cuda" if torch.cuda.is_available() else "cpu"))
            return draw(opened[0], rows.read(numbers), int(numbers[0]))

        folder = Path(data.cache_dir) / f"drawn-{key}"
        super().__init__(folder, len(rows), compute, f"{rows.fingerprint}-{fingerprint}", data.memory)


def draw(pipe: Any, cells: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """The columns of `DrawnRows` for some rows, which share a call and its strengths; row i is drawn from
    seed + i."""
    rng = np.random.default_rng([seed, 0xD7A])
    strength, count = drawn_strengths(rng), len(cells["image"])
    named = rng.random(count) < NAMED
    if "shared_parts" in cells:  # the others would tell what the target does not wear, and words alone may
        strength, named = strength * cells["shared_parts"].all(0), np.ones(count, bool)
    captions = zip(named, cells["caption"], cells["caption_without_identity"], strict=True)
    size = cells["image"].shape[1:3]
    call = {
        "prompt": [caption if tells else plain for tells, caption, plain in captions],
        "reference": [_identity(pipe, cells, row) for row in range(count)],
        "pose": [Pose(known(points)) for points in cells["keypoints"]],
        "id_strength": dict(zip(PARTS, strength.tolist(), strict=True)),
        "height": size[0],
        "width": size[1],
    }
    pictures = pipe(**call, generator=[seed + row for row in range(count)], output_type="np").images
    asked = Asked(
        **call, embeds=None, image_prompt=None, image_strength=0.0, pose_strength=1.0, retarget=None
    )
    words = pipe.text_states(call["prompt"], {}, range(count))
    plan = pipe.plan(make_request(asked, size, pipe.vae_scale_factor), words)
    maps, skeletons = (each.permute(0, 2, 3, 1).numpy() for each in (plan.maps, plan.skeletons))
    return {
        "drawn": np.round(pictures * 255).astype(np.uint8),
        "rgb": np.round((maps[..., :3] + 1) * 127.5).astype(np.uint8),
        "coverage": np.round(maps[..., 3:] * 255).astype(np.uint8),
        "skeleton": np.round(skeletons * 255).astype(np.uint8),
        "words": torch.cat(words).float().cpu().numpy().astype(np.float16),
        **{name: cells[name] for name in ("image", "masks", "keypoints")},
    }


def pipeline_fingerprint(source: str) -> str:
    """A hash of all that a pipeline's folder draws with where a pose is given, but for `detail`; a Hub id's
    name.
    """
    from bolid.evaluation.provenance import files_hash
    from bolid.training.objectives.export import pipeline_defaults

    root = Path(source)
    if not root.is_dir():
        return source
    files = [path for path in sorted(root.glob("*/*")) if path.suffix in (".safetensors", ".json", ".txt")]
    own = files_hash(root, [path for path in files if path.parent.name not in ("detail", "layout")])
    return hashlib.sha256(f"{own} {pipeline_defaults(source)}".encode()).hexdigest()[:12]


def drawn_strengths(rng: np.random.Generator) -> np.ndarray:
    """Part strengths [4] of a call: mostly one of USUAL, some alike between LEAST and 1, and of the rest each
    part absent, whole or between."""
    kind = rng.random()
    if kind < ALIKE:
        return np.full(len(PARTS), rng.choice(USUAL))
    if kind < ALIKE + LESS:
        return np.full(len(PARTS), rng.uniform(LEAST, 1))
    return np.clip(rng.uniform(-0.5, 1.5, len(PARTS)), 0, 1)


def _identity(pipe: Any, cells: dict[str, Any], row: int) -> Any:
    """The person of a row's reference; where the estimator finds nobody, as the row itself says."""
    try:
        return pipe.encode_identity(cells["reference"][row])
    except ValueError:
        names = ("reference", "reference_keypoints", "reference_masks")
        return pipe.encode_identity(Reference(*(cells[name][row] for name in names)))
