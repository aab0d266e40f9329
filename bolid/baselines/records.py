"""What each official method feeds to its tokens, how, and with which strength: one record per method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Ortho = Literal["off", "v1", "v2"]
Convention = Literal["raw", "normalised"]
Blank = Literal["zeros", "zero pixels"]


@dataclass(frozen=True)
class Features:
    """What the frozen encoders saw of a person, as they give it: never normalised by the caller.

    Args:
        face: recognition embedding [B, F], insightface's `embedding` and not `normed_embedding`; for PuLID
            v1.1 also [B, R, F], R references of one person.
        image: pooled vision embedding [B, D] (CLIP `image_embeds`; PuLID: the EVA class embedding, [B, R, D]
            with R references).
        patches: vision states [B, L, D] of the last layer but one, class token first (`hidden_states[-2]`).
        levels: PuLID's five EVA states [B, L, D], those that enter blocks 4, 8, 12, 16 and 20, class token
            first; several references are joined along L.
    """

    face: Tensor | None = None
    image: Tensor | None = None
    patches: Tensor | None = None
    levels: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class Method:
    """How an official method turns features into conditions.

    Args:
        name: the key in METHODS.
        features: per feature its convention, in the order of the projector's arguments. "raw" is used as the
            encoder gives it, "normalised" is divided by its length before.
        blank: per feature what guidance's negative half has: zeros, or what the encoder makes of pixel values
            that are all 0 *after* its preprocessing (a picture of the mean colour).
        scale: strength that the authors' code or demo uses.
        encoder: which networks the features come from.
        zero_tokens: tokens of zero key and value beside the identity's (PuLID's NUM_ZERO).
        ortho: which part of the identity term is taken away (`bolid.baselines.attention`).
        shortcut: FaceID-Plus: weight of the perceiver's answer added to the face tokens; None: it alone.
        face_control: the method has a ControlNet that listens to the face tokens instead of the text.
    """

    name: str
    features: Mapping[str, Convention]
    blank: Mapping[str, Blank]
    scale: float
    encoder: str
    zero_tokens: int = 0
    ortho: Ortho = "off"
    shortcut: float | None = None
    face_control: bool = False


CLIP_H = "OpenCLIP ViT-H/14 (sdxl base: ViT-bigG/14)"
BUFFALO = "insightface buffalo_l"
ANTELOPE = "insightface antelopev2, largest face"
EVA = "EVA02-CLIP-L-14-336 on the aligned face, grey, on white"

# scale: IP-Adapter's generate() has 1.0; InstantID's and PuLID's demos 0.8. zero_tokens and ortho of PuLID:
# "fidelity" of its v1 demo, the start values of its v1.1 demo ("extremely style" of v1 is 16 and "v1").
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ip-adapter", {"image": "raw"}, {"image": "zeros"}, 1.0, CLIP_H),
        Method("ip-adapter-plus", {"patches": "raw"}, {"patches": "zero pixels"}, 1.0, CLIP_H),
        Method("ip-adapter-full", {"patches": "raw"}, {"patches": "zero pixels"}, 1.0, CLIP_H),
        Method("ip-adapter-faceid", {"face": "normalised"}, {"face": "zeros"}, 1.0, BUFFALO),
        Method(
            "ip-adapter-faceid-plus",
            {"face": "normalised", "patches": "raw"},
            {"face": "zeros", "patches": "zero pixels"},
            1.0,
            f"{BUFFALO}; OpenCLIP ViT-H/14 on the aligned face",
        ),
        Method(
            "ip-adapter-faceid-plusv2",
            {"face": "normalised", "patches": "raw"},
            {"face": "zeros", "patches": "zero pixels"},
            1.0,
            f"{BUFFALO}; OpenCLIP ViT-H/14 on the aligned face",
            shortcut=1.0,
        ),
        Method("instantid", {"face": "raw"}, {"face": "zeros"}, 0.8, ANTELOPE, face_control=True),
        Method(
            "pulid-v1",
            {"face": "raw", "image": "normalised", "levels": "raw"},
            {"face": "zeros", "image": "zeros", "levels": "zeros"},
            0.8,
            f"{ANTELOPE}; {EVA}",
            zero_tokens=8,
            ortho="v2",
        ),
        Method(
            "pulid-v1.1",
            {"face": "raw", "image": "normalised", "levels": "raw"},
            {"face": "zeros", "image": "zeros", "levels": "zeros"},
            0.8,
            f"{ANTELOPE}; {EVA}",
            zero_tokens=20,
            ortho="v2",
        ),
    )
}
