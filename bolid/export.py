"""The tokens of one picture as a file for stock tools: `python -m bolid export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

FORMATS = ("ip-adapter-plus",)
Group = Literal["identity", "image"]


def export(pipe: Any, path: str | os.PathLike[str], group: Group = "identity") -> Path:
    """Write a pipeline's person ("identity") or image-prompt ("image") tokens in IP-Adapter Plus layout.

    The file opens with `load_ip_adapter` of diffusers and with loaders of that layout (ComfyUI's IP-Adapter
    nodes). It is written whole or not at all. It holds tokens only: pose and appearance map stay behind. An
    adapter that knows parts is written in the one form that the layout can hold, all parts' queries over the
    whole person, `encode_identity(reference, whole=True)`; what that costs is to be measured.

    Raises ValueError for a pipeline without an adapter, a file of another ending, or what the layout cannot
    hold.
    """
    from bolid.baselines.export import export_ip_adapter_plus

    target = Path(path)
    if target.suffix != ".safetensors":
        raise ValueError(f"--output is {target.name!r}; the file must end in .safetensors")
    if not target.parent.is_dir():
        raise ValueError(f"the folder {str(target.parent)!r} does not exist; make it first")
    if getattr(pipe, "adapter", None) is None:
        raise ValueError("the model has no adapter, so there are no tokens to write; give a BoLID model")
    export_ip_adapter_plus(pipe.adapter, target, group)
    return target
