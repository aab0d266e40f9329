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
from bolid.head_evaluator import HeadEvaluator

TEXT_IMAGE, ATTRIBUTES, HEAD = "text_image", "attributes", "head"  # evaluators that may be left out


def load_evaluators(folder: str, device: str) -> Evaluators:
    """The mini evaluators, with CLIP and the readers of attributes and heads where the folder has them.

    Raises ValueError where there are none.
    """
    if not all((Path(folder) / name / "config.json").is_file() for name in ("pose", "appearance")):
        raise ValueError(
            f"no evaluators in {folder!r}: train them (train/configs/mini-*evaluator.yaml) or fetch models/"
        )

    def opened(kind: Any, name: str) -> Any:
        """A network in float32; None where the folder has none of that name."""
        if not (Path(folder) / name / "config.json").is_file():
            return None
        return kind.from_pretrained(Path(folder) / name, dtype=torch.float32).to(device).eval()

    text_image = None
    if (Path(folder) / TEXT_IMAGE / "config.json").is_file():
        from bolid.training.objectives.loss_networks import load_loss_networks

        text_image = load_loss_networks(folder, [TEXT_IMAGE])[TEXT_IMAGE].to(device)
    return Evaluators(
        opened(PoseEvaluator, "pose"),
        opened(AppearanceEvaluator, "appearance"),
        text_image,
        opened(AttributeEvaluator, ATTRIBUTES),
        opened(HeadEvaluator, HEAD),
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
