"""Official files: read safely, recognised by their keys, refused with the reason."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .records import METHODS, Method

PREFIXES = {  # family → prefix of projector and attention weights, names of a layer's keys and values
    "ip-adapter": ("image_proj.", "ip_adapter.", "to_k_ip", "to_v_ip"),
    "pulid": ("id_adapter.", "id_adapter_attn_layers.", "id_to_k", "id_to_v"),
}
FACE_DIM = 512  # of ArcFace embeddings; a resampler that takes 512 channels is InstantID's (CLIP has 768 up)


@dataclass(frozen=True)
class Parts:
    """A file's weights: the projector's by name, the attention's by position and name.

    Args:
        method: whose they are.
        projector: `proj_in.weight`, ...
        attention: `1.to_k_ip.weight`, `0.to_q_lora.down.weight`, ...
        names: names of a layer's keys and values there.
    """

    method: Method
    projector: dict[str, Tensor]
    attention: dict[str, Tensor]
    names: tuple[str, str]


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a .safetensors or .bin file under flat names, on the CPU.

    A .bin is unpickled with `weights_only=True`: nothing in it can run.

    Raises:
        ValueError: if the file is missing or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {str(path)!r}: give the path of a downloaded checkpoint.")
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path.name} is no file of plain tensors and was not opened further: "
            "take the .safetensors version, or download it again."
        ) from error
    return _flat(content, path.name)


def _flat(content: Any, name: str) -> dict[str, Tensor]:
    """One level of nesting becomes a prefix: {"image_proj": {"norm.bias": …}} → "image_proj.norm.bias"."""
    flat: dict[str, Any] = {}
    for key, value in content.items() if isinstance(content, Mapping) else [("", content)]:
        inner = {f"{key}.{n}": v for n, v in value.items()} if isinstance(value, Mapping) else {key: value}
        flat.update(inner)
    if strange := [key for key, value in flat.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{name} holds {strange[0]!r}, which is no tensor: it is no adapter checkpoint.")
    return flat


def split_checkpoint(state: Mapping[str, Tensor], method: str | None = None, file_name: str = "") -> Parts:
    """Sorts a file's weights and says whose they are.

    Args:
        method: a name of METHODS; None recognises it by the keys, and FaceID-Plus's version by the file name.

    Raises:
        ValueError: if the layout is unknown, another method's, or has keys that belong nowhere.
    """
    candidates = _candidates(state)
    if method is None:
        method = _one(candidates, file_name)
    if method not in candidates:
        raise ValueError(
            f"The file has the layout of {' or '.join(candidates)}, not of {method!r}: "
            f"leave the method out, or give one of {', '.join(METHODS)} that fits."
        )
    family = "pulid" if method.startswith("pulid") else "ip-adapter"
    first, second, key, value = PREFIXES[family]
    projector = {name.removeprefix(first): t for name, t in state.items() if name.startswith(first)}
    attention = {name.removeprefix(second): t for name, t in state.items() if name.startswith(second)}
    if len(projector) + len(attention) != len(state):
        strange = next(name for name in state if not name.startswith((first, second)))
        raise ValueError(
            f"The file has {strange!r} beside {first}* and {second}*: it is no file of {method}."
        )
    return Parts(METHODS[method], projector, attention, (key, value))


def _candidates(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Methods with this layout; more than one where keys cannot tell."""
    if any(name.startswith("pulid_") for name in state):
        raise ValueError("This is PuLID for FLUX: BoLID works with SD 1.5 and SDXL, take pulid_v1.1.")
    signs = (
        ("image_proj.proj.weight", ("ip-adapter",)),
        ("image_proj.proj.3.weight", ("ip-adapter-full",)),
        (
            "image_proj.perceiver_resampler.proj_in.weight",
            ("ip-adapter-faceid-plus", "ip-adapter-faceid-plusv2"),
        ),
        ("image_proj.norm.weight", ("ip-adapter-faceid",)),
        ("id_adapter.body.0.weight", ("pulid-v1",)),
        ("id_adapter.latents", ("pulid-v1.1",)),
    )
    for sign, methods in signs:
        if sign in state:
            return methods
    if "image_proj.latents" in state and "image_proj.proj_in.weight" in state:
        face = state["image_proj.proj_in.weight"].shape[-1] == FACE_DIM
        return ("instantid",) if face else ("ip-adapter-plus",)
    raise ValueError(
        f"The keys are of no known checkpoint ({', '.join(sorted(state)[:3])}, …): BoLID reads "
        f"{', '.join(METHODS)}."
    )


def _one(candidates: tuple[str, ...], file_name: str) -> str:
    """The only candidate; of FaceID-Plus's two versions the one that the file is named after."""
    if len(candidates) == 1:
        return candidates[0]
    if "plusv2" in file_name:
        return candidates[1]
    if "faceid-plus_" in file_name:
        return candidates[0]
    raise ValueError(
        "FaceID-Plus versions 1 and 2 have the same keys and mean different tokens: say which, "
        f"method={candidates[0]!r} or method={candidates[1]!r}."
    )
