"""The programs of train/ and eval/ as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def open_script(place: str) -> ModuleType:
    """For example "train/ablation"; its main() is not run."""
    spec = importlib.util.spec_from_file_location(place.replace("/", "_"), ROOT / f"{place}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
