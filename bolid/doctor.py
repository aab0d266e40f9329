"""`python -m bolid doctor`: what is on this machine, what will be used, and how to get what is missing.

It opens no network connection, loads no model and changes nothing.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from bolid.estimators.catalogue import (
    CATALOGUE,
    Task,
    Weights,
    cached_file,
    install_command,
    missing_packages,
    present,
)
from bolid.estimators.choice import PHOTO_TASKS, automatic, best_present, mini_folder

CORE = ("torch", "diffusers", "transformers", "huggingface_hub", "accelerate", "safetensors", "datasets")
EXTRAS = {  # package -> what it is for
    "gradio": "the Space (app.py)",
    "scipy": "ViTPose key-points; Mask2Former, MaskFormer and OneFormer parts",
    "controlnet_aux": "OpenPose and DWPose key-points",
    "insightface": "face embeddings (non-commercial models)",
    "onnxruntime": "insightface's models",
    "tensorboard": "training curves",
    "peft": "LoRA, also of few-step bases",
}
BASES = (  # Hub id, GB of what the command takes
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", 5.5),
    ("stabilityai/stable-diffusion-xl-base-1.0", 14),
)
# The repositories hold the same weights in many formats; these are the ones that from_pretrained reads.
BASE_FILES = " ".join(
    f'--include "{pattern}"'
    for pattern in ("*.json", "*.txt", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors")
)


WITHOUT: Mapping[Task, str] = MappingProxyType(  # what is done where a task has no model
    {"face": "no embeddings", "vision": "the pipeline's own encoder", "caption": "a template"}
)


@dataclass(frozen=True)
class Line:
    """One finding. state: present, missing, or a fact; cure: what to run, where something can be done."""

    name: str
    state: str
    note: str = ""
    cure: str = ""


def sections() -> Iterator[tuple[str, list[Line]]]:
    """Title and findings, section by section."""
    yield "Machine", machine()
    yield "Packages", packages()
    yield "Models", [*own_models(), *(_weights_line(weights) for weights in CATALOGUE), *bases()]
    yield "What will be used", used()


def machine() -> list[Line]:
    """Python, memory for files, and the devices that torch sees."""
    import torch

    free = shutil.disk_usage(Path.cwd()).free / 1e9
    lines = [
        Line("Python", platform.python_version()),
        Line("CPU", f"{torch.get_num_threads()} threads"),
        Line("free disk here", f"{free:.0f} GB"),
    ]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            lines.append(Line(f"cuda:{index}", about.name, f"{about.total_memory / 2**30:.0f} GiB"))
    elif torch.backends.mps.is_available():
        lines.append(Line("mps", "Apple GPU"))
    else:
        lines.append(Line("GPU", "none", "bolid-mini runs on the CPU; SD 1.5 and SDXL want a GPU"))
    return lines


def packages() -> list[Line]:
    """Versions; what is missing with its installation."""
    lines = []
    for name in (*CORE, *EXTRAS):
        note, version = EXTRAS.get(name, ""), _version(name)
        if version is None:
            lines.append(Line(name, "missing", note, install_command([name])))
        else:
            lines.append(Line(name, version, note))
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def own_models() -> list[Line]:
    """bolid-mini, which comes with the repository."""
    folder = mini_folder()
    if folder is None:
        return [Line("bolid-mini", "missing", "comes with the repository", "run this in the repository")]
    return [Line("bolid-mini", "present", str(folder.parent))]


def _weights_line(weights: Weights) -> Line:
    what = f"{weights.task}: {weights.repo}, {weights.size}, {weights.licence}"
    absent = missing_packages(weights)
    if present(weights) and not absent:
        return Line(weights.name, "present", what)
    cures = ([install_command(absent)] if absent else []) + ([] if present(weights) else [weights.command])
    return Line(weights.name, "missing", what, " && ".join(cures))


def bases() -> list[Line]:
    """Public base models; whether their index is in the Hub's cache."""
    lines = []
    for repo, gigabytes in BASES:
        note = f"base, about {gigabytes:g} GB, an OpenRAIL licence"
        if cached_file(repo, "model_index.json"):
            lines.append(Line(repo, "present", note))
        else:
            lines.append(Line(repo, "missing", note, f"hf download {repo} {BASE_FILES}"))
    return lines


def used() -> list[Line]:
    """What "auto" takes for photographs, and what each other task would take."""
    choice, names = automatic()
    if choice == "photo":
        lines = [Line(task, names[task], "estimators='auto'") for task in PHOTO_TASKS]
    else:
        absent = ", ".join(task for task in PHOTO_TASKS if best_present(task) is None)
        state = "the mini estimator" if mini_folder() else "nothing"
        note = f"knows drawn avatars only; for photographs get a model for {absent} (above)"
        lines = [Line("people, keypoints, parts", state, note)]
    for task, without in WITHOUT.items():
        weights = best_present(task)
        lines.append(Line(task, weights.name if weights else without, "where asked for by name"))
    return lines


def report() -> str:
    """The whole as text."""
    blocks = []
    for title, lines in sections():
        width = max(len(line.name) for line in lines)
        state = max(len(line.state) for line in lines)
        rows = [title]
        for line in lines:
            rows.append(f"  {line.name:{width}}  {line.state:{state}}  {line.note}".rstrip())
            if line.cure:
                rows.append(f"  {'':{width}}  get it: {line.cure}")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)
