"""Inputs that gradio has not as we need them: pictures left to `bolid.pictures` to read, and key-points."""

from __future__ import annotations

from typing import Any, Self

import gradio as gr
from gradio.data_classes import ImageData


class GivenFile(ImageData):
    """An uploaded file. A path or a text instead is told in words, not in pydantic's."""

    @classmethod
    def model_validate(cls, obj: Any, **rest: Any) -> Self:
        """Raises gr.Error; out of a validator it would come in pydantic's words, for it is a ValueError."""
        if not isinstance(obj, dict | ImageData):
            raise gr.Error(
                f"A picture is given as {type(obj).__name__}, for example a path; upload the file instead "
                "(with gradio_client: handle_file(path))",
                print_exception=False,
            )
        return super().model_validate(obj, **rest)


def picture_input(label: str, **rest: Any) -> gr.Image:
    """A `gr.Image` that hands over the uploaded file's path, undecoded."""
    image = gr.Image(label=label, **({"type": "filepath", "format": "png", "buttons": []} | rest))
    image.data_model = GivenFile
    image.preprocess = _path
    return image


def keypoints_input(label: str) -> gr.JSON:
    """A `gr.JSON` that says what it takes; gradio's own names no type, and MCP calls are refused."""
    points = gr.JSON(None, label=label)
    rows = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    points.api_info = lambda: rows
    return points


def _path(payload: Any) -> str | None:
    return None if payload is None else payload.path
