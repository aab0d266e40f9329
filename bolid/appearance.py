"""The appearance map: the reference person's pixels moved, limb by limb, onto the target skeleton.

Every limb is a layer. A layer says for each pixel of a window of the target picture where in the reference it
comes from; a pixel counts only where the reference shows that limb (`bolid/appearance_source.py` assigns its
pixels to limbs by part
label and nearest bone), so neither background nor a neighbouring limb bleeds in. What the reference hides is
taken from the mirror limb, else from the limb's mean colour at that place along the bone. Layers are composed
by a priority per picture (a guess of depth), and the reference is sampled once at the end.

Face: the head is a sphere turned by the two head poses. What of the face the reference does not show stays
uncovered, hair and hat are continued from the rim; so a back view as reference gives the hair and leaves the
face to the tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bolid.appearance_body import body_of
from bolid.appearance_head import head_layers
from bolid.appearance_layers import Canvas, bag_layers, limb_layers, skirt_layers, torso_layer
from bolid.appearance_source import Reference

PARTS_COUNT = 4


@torch.no_grad()
def appearance_map(
    reference: Tensor,
    reference_parts: Tensor,
    reference_keypoints: Tensor,
    target_keypoints: Tensor,
    strength: Tensor | None = None,
) -> Tensor:
    """The faded appearance map.

    reference: [B, 3, H, W] in [-1, 1]; reference_parts: label map [B, H, W]; key-points: [B, 18, 3] with x, y
    in [0, 1] (pass them through `pose.known` first: a joint of confidence 0 is not used); strength: [B, 4] in
    [0, 1] per part, None is 1.
    Returns float32 [B, 4, H, W]: RGB in [-1, 1] times strength (0 where nothing lies), and the strength
    there. A part of strength 0 is never drawn: what lies under it shows.
    Raises ValueError when the shapes do not agree.
    """
    if strength is None:
        strength = torch.ones(len(reference), PARTS_COUNT, device=reference.device)
    rgb, part = appearance_layers(
        reference, reference_parts, reference_keypoints, target_keypoints, drawn=strength > 0
    )
    return fade(rgb, part, strength)


def fade(rgb: Tensor, part: Tensor, strength: Tensor) -> Tensor:
    """rgb [B, 3, H, W], part [B, H, W] (0 nothing, else part + 1), strength [B, 4] -> [B, 4, H, W]: rgb * s
    and s.
    """
    levels = F.pad(strength.to(rgb.dtype), (1, 0))  # [B, 5]: nothing has strength 0
    mask = levels.gather(1, part.flatten(1).long()).view(part.shape).unsqueeze(1)
    return torch.cat([rgb * mask, mask], dim=1)


@torch.no_grad()
def appearance_layers(
    reference: Tensor,
    reference_parts: Tensor,
    reference_keypoints: Tensor,
    target_keypoints: Tensor,
    drawn: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The unfaded appearance map and whose part each pixel is.

    drawn: bool [B, 4], the parts that may be drawn (None is all); for the rest see `appearance_map`.
    Returns rgb float32 [B, 3, H, W] in [-1, 1], 0 where nothing lies, and part uint8 [B, H, W]: 0 nothing,
    else 1 + index in pose.PARTS.
    """
    _check(reference, reference_parts, reference_keypoints, target_keypoints)
    batch, _, height, width = reference.shape
    source = Reference.of(reference.float(), reference_parts, reference_keypoints.to(reference))
    target = body_of(target_keypoints.to(reference), height, width)
    if drawn is None:
        drawn = torch.ones(batch, PARTS_COUNT, dtype=torch.bool, device=reference.device)
    canvas = Canvas.blank(batch, height, width, drawn)
    for layer in (limb_layers, torso_layer, skirt_layers, bag_layers, head_layers):
        layer(canvas, source, target)
    return canvas.finish(source)


def _check(reference: Tensor, parts: Tensor, keypoints: Tensor, target: Tensor) -> None:
    if reference.ndim != 4 or reference.shape[1] != 3:
        raise ValueError(
            f"the reference has shape {tuple(reference.shape)}; give RGB [B, 3, H, W] in [-1, 1]"
        )
    batch, _, height, width = reference.shape
    if parts.shape != (batch, height, width):
        raise ValueError(
            f"the part labels have shape {tuple(parts.shape)}; a reference of {height}x{width} needs "
            f"[{batch}, {height}, {width}]: resize them with nearest neighbours"
        )
    for name, points in (("reference", keypoints), ("target", target)):
        if points.shape != (batch, 18, 3):
            raise ValueError(f"the {name} key-points have shape {tuple(points.shape)}; give [{batch}, 18, 3]")
