"""The trained models as people use them: EMA weights, fp16 safetensors, one folder a model."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from bolid.training.state import Run, averaged

EXPORT = "export"
"""The folder's name, in a run's output_dir."""
COMPANIONS = ".companions"
"""Where they lie until the export is whole."""


def export(run: Run, rows: Any, output: Path) -> Path:
    """Write the EMA weights of the objective's models, fp16 safetensors, into `output/export/<name>`, and
    those of its companions into `output/<name>`.

    An earlier export stays until the new one is whole.
    """
    partial, final = output / f".{EXPORT}", output / EXPORT
    shutil.rmtree(partial, ignore_errors=True)
    with averaged(run), torch.no_grad():
        if hasattr(run.objective, "finish"):
            run.objective.finish(rows)
        for name, model in run.objective.models.items():
            write_half(model, partial / name)
        if hasattr(run.objective, "complete"):
            run.objective.complete(partial)
        for name, model in getattr(run.objective, "companions", {}).items():
            write_half(model, partial / COMPANIONS / name)
    for file in partial.rglob("*.json"):
        _forget_path(file)
    for companion in (partial / COMPANIONS).glob("*"):
        shutil.rmtree(output / companion.name, ignore_errors=True)
        companion.rename(output / companion.name)
    shutil.rmtree(partial / COMPANIONS, ignore_errors=True)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def write_half(model: Any, folder: Path) -> None:
    """Save a model as fp16 safetensors; the model itself stays as it is."""
    halved = copy.deepcopy(model)
    for tensor in (*halved.parameters(), *halved.buffers()):
        tensor.data = tensor.data.half() if tensor.is_floating_point() else tensor.data
    halved.save_pretrained(folder)


def _forget_path(file: Path) -> None:
    """Drop the folder that a model was read from, which diffusers keeps in its config."""
    config = json.loads(file.read_text())
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
