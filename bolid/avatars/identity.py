"""Who an avatar is: a closed set of named attributes plus exact colours and body proportions."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue in 0..255."""

SKIN_COLOURS: dict[str, Colour] = {
    "pale": (247, 220, 200),
    "light": (238, 195, 160),
    "tan": (208, 155, 110),
    "brown": (150, 100, 66),
    "dark": (95, 62, 44),
}
HAIR_COLOURS: dict[str, Colour] = {
    "black": (30, 26, 30),
    "brown": (98, 62, 38),
    "blonde": (228, 190, 98),
    "red": (190, 74, 34),
    "gray": (168, 168, 172),
    "pink": (236, 120, 170),
    "blue": (66, 98, 205),
}
CLOTH_COLOURS: dict[str, Colour] = {
    "red": (208, 44, 48),
    "blue": (46, 92, 200),
    "green": (48, 150, 76),
    "yellow": (246, 206, 62),
    "black": (40, 40, 46),
    "white": (242, 242, 242),
    "purple": (126, 66, 168),
    "orange": (242, 136, 42),
    "pink": (242, 148, 184),
    "gray": (140, 144, 150),
    "brown": (122, 82, 52),
    "teal": (36, 158, 162),
}
EYE_COLOURS: tuple[Colour, ...] = ((70, 45, 30), (50, 90, 150), (60, 110, 70), (40, 40, 40))
LOGOS = ("star", "circle", "heart", "diamond")

_COLOUR_OR_NONE = ("none", *CLOTH_COLOURS)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "skin": tuple(SKIN_COLOURS),
    "hair": (
        "bald",
        "short hair",
        "bob hair",
        "long hair",
        "a ponytail",
        "a hair bun",
        "an afro",
        "spiky hair",
    ),
    "hair_colour": ("none", *HAIR_COLOURS),
    "hat": ("none", "cap", "beanie", "sun hat"),
    "hat_colour": _COLOUR_OR_NONE,
    "glasses": ("none", "glasses", "sunglasses"),
    "beard": ("none", "beard"),
    "top": ("t-shirt", "sweater", "tank top", "hoodie", "jacket", "dress"),
    "top_colour": tuple(CLOTH_COLOURS),
    "pattern": ("plain", "striped", "dotted", "plaid", "logo"),
    "bottom": ("trousers", "shorts", "skirt", "long skirt"),
    "bottom_colour": tuple(CLOTH_COLOURS),
    "shoes": ("sneakers", "boots", "sandals"),
    "shoe_colour": tuple(CLOTH_COLOURS),
    "bag": ("none", "backpack", "handbag"),
    "bag_colour": _COLOUR_OR_NONE,
}
"""Attribute -> its closed set of values: what evaluators classify. Its order is that of label columns."""

HELD_OUT: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("top", "top_colour"): (("hoodie", "green"), ("dress", "yellow"), ("jacket", "purple")),
    ("hair", "hair_colour"): (("a ponytail", "red"), ("an afro", "gray")),
}
"""Pairs of attributes -> value pairs that training never sees together (about 5 % of all people)."""

# Chances in the order of ATTRIBUTES[name]; "man"/"woman" tables where they differ.
_HAIR_CHANCES = {
    "man": (0.12, 0.34, 0.08, 0.08, 0.04, 0.04, 0.12, 0.18),
    "woman": (0.02, 0.12, 0.2, 0.27, 0.16, 0.12, 0.07, 0.04),
}
_TOP_CHANCES = {
    "man": (0.30, 0.22, 0.12, 0.18, 0.18, 0.0),
    "woman": (0.25, 0.19, 0.1, 0.15, 0.15, 0.16),
}
_BOTTOM_CHANCES = {"man": (0.6, 0.4, 0.0, 0.0), "woman": (0.4, 0.19, 0.24, 0.17)}
_HAIR_COLOUR_CHANCES = (0.22, 0.22, 0.18, 0.13, 0.11, 0.07, 0.07)
_HAT_CHANCES = (0.72, 0.11, 0.1, 0.07)
_GLASSES_CHANCES = (0.68, 0.2, 0.12)
_PATTERN_CHANCES = (0.42, 0.18, 0.14, 0.12, 0.14)
_SHOES_CHANCES = (0.55, 0.27, 0.18)
_BAG_CHANCES = (0.7, 0.18, 0.12)
_BEARD_CHANCE = 0.35  # of men


@dataclass(frozen=True)
class AvatarIdentity:
    """One person. Words are values of `ATTRIBUTES` ("none" where absent), `*_rgb` the colours really drawn.

    The colour of something absent is still a valid RGB triple; it is not drawn. A dress has the bottom
    "skirt" or "long skirt" in the colour of the dress. Proportions are factors around 1: `height` of
    torso and legs, `weight` of all widths, `shoulder` and `hip` of those widths, `leg` of the legs' share
    of the height.
    """

    gender: str
    skin: str
    hair: str
    hair_colour: str  # "none" where neither hair nor beard shows it
    hat: str
    hat_colour: str
    glasses: str
    beard: str
    top: str
    top_colour: str
    pattern: str
    bottom: str
    bottom_colour: str
    shoes: str
    shoe_colour: str
    bag: str
    bag_colour: str
    pattern_colour: str
    logo: str
    skin_rgb: Colour
    hair_rgb: Colour
    hat_rgb: Colour
    top_rgb: Colour
    pattern_rgb: Colour
    bottom_rgb: Colour
    shoe_rgb: Colour
    bag_rgb: Colour
    eye_rgb: Colour
    height: float
    weight: float
    shoulder: float
    hip: float
    leg: float

    def labels(self) -> np.ndarray:
        """Index of every attribute's value in `ATTRIBUTES`: int64 [n_attributes]."""
        return np.array([values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()], np.int64)

    def as_dict(self) -> dict[str, Any]:
        """All fields by name (colours as tuples), in the order of declaration."""
        return asdict(self)


def is_held_out(identity: AvatarIdentity) -> bool:
    """Whether the person shows at least one combination of `HELD_OUT`."""
    return any(
        (getattr(identity, first), getattr(identity, second)) in pairs
        for (first, second), pairs in HELD_OUT.items()
    )


def sample_identity(rng: np.random.Generator, held_out: bool = False) -> AvatarIdentity:
    """A random person who shows a combination of `HELD_OUT` if `held_out`, else none of them."""
    while True:
        identity = _sample(rng, _held_out_words(rng) if held_out else {})
        if is_held_out(identity) == held_out:
            return identity


def pick(rng: np.random.Generator, values: tuple[str, ...], chances: tuple[float, ...] | None = None) -> str:
    """One of `values`, uniformly or by `chances` (need not sum to 1); much cheaper than `rng.choice`."""
    if chances is None:
        return values[int(rng.integers(len(values)))]
    threshold = rng.random() * sum(chances)
    for value, chance in zip(values, chances, strict=True):
        threshold -= chance
        if threshold < 0:
            return value
    return values[-1]  # reached by rounding alone


def _held_out_words(rng: np.random.Generator) -> dict[str, str]:
    """Words that fix one held-out combination, and the gender it needs."""
    names = [(pair, values) for pair, choices in HELD_OUT.items() for values in choices]
    (first, second), (first_value, second_value) = names[int(rng.integers(len(names)))]
    words = {first: first_value, second: second_value}
    if first_value == "dress":
        words["gender"] = "woman"
    return words


def _sample(rng: np.random.Generator, fixed: dict[str, str]) -> AvatarIdentity:
    words = _sample_words(rng, fixed)
    colours = _sample_colours(rng, words)
    if words["top"] == "dress":
        colours["bottom_rgb"] = colours["top_rgb"]
    _drop_absent(words)
    proportions = _sample_proportions(rng, words["gender"])
    return AvatarIdentity(**words, **colours, **proportions)  # pyright: ignore[reportArgumentType] - by field name


def _sample_words(rng: np.random.Generator, fixed: dict[str, str]) -> dict[str, str]:
    """Every word field; colours also of what is absent. `fixed` overrides."""

    def draw(name: str, chances: tuple[float, ...] | None = None) -> str:
        value = pick(rng, ATTRIBUTES[name], chances)
        return fixed.get(name, value)

    cloth = tuple(CLOTH_COLOURS)
    gender = draw("gender")
    words = {
        "gender": gender,
        "skin": draw("skin"),
        "hair": draw("hair", _HAIR_CHANCES[gender]),
        "hair_colour": fixed.get("hair_colour", pick(rng, tuple(HAIR_COLOURS), _HAIR_COLOUR_CHANCES)),
        "hat": draw("hat", _HAT_CHANCES),
        "hat_colour": pick(rng, cloth),
        "glasses": draw("glasses", _GLASSES_CHANCES),
        "beard": "beard" if gender == "man" and rng.random() < _BEARD_CHANCE else "none",
        "top": draw("top", _TOP_CHANCES[gender]),
        "top_colour": draw("top_colour"),
        "pattern": draw("pattern", _PATTERN_CHANCES),
        "bottom": draw("bottom", _BOTTOM_CHANCES[gender]),
        "shoes": draw("shoes", _SHOES_CHANCES),
        "shoe_colour": draw("shoe_colour"),
        "bag": draw("bag", _BAG_CHANCES),
        "bag_colour": pick(rng, cloth),
        "logo": pick(rng, LOGOS),
    }
    words["bottom_colour"] = _other_colour(rng, words["top_colour"], distance=1)
    words["pattern_colour"] = _other_colour(rng, words["top_colour"], distance=240)
    return _agreeing(rng, words)


def _agreeing(rng: np.random.Generator, words: dict[str, str]) -> dict[str, str]:
    """`words` with garments that go together: jackets are plain, a dress ends in a skirt of its colour."""
    if words["top"] == "jacket":
        words["pattern"] = "plain"
    if words["top"] == "dress":
        words["bottom"] = pick(rng, ("skirt", "long skirt"))
        words["bottom_colour"] = words["top_colour"]
    return words


def _other_colour(rng: np.random.Generator, colour: str, distance: int) -> str:
    """A colour word at least `distance` (sum of absolute channel differences) away from `colour`."""
    mine = CLOTH_COLOURS[colour]
    far = [
        name
        for name, rgb in CLOTH_COLOURS.items()
        if sum(abs(a - b) for a, b in zip(rgb, mine, strict=True)) >= distance
    ]
    return pick(rng, tuple(far))


def _sample_colours(rng: np.random.Generator, words: dict[str, str]) -> dict[str, Colour]:
    """The exact RGB of every coloured thing."""
    colours = {
        # Only the brightness of skin varies: a channel on its own drifts to green.
        "skin_rgb": _vary(rng, SKIN_COLOURS[words["skin"]], gain=0.045, shift=0.0),
        "hair_rgb": _vary(rng, HAIR_COLOURS[words["hair_colour"]], gain=0.07, shift=4.0),
        "eye_rgb": EYE_COLOURS[int(rng.integers(len(EYE_COLOURS)))],
    }
    for name in ("hat", "top", "pattern", "bottom", "shoe", "bag"):
        colours[f"{name}_rgb"] = _vary(rng, CLOTH_COLOURS[words[f"{name}_colour"]], gain=0.06, shift=6.0)
    return colours


def _vary(rng: np.random.Generator, colour: Colour, gain: float, shift: float) -> Colour:
    """`colour` times exp(N(0, `gain`)) over all channels, plus N(0, `shift`) on each."""
    factor = float(np.exp(gain * rng.standard_normal()))
    red, green, blue = (
        int(min(255.0, max(0.0, channel * factor + shift * noise)))
        for channel, noise in zip(colour, rng.standard_normal(3).tolist(), strict=True)
    )
    return red, green, blue


def _drop_absent(words: dict[str, str]) -> None:
    """Sets the colour word of what the person does not have to "none"."""
    if words["hat"] == "none":
        words["hat_colour"] = "none"
    if words["bag"] == "none":
        words["bag_colour"] = "none"
    if words["hair"] == "bald" and words["beard"] == "none":
        words["hair_colour"] = "none"


def _sample_proportions(rng: np.random.Generator, gender: str) -> dict[str, float]:
    """Body factors; means differ by gender so that the build tells it."""
    man = gender == "man"
    noise = rng.standard_normal(5).tolist()

    def clipped(mean: float, deviation: float, index: int, low: float, high: float) -> float:
        return min(high, max(low, mean + deviation * noise[index]))

    return {
        "height": clipped(1.0 if man else 0.95, 0.04, 0, 0.85, 1.1),
        "weight": clipped(1.0, 0.14, 1, 0.75, 1.4),
        "shoulder": clipped(1.09 if man else 0.9, 0.03, 2, 0.82, 1.18),
        "hip": clipped(0.93 if man else 1.1, 0.03, 3, 0.85, 1.2),
        "leg": clipped(1.0, 0.03, 4, 0.92, 1.08),
    }
