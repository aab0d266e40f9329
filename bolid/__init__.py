"""BoLID, Body-Lightning ID Diffusion: pictures of one person in any pose, from one reference picture.

    from bolid import BoLIDPipeline
    pipe = BoLIDPipeline.from_pretrained("models/bolid-mini")
    picture = pipe("standing on a beach", "reference.png", pose="sitting", generator=7).images[0]

The names are imported when they are first used, so that `import bolid` and `python -m bolid --help` cost
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bolid.identity import Identity
    from bolid.pipeline import BoLIDPipeline
    from bolid.pipeline_xl import BoLIDXLPipeline
    from bolid.pose import Pose
    from bolid.reference import Reference

__version__ = "0.1.0"
__all__ = ["BoLIDPipeline", "BoLIDXLPipeline", "Identity", "Pose", "Reference"]


def __getattr__(name: str) -> Any:
    homes = {
        "BoLIDPipeline": "bolid.pipeline",
        "BoLIDXLPipeline": "bolid.pipeline_xl",
        "Identity": "bolid.identity",
        "Pose": "bolid.pose",
        "Reference": "bolid.reference",
    }
    if name not in homes:
        raise AttributeError(f"module 'bolid' has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
