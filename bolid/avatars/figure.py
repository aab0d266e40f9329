"""The figure as a list of things to draw, put in the order in which they hide each other."""

from collections.abc import Callable

import numpy as np

from .garments import draw_top
from .hair import draw_hanging_hair, hanging_hair
from .head import Head
from .headwear import draw_head
from .limbs import arm_items, draw_shoulder_seam, leg_items
from .person import ITEMS, Item, Mark, Part, Person
from .props import chair_items, draw_backpack, draw_handbag, draw_straps
from .shapes import Colour, shade
from .skirts import draw_pelvis, draw_skirt
from .torso import Torso

STEP = 0.002  # between things that must follow each other whatever their depth, body units
SHIN_BEHIND = 0.25  # a shin bent that much away from the viewer is drawn before its thigh, body units
FORWARD_THIGH = 0.2  # a knee that much nearer than its hip: the thigh lies before the body


class Figure:
    """Collects a person's items and gives each its place in the order."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.torso, self.head = Torso(person), Head(person)
        self.items: list[Item] = []
        self.body = (person.camera.depth(self.torso.chest_centre) + person.z["pel"]) / 2  # the torso's depth
        self.top = self.body  # the order of the upper garment, raised by _add_lower_body
        self._add_lower_body()
        self._add_upper_body()
        self._add_head()
        self._add_bag()

    def draw(self) -> None:
        """Draws everything, far to near, every shape tagged with the item it belongs to."""
        for item in sorted(self.items, key=lambda item: item.order):
            with self.person.canvas.tagged(item=ITEMS[item.name]):
                item.draw()

    def _add(self, name: str, order: float, draw: Callable[[], None]) -> None:
        self.items.append(Item(name, order, draw))

    def _add_lower_body(self) -> None:
        """Legs, the hips' cover over their seams, then the skirt; thighs that point forward come later."""
        person, torso = self.person, self.torso
        legs = {item.name: item for side in "LR" for item in leg_items(person, side)}
        forward = {side: person.z[f"kn{side}"] - person.z[f"hi{side}"] > FORWARD_THIGH for side in "LR"}
        hanging = [legs[f"thigh{side}"].order for side in "LR" if not forward[side]]
        self._add(
            "pelvis", min([self.body, *hanging]) - STEP, lambda: draw_pelvis(person, torso, cover=False)
        )
        cover = max([self.body, *hanging]) + STEP
        self._add("pelvis", cover, lambda: draw_pelvis(person, torso, cover=True))
        self.top = cover + 2 * STEP
        for side in "LR":
            if forward[side]:
                legs[f"thigh{side}"].order = max(legs[f"thigh{side}"].order, self.top + STEP)
        if "skirt" in person.identity.bottom:
            covered = ("thigh", "shin") if person.identity.bottom == "long skirt" else ("thigh",)
            near = max(legs[part + side].order for part in covered for side in "LR")
            self._add("skirt", max(cover, near) + STEP, lambda: draw_skirt(person, torso))
            thigh, shin = legs[f"thigh{side}"], legs[f"shin{side}"]
            hip, knee, ankle = (person.z[f"{joint}{side}"] for joint in ("hi", "kn", "an"))
            if (ankle - knee) - (knee - hip) > -SHIN_BEHIND:  # then the shin can hide the knee's seam
                shin.order = max(shin.order, thigh.order + STEP / 4)
        self.items += legs.values()

    def _add_upper_body(self) -> None:
        person, torso = self.person, self.torso
        self._add("torso", self.top, lambda: self._draw_torso())
        chest = person.camera.depth(torso.chest_centre)
        for side in "LR":
            for item in arm_items(person, side):
                before = item.order - chest > -0.035
                item.order = (
                    max(item.order, self.top + STEP) if before else min(item.order, self.body - 2 * STEP)
                )
                self.items.append(item)
                if before and item.name.startswith("upper"):
                    seam = item.order + STEP / 2
                    self._add(
                        item.name, seam, lambda side=side: draw_shoulder_seam(person, side, torso.upper)
                    )

    def _draw_torso(self) -> None:
        person = self.person
        self._draw_neck()
        draw_top(person, self.torso)
        if person.identity.bag == "backpack" and self.torso.facing > 0.1:
            draw_straps(person, self.torso)

    def _draw_neck(self) -> None:
        person, canvas = self.person, self.person.canvas
        width = person.thick(0.07 if person.woman else 0.09)
        bone = np.stack([person.at["neck"], person.at["head"]])
        with canvas.tagged(part=Part.HEAD, attribute=Mark.SKIN):
            canvas.line(bone, person.skin_line, width + 1.6)
            canvas.line(bone, shade(person.identity.skin_rgb, 0.93), width)

    def _add_head(self) -> None:
        person, head = self.person, self.head
        order = max(person.z["head"] + 0.03, self.top + 2 * STEP)
        self._add("head", order, lambda: draw_head(head))
        shape = hanging_hair(head)
        if shape is None:
            return
        before = head.facing < 0.3
        place = order + STEP / 2 if before else min(self.body, person.z["head"] - 0.14) - 3 * STEP
        self._add("hair", place, lambda: self._draw_hair(shape))

    def _draw_hair(self, shape: np.ndarray) -> None:
        with self.person.canvas.tagged(part=Part.HEAD):
            draw_hanging_hair(self.head, shape)

    def _add_bag(self) -> None:
        person, torso = self.person, self.torso
        if person.identity.bag == "backpack":
            place = self.body - 4 * STEP if torso.facing > 0 else self.top + 3 * STEP
            self._add("bag", place, lambda: draw_backpack(person, torso))
        elif person.identity.bag == "handbag":
            self._add("bag", person.z["haL"] + 0.03, lambda: draw_handbag(person))

    def add_chair(self, wood: Colour) -> None:
        """Puts a chair under the person."""
        self.items += chair_items(self.person, wood)
