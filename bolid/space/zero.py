"""ZeroGPU: a Space's shared accelerator, lent for the time of one call (package `spaces`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LENT = 60  # seconds that one call may take at most


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as ZeroGPU wants it; everywhere else, and without the package, the function itself."""
    try:
        import spaces  # pyright: ignore[reportMissingImports]
    except ImportError:
        return function
    return spaces.GPU(duration=LENT)(function)
