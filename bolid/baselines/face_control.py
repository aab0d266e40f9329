"""InstantID's IdentityNet: an ordinary ControlNet that listens to the face tokens instead of the text.

instantid, net = load_baseline("ip-adapter.bin", pipe.unet), ControlNetModel.from_pretrained(...)
tokens = torch.cat([instantid.negative(features), instantid.tokens(features)])
instantid.attach(pipe.unet)
controlled = StableDiffusionXLControlNetPipeline(**pipe.components, controlnet=listening_to(net, tokens))
points = draw_face_points(face.points, height, width)
controlled(prompt, image=Image.fromarray(points), controlnet_conditioning_scale=0.8,
           cross_attention_kwargs=instantid.conditions(tokens).kwargs())
"""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
from diffusers import ControlNetModel
from torch import Tensor

# Of the left and right eye, the nose, the left and right corner of the mouth (as seen in the picture), RGB.
POINT_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
NOSE = 2  # every other point is joined to it
LINE_PX, DOT_PX = 4, 10  # half a line's width, a dot's radius: IdentityNet learned from these
LINE_SHARE = 0.6  # of a colour's brightness in the lines


def listening_to(controlnet: ControlNetModel, tokens: Tensor) -> ControlNetModel:
    """The same ControlNet, weights shared, with the tokens in the text's place; the given one stays as it is.

    Made for one call: hand it to the pipeline of that call. Pooled text and time ids go in as ever.

    Args:
        controlnet: IdentityNet, opened by `ControlNetModel.from_pretrained`.
        tokens: [rows, N, C] of the UNet's rows: under guidance negative, then positive, each repeated for the
            pictures per prompt.

    Raises:
        ValueError: when called with another number of rows than the tokens have.
    """
    listener = copy.copy(controlnet)

    def forward(sample: Tensor, timestep: Any, encoder_hidden_states: Tensor, *more: Any, **kw: Any) -> Any:
        if len(encoder_hidden_states) != len(tokens):
            raise ValueError(
                f"The face tokens are for {len(tokens)} rows, the ControlNet runs with "
                f"{len(encoder_hidden_states)}: stack both halves under guidance, negative first."
            )
        face = tokens.to(encoder_hidden_states)
        return controlnet.forward(sample, timestep, face, *more, **kw)

    listener.forward = forward
    return listener


def draw_face_points(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """IdentityNet's condition: five points of a face, each joined to the nose, on black.

    Args:
        points: [5, 2] x, y in pixels, in the order of `POINT_COLOURS` (insightface's `kps`).

    Returns:
        uint8 RGB [height, width, 3].
    """
    lines = np.zeros((height, width, 3), np.uint8)
    for index, colour in enumerate(POINT_COLOURS):
        if index == NOSE:
            continue
        along = points[index] - points[NOSE]
        middle, half = (points[index] + points[NOSE]) / 2, int(np.linalg.norm(along) / 2)
        angle = int(np.degrees(np.arctan2(along[1], along[0])))
        ellipse = cv2.ellipse2Poly(middle.astype(int).tolist(), (half, LINE_PX), angle, 0, 360, 1)
        cv2.fillConvexPoly(lines, np.array(ellipse, np.int32), colour)
    drawn = (lines * LINE_SHARE).astype(np.uint8)
    for (x, y), colour in zip(points, POINT_COLOURS, strict=True):
        cv2.circle(drawn, (int(x), int(y)), DOT_PX, colour, -1)
    return drawn
