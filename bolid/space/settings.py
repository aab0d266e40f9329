"""What a user of the Space can set, checked; and how it is written into a PNG and read back."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

import bolid
from bolid.inputs import ID_STRENGTH
from bolid.pose import PARTS

MAX_PROMPT = 1000  # characters; the text encoders read 77 tokens, about 300 characters
MAX_SEED = 2**32 - 1
MAX_COUNT = 4  # pictures of one request; more would keep the queue waiting
MAX_SETTINGS = 65_536  # characters of settings in a PNG; ours take about 1,500

# (least, most, default) of every number; None: the model's own default.
RANGES: Mapping[str, tuple[float, float, float | None]] = MappingProxyType(
    {
        "id_strength": (0, 1.5, ID_STRENGTH),
        "pose_strength": (0, 1.5, 1.0),
        "image_prompt_strength": (0, 1.5, 0.5),
        "guidance": (0, 15, None),
        "steps": (1, 50, None),
        "count": (1, MAX_COUNT, 1),
        "seed": (0, MAX_SEED, None),
    }
    | {part: (0, 1, 1.0) for part in PARTS}
)
WHOLE = ("steps", "count", "seed")


@dataclass(frozen=True)
class Settings:
    """One request. head ... feet: shares in [0, 1] of `id_strength`, by part; width, height: pixels."""

    prompt: str = ""
    negative_prompt: str = ""
    id_strength: float = ID_STRENGTH
    head: float = 1.0
    upper: float = 1.0
    lower: float = 1.0
    feet: float = 1.0
    pose_strength: float = 1.0
    image_prompt_strength: float = 0.5
    guidance: float = 2.0
    steps: int = 20
    count: int = 1
    seed: int = 0
    width: int = 128
    height: int = 192
    retarget: bool = True

    @property
    def strengths(self) -> float | dict[str, float]:
        """`id_strength` as the pipeline takes it: one number where all parts have it, else by part."""
        shares = [getattr(self, part) for part in PARTS]
        if set(shares) == {1.0}:
            return self.id_strength
        return {part: round(self.id_strength * share, 4) for part, share in zip(PARTS, shares, strict=True)}

    @property
    def uses_person(self) -> bool:
        return self.id_strength > 0 and any(getattr(self, part) > 0 for part in PARTS)


def checked(values: Mapping[str, Any], own_size: tuple[int, int]) -> Settings:
    """Settings from a user's values; None takes the default (a random seed, the model's own size).

    own_size: (height, width) of the model's pictures; up to twice that a side is drawn.
    Raises ValueError for a number outside its range, a text that is too long or no text, a wrong size.
    """
    found: dict[str, Any] = {
        name: number(name, values[name]) for name in RANGES if values.get(name) is not None
    }
    for name in ("prompt", "negative_prompt"):
        found[name] = _text(name, values.get(name))
    for name, own in zip(("height", "width"), own_size, strict=True):
        found[name] = _side(name, values.get(name), own)
    found.setdefault("seed", secrets.randbelow(MAX_SEED + 1))
    found["retarget"] = bool(values.get("retarget", True))
    missing = [name for name in ("steps", "guidance") if name not in found]
    if missing:
        raise ValueError(f"{' and '.join(missing)}: empty; give a number")
    return Settings(**found)


def number(name: str, value: Any) -> float | int:
    """A number in its range of `RANGES`. Raises ValueError that names the range."""
    low, high, _ = RANGES[name]
    kind = "whole number" if name in WHOLE else "number"
    title = name.replace("_", " ")
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not low <= value <= high or (name in WHOLE and value != int(value)):
        shown = value if right else repr(value)[:40]
        raise ValueError(f"{title} is {shown}; it must be a {kind} from {low:g} to {high:.10g}")
    return int(value) if name in WHOLE else float(value)


def _text(name: str, value: Any) -> str:
    title = name.replace("_", " ")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{title} is {type(value).__name__}; give a text")
    if len(value) > MAX_PROMPT:
        raise ValueError(
            f"the {title} has {len(value):,} characters; at most {MAX_PROMPT:,} are taken: shorten it"
        )
    return value.strip()


def _side(name: str, value: Any, own: int) -> int:
    if value is None:
        return own
    low, high = side_range(own)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not whole or value % 8 or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a multiple of 8 from {low} to {high} (best {own})")
    return int(value)


def side_range(own: int) -> tuple[int, int]:
    """(least, most) pixels of a side that is `own` pixels in the model's pictures."""
    return max(8, own // 2), own * 2


def picture_text(settings: Settings, pose: dict[str, Any] | None, model: str, **more: Any) -> str:
    """What goes into a picture's PNG under "bolid", in the words of the command line's own.

    more: further entries, which are not read back, such as what was measured.
    """
    kept = asdict(settings)
    for name in (*PARTS, "count"):
        del kept[name]
    name, points = (pose or {}).get("name"), (pose or {}).get("keypoints")
    kept |= {"id_strength": settings.strengths, "model": model, "pose": name} | more
    if points is not None:
        kept["keypoints"] = [[round(float(value), 4) for value in row] for row in np.asarray(points)]
    kept["made_with"] = f"BoLID {bolid.__version__}; a generated picture, not a photograph"
    return json.dumps(kept, sort_keys=True)


def read_settings(path: str) -> dict[str, Any]:
    """Values for the page's controls from a PNG that BoLID made; only those that are there and valid.

    Keys: names of `Settings` without count, and "pose" (a name) or "keypoints" ([18, 3]) where it had one.
    Raises ValueError when the file is no PNG, or carries no settings.
    """
    return _valid(read_text(path))


def read_text(path: str) -> dict[str, Any]:
    """The JSON under "bolid" in a PNG, as it is. Raises ValueError as `read_settings`."""
    name = Path(path).name
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            text = opened.info.get("bolid")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name!r} is not a PNG; give a picture as it was downloaded here") from error
    if not isinstance(text, str) or len(text) > MAX_SETTINGS:
        raise ValueError(
            f"{name!r} carries no settings; give a PNG that BoLID made, as downloaded (chats and photo "
            "services often strip them)"
        )
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"the settings in {name!r} are damaged; give another picture")
    return kept


def _valid(kept: dict[str, Any]) -> dict[str, Any]:
    values = _spread(kept)
    found: dict[str, Any] = {}
    for name in RANGES:
        if name in values and name != "count":
            found[name] = number(name, values[name])
    for name in ("prompt", "negative_prompt"):
        if values.get(name) is not None:
            found[name] = _text(name, values[name])
    for name in ("width", "height"):
        if isinstance(values.get(name), int):
            found[name] = values[name]
    if isinstance(values.get("retarget"), bool):
        found["retarget"] = values["retarget"]
    for name in ("pose", "keypoints"):
        if values.get(name) is not None:
            found[name] = values[name]
    return found


def _spread(kept: dict[str, Any]) -> dict[str, Any]:
    """Strengths by part -> the largest as `id_strength` and shares of it."""
    values = {name: value for name, value in kept.items() if name not in PARTS}
    strength = kept.get("id_strength")
    if not isinstance(strength, dict):
        return values | dict.fromkeys(PARTS, 1.0)
    by_part = {part: number("id_strength", strength.get(part, ID_STRENGTH)) for part in PARTS}
    most = max(by_part.values())
    shares = {part: round(value / most, 4) if most else 1.0 for part, value in by_part.items()}
    return values | shares | {"id_strength": most}
