"""What the page shows of the chosen picture, and in which order it shows all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

import bolid.space.views as views
from bolid.space.drawings import chosen_picture
from bolid.space.handlers import Seen
from bolid.space.settings import read_text

AS_DRAWN = "as drawn"
ORDERS = {"most like the person": "id_similarity", "best pose": "pose_accuracy"}
Pictures = Sequence[tuple[str, str | None]] | None  # of a gallery: files and captions


def shown(pictures: Pictures, chosen: int, seen: Seen | None) -> tuple[str, Any, Any]:
    """For the chosen picture: details, comparison with the reference, the file to download."""
    path = chosen_picture(pictures, chosen)
    if path is None:
        return "", gr.update(value=None, visible=False), gr.update(value=None, interactive=False)
    try:
        words = views.details(read_text(path))
    except ValueError:  # deleted after its hour
        words = views.note("The picture is no longer there.")
        return words, gr.update(value=None, visible=False), gr.update(value=None, interactive=False)
    return words, _comparison(path, seen), gr.update(value=path, interactive=True)


def _comparison(path: str, seen: Seen | None) -> Any:
    """The reference and the picture, at one size."""
    if not seen or not seen[1]:
        return gr.update(value=None, visible=False)
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    reference = Image.fromarray(seen[1][0].image).resize(picture.size, Image.Resampling.BICUBIC)
    return gr.update(value=(reference, picture), visible=True)


def ordered(drawn: Pictures, order: str) -> list[tuple[str, str | None]]:
    """The pictures as drawn, or best first by a figure in their files; unmeasured ones last."""
    pictures = list(drawn or ())
    if order not in ORDERS:
        return pictures
    return sorted(pictures, key=lambda item: _figure(item[0], ORDERS[order]), reverse=True)


def _figure(path: str, name: str) -> float:
    try:
        value = (read_text(path).get("measured") or {}).get(name)
    except ValueError:
        value = None
    return float(value) if isinstance(value, int | float) else -2.0  # below every cosine
