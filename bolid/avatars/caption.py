"""What a picture shows, in varied words: templates times synonyms from closed vocabularies."""

from collections.abc import Mapping

import numpy as np

from .identity import AvatarIdentity, pick
from .skeleton import BodyAngles

POSE_WORDS: dict[str, tuple[str, ...]] = {
    "standing": ("standing", "standing still", "standing upright"),
    "walking": ("walking", "strolling", "taking a walk"),
    "running": ("running", "jogging", "sprinting"),
    "sitting on a chair": ("sitting on a chair", "seated on a chair", "sitting in a chair"),
    "sitting on the floor": ("sitting on the floor", "sitting on the ground", "seated on the ground"),
    "lying down": ("lying down", "lying on the ground", "lying flat"),
    "kneeling": ("kneeling", "kneeling down", "kneeling on the ground"),
    "crouching": ("crouching", "squatting", "crouching low"),
    "jumping": ("jumping", "leaping", "jumping in the air"),
    "arms raised": ("standing with arms raised", "raising both arms", "holding both arms up"),
    "waving": ("waving", "waving hello", "waving one hand"),
    "dancing": ("dancing", "dancing around", "doing a dance"),
}
VIEW_WORDS: dict[str, tuple[str, ...]] = {
    "front": ("seen from the front", "front view", "facing the camera", "facing the viewer"),
    "side": ("seen from the side", "side view", "in profile", "in side profile"),
    "back": ("seen from behind", "back view", "seen from the back", "facing away from the camera"),
}
SCENE_WORDS: dict[str, tuple[str, ...]] = {
    "studio": ("in a studio", "in a photo studio", "in front of a studio backdrop"),
    "park": ("in a park", "in the park", "among the trees of a park"),
    "street": ("on a street", "on a city street", "in the street by day"),
    "beach": ("on the beach", "on a sandy beach", "at the beach by the sea"),
    "room": ("in a room", "indoors in a room", "inside a room at home"),
    "night city": ("in a night city", "in the city at night", "at night in the city"),
    "snow": ("in the snow", "in a snowy forest", "outside in the snow"),
    "desert": ("in the desert", "in a desert", "on the sand of a desert"),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "man": ("man", "man", "guy", "gentleman"),
    "woman": ("woman", "woman", "lady"),
    "pale": ("pale", "pale-skinned", "fair-skinned"),
    "light": ("light-skinned",),
    "tan": ("tanned", "tan-skinned"),
    "brown": ("brown-skinned",),
    "dark": ("dark-skinned",),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit beanie"),
    "sun hat": ("sun hat", "wide-brimmed sun hat"),
    "glasses": ("glasses", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark sunglasses"),
    "t-shirt": ("t-shirt", "tee"),
    "sweater": ("sweater", "pullover"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "polka dot"),
    "plaid": ("plaid", "checked"),
    "trousers": ("trousers", "pants"),
    "skirt": ("skirt", "short skirt"),
    "sneakers": ("sneakers", "trainers"),
    "handbag": ("handbag", "purse"),
}
"""Value of an attribute -> its synonyms; values that are not listed are their own word."""

_HAIR: dict[str, tuple[str, ...]] = {
    "short hair": ("short {} hair", "cropped {} hair"),
    "bob hair": ("a {} bob", "bob-cut {} hair"),
    "long hair": ("long {} hair", "long flowing {} hair"),
    "a ponytail": ("a {} ponytail", "{} hair in a ponytail"),
    "a hair bun": ("a {} hair bun", "{} hair in a bun"),
    "an afro": ("a {} afro", "{} afro hair"),
    "spiky hair": ("spiky {} hair",),
}
# Chance that a caption tells a fact, where the picture shows it.
_CHANCES = {
    "skin": 0.3,
    "hair": 0.6,
    "beard": 0.6,
    "glasses": 0.6,
    "top": 0.75,
    "pattern": 0.75,
    "bottom": 0.6,
    "shoes": 0.4,
    "hat": 0.65,
    "bag": 0.6,
    "pose": 0.85,
    "view": 0.65,
    "scene": 0.85,
}


def caption(
    identity: AvatarIdentity,
    angles: BodyAngles,
    scene: str,
    rng: np.random.Generator,
    visible: Mapping[str, bool] | None = None,
) -> str:
    """A sentence (or tags) on the person, the pose, the view and the scene; each fact may be dropped.

    With `visible` (attribute -> bool), what the picture hides is never told.
    """
    teller = _Teller(rng, visible)
    subject = teller.subject(identity)
    features = teller.features(identity)
    clothes = teller.clothes(identity)
    around = teller.bag(identity) + teller.around(angles, scene)
    if rng.random() < 0.12:
        return ", ".join([subject, *features, *clothes, *around])
    described = article(subject)
    if features:
        described += " with " + _listed(features)
    if clothes:
        described += pick(rng, (" wearing ", " wearing ", " dressed in ")) + _listed(clothes)
    return _sentence(rng, described, around)


def caption_without_identity(angles: BodyAngles, scene: str, rng: np.random.Generator) -> str:
    """The same of nobody in particular: "a person ...", always with the scene, usually with pose and view."""
    return _sentence(rng, "a person", _Teller(rng, None).around(angles, scene, always_scene=True))


def article(words: str) -> str:
    """`words` with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _coloured(colour: str, garment: str) -> str:
    """The colour before the garment, but after its length: "short red skirt"."""
    for length in ("short ", "long "):
        if garment.startswith(length):
            return f"{length}{colour} {garment.removeprefix(length)}"
    return f"{colour} {garment}"


def _sentence(rng: np.random.Generator, described: str, around: list[str]) -> str:
    """Puts pose, scene and view after the person, or the last of them before."""
    if not around:
        return described
    if rng.random() < 0.2:
        return ", ".join([around[-1], described, *around[:-1]])
    # "a person walking, side view", but never "a person side view".
    run_on = rng.random() < 0.7 and not around[0].endswith("view")
    return described + (" " if run_on else ", ") + ", ".join(around)


class _Teller:
    """Draws which facts are told, and in which words."""

    def __init__(self, rng: np.random.Generator, visible: Mapping[str, bool] | None) -> None:
        self.rng = rng
        self.visible = visible

    def sees(self, attribute: str) -> bool:
        return self.visible is None or self.visible.get(attribute, True)

    def tells(self, fact: str) -> bool:
        return self.rng.random() < _CHANCES[fact] and self.sees(fact)

    def word(self, value: str) -> str:
        return pick(self.rng, _WORDS.get(value, (value,)))

    def around(self, angles: BodyAngles, scene: str, always_scene: bool = False) -> list[str]:
        """Pose and scene (mostly in one phrase) and view, those that are told, in varied order."""
        parts = [pick(self.rng, POSE_WORDS[angles.family])] if self.tells("pose") else []
        tell_scene = self.tells("scene")
        if always_scene or tell_scene:
            parts.append(pick(self.rng, SCENE_WORDS[scene]))
        if self.rng.random() < 0.75:
            parts = [" ".join(parts)] if parts else []
        if self.tells("view"):
            place = len(parts) if self.rng.random() < 0.7 else 0
            parts.insert(place, pick(self.rng, VIEW_WORDS[angles.view]))
        return parts

    def subject(self, identity: AvatarIdentity) -> str:
        skin = self.word(identity.skin) + " " if self.tells("skin") else ""
        return skin + self.word(identity.gender)

    def features(self, identity: AvatarIdentity) -> list[str]:
        """Hair, beard and glasses."""
        parts = []
        if self.tells("hair"):
            parts.append(self._hair(identity))
        if identity.beard != "none" and self.tells("beard"):
            parts.append("a beard" if self.rng.random() < 0.6 else f"a {identity.hair_colour} beard")
        if identity.glasses != "none" and self.tells("glasses"):
            parts.append(self.word(identity.glasses))
        return parts

    def _hair(self, identity: AvatarIdentity) -> str:
        if identity.hair == "bald":
            return pick(self.rng, ("a bald head", "no hair"))
        return pick(self.rng, _HAIR[identity.hair]).format(identity.hair_colour)

    def clothes(self, identity: AvatarIdentity) -> list[str]:
        """Garments, shoes and hat."""
        parts = [self._top(identity)] if self.tells("top") else []
        if identity.top != "dress" and self.tells("bottom"):
            words = _coloured(identity.bottom_colour, self.word(identity.bottom))
            parts.append(article(words) if "skirt" in identity.bottom else words)
        if self.tells("shoes"):
            parts.append(f"{identity.shoe_colour} {self.word(identity.shoes)}")
        if identity.hat != "none" and self.tells("hat"):
            parts.append(article(f"{identity.hat_colour} {self.word(identity.hat)}"))
        return parts

    def bag(self, identity: AvatarIdentity) -> list[str]:
        """What the person carries: a list of one phrase or none."""
        if identity.bag == "none" or not self.tells("bag"):
            return []
        return ["carrying " + article(f"{identity.bag_colour} {self.word(identity.bag)}")]

    def _top(self, identity: AvatarIdentity) -> str:
        """Colour, pattern and garment: "a red and white striped tee", "a blue hoodie with a yellow star"."""
        colour, pattern, garment = identity.top_colour, identity.pattern, self.word(identity.top)
        if identity.top == "dress" and self.rng.random() < 0.6:
            garment = ("long " if identity.bottom == "long skirt" else "short ") + garment
        if pattern == "plain":
            return article(pick(self.rng, ("", "", "plain ")) + _coloured(colour, garment))
        if not self.tells("pattern"):
            return article(_coloured(colour, garment))
        if pattern == "logo":
            logo = pick(self.rng, (f"a {identity.pattern_colour} {identity.logo}", f"a {identity.logo} logo"))
            return article(f"{_coloured(colour, garment)} with {article(logo.removeprefix('a '))}")
        if self.rng.random() < 0.5:
            colour = f"{colour} and {identity.pattern_colour}"
        return article(_coloured(f"{colour} {self.word(pattern)}", garment))
