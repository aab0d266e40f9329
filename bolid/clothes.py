"""Avatars in other clothes, and the words for what somebody wears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bolid.avatars.caption import article
from bolid.avatars.identity import AvatarIdentity, sample_identity

CLOTHES = ("top", "top_colour", "bottom", "bottom_colour")
"""The attributes that `with_clothes` names."""

SUBJECT = "a person"  # of every prompt without identity words
_LOOKS = ("pattern", "pattern_colour", "logo", "top_rgb", "pattern_rgb", "bottom_rgb")


def with_clothes(prompt: str, worn: Mapping[str, str], top: bool = True, bottom: bool = True) -> str:
    """A prompt of "a person" that wears the `CLOTHES` of `worn`, in the captions' words; a dress alone.

    top, bottom: whether each is told; a dress is both.
    """
    assert SUBJECT in prompt
    upper, lower = f"{worn['top_colour']} {worn['top']}", f"{worn['bottom_colour']} {worn['bottom']}"
    if worn["bottom"].startswith("long "):
        lower = f"long {worn['bottom_colour']} {worn['bottom'].removeprefix('long ')}"
    dress = worn["top"] == "dress"
    told = [article(upper)] if top or (dress and bottom) else []
    if bottom and not dress:
        told.append(article(lower) if "skirt" in worn["bottom"] else lower)
    return prompt.replace(SUBJECT, f"{SUBJECT} wearing {' and '.join(told)}", 1) if told else prompt


def in_other_clothes(identity: AvatarIdentity, rng: np.random.Generator) -> AvatarIdentity:
    """The same person in the top and bottom of somebody else of that gender; no combination is a held-out
    one that was none before.
    """
    while True:
        other = sample_identity(rng)
        if other.gender == identity.gender:
            return replace(identity, **{name: getattr(other, name) for name in (*CLOTHES, *_LOOKS)})
