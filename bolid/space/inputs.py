"""A picture input that leaves reading to `bolid.pictures`: its sentences say what is wrong and what to do."""

from __future__ import annotations

from typing import Any

import gradio as gr


def picture_input(label: str, **rest: Any) -> gr.Image:
    """A `gr.Image` that hands over the uploaded file's path, undecoded."""
    image = gr.Image(label=label, **({"type": "filepath", "format": "png", "buttons": []} | rest))
    image.preprocess = _path
    return image


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path
