"""What a rendered picture shows: joints and attributes, decided on the label raster."""

import numpy as np

from .canvas import FRAME_HEIGHT
from .figure import Figure
from .identity import ATTRIBUTES, AvatarIdentity
from .person import ITEMS, Mark, Part, Person

JOINT_NAMES = (
    "nose", "neck", "shR", "elR", "wrR", "shL", "elL", "wrL", "hiR", "knR", "anR", "hiL", "knL", "anL",
    "eyeR", "eyeL", "earR", "earL",
)  # fmt: skip
MINIMUM_PIXELS = 8  # of a picture FRAME_HEIGHT high; larger pictures need proportionally more

# The items at whose surface a joint lies; anything else drawn at its place hides it.
_OWN_ITEMS = {
    "sh": ("upper", "torso"),
    "el": ("upper", "fore"),
    "wr": ("fore",),
    "hi": ("thigh", "pelvis", "torso", "skirt"),
    "kn": ("thigh", "shin", "skirt"),
    "an": ("shin", "foot", "skirt"),
}
_FAR_SIDE = 0.1  # body units: a shoulder or hip that much behind the spine is hidden by the trunk


def joints_seen(person: Person, labels: np.ndarray) -> np.ndarray:
    """Key-points float32 [18,3]: x, y in [0,1]; 1 where the picture shows the joint's own limb, else 0."""
    height, width = labels.shape[:2]
    scale = height / FRAME_HEIGHT
    places = np.stack([person.at[name] for name in JOINT_NAMES]) * scale
    columns = np.clip(places[:, 0].astype(int), 0, width - 1)
    rows = np.clip(places[:, 1].astype(int), 0, height - 1)
    items = labels[rows, columns, 2]
    seen = [items[i] in _own_items(person, name) for i, name in enumerate(JOINT_NAMES)]
    return np.concatenate([places / (width, height), np.array(seen)[:, None]], 1).astype(np.float32)


def _own_items(person: Person, name: str) -> set[int]:
    """Item numbers that count as the joint itself, seen from this side."""
    if name == "neck":
        return {ITEMS["torso"], ITEMS["head"], ITEMS["hair"]}
    if name in person.skeleton.normals:
        turned_to_viewer = person.camera.depth(person.skeleton.normals[name]) > -0.05
        return {ITEMS["head"]} if turned_to_viewer else set()
    kind, side = name[:2], name[2]
    own = _OWN_ITEMS[kind]
    if kind in ("sh", "hi") and person.z[name] < person.z["neck" if kind == "sh" else "pel"] - _FAR_SIDE:
        own = own[:1]
    return {ITEMS.get(item, ITEMS.get(item + side, 0)) for item in own}


def visible_attributes(identity: AvatarIdentity, figure: Figure, labels: np.ndarray) -> dict[str, bool]:
    """For each of ATTRIBUTES whether the picture shows it; an absent thing is "seen" where its place is."""
    minimum = MINIMUM_PIXELS * (labels.shape[0] / FRAME_HEIGHT) ** 2
    counts = np.bincount(labels[..., 1].ravel(), minlength=len(Mark))
    head_counts = np.bincount(labels[..., 0].ravel(), minlength=len(Part))
    seen = {mark: bool(counts[mark] >= minimum) for mark in Mark}
    head, bald = bool(head_counts[Part.HEAD] >= minimum), identity.hair == "bald"
    torso = bool(counts[Mark.TOP] + counts[Mark.PATTERN] >= minimum)
    hat = head if identity.hat == "none" else seen[Mark.HAT]
    bag = torso if identity.bag == "none" else seen[Mark.BAG]
    front = torso and figure.torso.facing > 0.15  # where a logo would be
    visible = {
        "gender": True,
        "skin": bool(counts[Mark.SKIN] + counts[Mark.FACE] >= minimum),
        "hair": (head and identity.hat == "none") if bald else seen[Mark.HAIR],
        "hair_colour": seen[Mark.HAIR] or seen[Mark.BEARD],
        "hat": hat,
        "hat_colour": hat,
        "glasses": seen[Mark.FACE] if identity.glasses == "none" else seen[Mark.GLASSES],
        "beard": seen[Mark.FACE] if identity.beard == "none" else seen[Mark.BEARD],
        "top": torso,
        "top_colour": bool(counts[Mark.TOP] >= minimum),
        "pattern": front if identity.pattern == "plain" else seen[Mark.PATTERN],
        "bottom": seen[Mark.BOTTOM],
        "bottom_colour": seen[Mark.BOTTOM],
        "shoes": seen[Mark.SHOES],
        "shoe_colour": seen[Mark.SHOES],
        "bag": bag,
        "bag_colour": bag,
    }
    assert visible.keys() == ATTRIBUTES.keys()
    return visible
