"""The draggable skeleton: a `gr.HTML` whose value is a pose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from bolid.pose import COLOURS, LIMBS, MIRROR, Pose

JOINT_WORDS = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow",
    "left wrist", "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle",
    "right eye", "left eye", "right ear", "left ear",
)  # fmt: skip

TEMPLATE = """
<div class="title" aria-hidden="true">Drag the joints</div>
<svg viewBox="0 0 ${canvas_width} ${canvas_height}" role="group"
     aria-label="skeleton editor: drag a joint, or move it with the arrow keys"></svg>
<div class="tools">
  <button type="button" data-do="mirror">Mirror</button>
  <button type="button" data-do="undo">Undo</button>
  <button type="button" data-do="reset">Reset</button>
  <button type="button" data-do="behind" title="key H">Behind / seen</button>
  <button type="button" data-do="hide" title="key Delete">Remove joint</button>
  <select class="missing" aria-label="add a joint"></select>
</div>
<div class="said" role="status" aria-live="polite"></div>
"""

CSS = """
.title { height: 30px; line-height: var(--line-sm); font-size: var(--block-label-text-size);
  font-weight: 600; color: var(--block-label-text-color); }
svg { width: 100%; background: #000; border-radius: 8px; display: block;
  user-select: none; }
.joint { cursor: grab; outline: none; }
.joint:focus .dot, .joint.chosen .dot { stroke: #fff; stroke-width: 3; }
.tools { display: flex; flex-wrap: wrap; gap: 4px; margin-top: 6px; }
.tools button, .tools select { flex: 1 1 auto; min-height: 36px; padding: 3px 7px; border-radius: 6px;
  font-size: 13px;
  border: 1px solid var(--border-color-primary); background: var(--button-secondary-background-fill);
  color: var(--button-secondary-text-color); cursor: pointer; max-width: 100%; }
.tools button:disabled, .tools select:disabled { opacity: .45; cursor: default; }
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""


def pose_editor(value: dict[str, Any] | None, width: int, height: int, **rest: Any) -> gr.HTML:
    """A skeleton with movable joints, on a canvas of width x height units.

    Value: {"keypoints": 18 rows x, y, confidence, "name": str | None}, or None for no pose. The name is lost
    as soon as a joint is moved. A user's change is an `input` event.
    (A function: for a subclass, gradio writes a .pyi file into the source folder at import.)
    """
    return gr.HTML(
        value,
        html_template=TEMPLATE,
        css_template=CSS,
        js_on_load=(Path(__file__).parent / "editor.js").read_text(),
        canvas_width=width,
        canvas_height=height,
        limbs=[list(limb) for limb in LIMBS],
        colors=[f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in COLOURS],
        mirror=list(MIRROR),
        names=list(JOINT_WORDS),
        padding=False,
        **rest,
    )


def editor_value(points: np.ndarray | None, name: str | None = None) -> dict[str, Any] | None:
    """Key-points [18, 3] as the editor takes them."""
    if points is None:
        return None
    rows = [[round(float(value), 4) for value in row] for row in points]
    return {"keypoints": rows, "name": name}


def editor_pose(value: Any) -> dict[str, Any] | None:
    """The editor's value -> {"keypoints": float32 [18, 3], "name"}; None, which gradio sends as "", -> None.

    Raises ValueError for anything else.
    """
    if value is None or value == "":
        return None
    try:
        pose = Pose(np.asarray(value["keypoints"], np.float32))
    except (TypeError, KeyError, IndexError) as error:
        raise ValueError("the skeleton is damaged; choose a pose again") from error
    if (pose.keypoints[:, 2] > 0).sum() < 1:
        raise ValueError("the skeleton has no joints left; add some, or choose the free pose")
    name = value.get("name")
    return {"keypoints": pose.keypoints, "name": name if isinstance(name, str) else None}
