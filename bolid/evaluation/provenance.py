"""Which networks measured, which weights were measured, and whose output folder it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bolid.attribute_evaluator import AttributeEvaluator
from bolid.evaluation.networks import Evaluators
from bolid.evaluators import AppearanceEvaluator, PoseEvaluator

TEXT_IMAGE, ATTRIBUTES = "text_image", "attributes"  # folders of the evaluators that may be left out


def load_evaluators(folder: str, device: str) -> Evaluators:
    """The mini evaluators, with their CLIP and their reader of attributes where the folder has one.

    Raises ValueError where there are none.
    """
    if not all((Path(folder) / name / "config.json").is_file() for name in ("pose", "appearance")):
        raise ValueError(
            f"no evaluators in {folder!r}: train them (train/configs/mini-*evaluator.yaml) or fetch models/"
        )
    pose = PoseEvaluator.from_pretrained(Path(folder) / "pose", dtype=torch.float32)
    appearance = AppearanceEvaluator.from_pretrained(Path(folder) / "appearance", dtype=torch.float32)
    text_image = None
    if (Path(folder) / TEXT_IMAGE / "config.json").is_file():
        from bolid.training.objectives.loss_networks import load_loss_networks

        text_image = load_loss_networks(folder, [TEXT_IMAGE])[TEXT_IMAGE].to(device)
    attributes: Any = None
    if (Path(folder) / ATTRIBUTES / "config.json").is_file():
        attributes = AttributeEvaluator.from_pretrained(Path(folder) / ATTRIBUTES, dtype=torch.float32)
        attributes = attributes.to(device).eval()
    return Evaluators(
        pose.to(device).eval(),  # pyright: ignore[reportArgumentType]
        appearance.to(device).eval(),  # pyright: ignore[reportArgumentType]
        text_image,
        attributes,
        {path.name: weights_hash(str(path)) for path in sorted(Path(folder).iterdir()) if path.is_dir()},
    )


def weights_hash(source: str) -> str:
    """Twelve hex digits over every weight and config file of a folder; a Hub repository's name."""
    folder = Path(source)
    if not folder.is_dir():
        return source
    kept = (".safetensors", ".json", ".txt")
    return files_hash(folder, sorted(path for path in folder.rglob("*") if path.suffix in kept))


def files_hash(folder: Path, files: Iterable[Path]) -> str:
    """Twelve hex digits over names and contents of files of a folder."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Make the output folder this run's own. Raises ValueError when it keeps results of other settings."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "settings.json"
    if path.exists():
        old = json.loads(path.read_text())
        changed = [f"{k}: {old.get(k)} then, {v} now" for k, v in settings.items() if old.get(k) != v]
        if changed:
            raise ValueError(
                f"{output} keeps pictures of other settings ({'; '.join(changed)}): take another --output"
            )
    path.write_text(json.dumps(settings, indent=1))
