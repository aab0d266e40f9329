"""Random poses: one function per pose family, each within natural joint limits."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .angles import POSE_FAMILIES, VIEWS, Arm, BodyAngles, Leg
from .identity import pick

_VIEW_CHANCES = (0.55, 0.25, 0.2)
_FAMILY_CHANCES = (0.14, 0.1, 0.08, 0.11, 0.09, 0.08, 0.07, 0.07, 0.07, 0.07, 0.06, 0.06)


def sample_angles(rng: np.random.Generator, family: str | None = None, view: str | None = None) -> BodyAngles:
    """A random pose of a family and a view (drawn too where not given), within natural joint limits.

    Raises: ValueError for a family or view that does not exist.
    """
    family = pick(rng, POSE_FAMILIES, _FAMILY_CHANCES) if family is None else family
    view = pick(rng, VIEWS, _VIEW_CHANCES) if view is None else view
    if family not in POSE_FAMILIES:
        raise ValueError(f"unknown pose family {family!r}: use one of {', '.join(POSE_FAMILIES)}")
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}: use one of {', '.join(VIEWS)}")
    draw = _Draw(rng)
    angles = _POSERS[family](draw, _at_ease(draw, family, view))
    # One random side leads: mirroring the body keeps every family free of a left or right habit.
    return _mirrored_limbs(angles) if draw.chance(0.5) else angles


class _Draw:
    """Short names for the distributions that the poses below are written in."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def normal(self, mean: float, deviation: float) -> float:
        """Normal, cut off at two deviations so that no joint leaves its natural range."""
        return mean + deviation * min(2.0, max(-2.0, self.rng.standard_normal()))

    def sign(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability


def _mirrored_limbs(angles: BodyAngles) -> BodyAngles:
    return replace(
        angles,
        arm_left=angles.arm_right,
        arm_right=angles.arm_left,
        leg_left=angles.leg_right,
        leg_right=angles.leg_left,
    )


def _yaw(draw: _Draw, view: str) -> float:
    """Degrees; the ranges of the three views do not touch, so the word is never ambiguous."""
    if view == "side":
        return draw.sign() * draw.normal(80, 10)
    return (0.0 if view == "front" else 180.0) + draw.normal(0, 19)


def _at_ease(draw: _Draw, family: str, view: str) -> BodyAngles:
    """Upright, arms at rest, legs under the body: what every family starts from."""
    return BodyAngles(
        family=family,
        view=view,
        yaw=_yaw(draw, view),
        lean=draw.normal(1, 3),
        side=draw.normal(0, 3),
        twist=draw.normal(0, 7),
        neck_yaw=draw.normal(0, 13),
        neck_pitch=draw.normal(2, 6),
        neck_roll=draw.normal(0, 4),
        camera=draw.uniform(0, 12),
        arm_left=_resting_arm(draw),
        arm_right=_resting_arm(draw),
        leg_left=_standing_leg(draw),
        leg_right=_standing_leg(draw),
    )


def _resting_arm(draw: _Draw) -> Arm:
    """Hanging (half of all), on the hip, bent before the body, or half raised."""
    kind = draw.rng.random()
    if kind < 0.5:
        return Arm(draw.normal(4, 7), abs(draw.normal(10, 5)), abs(draw.normal(12, 9)))
    if kind < 0.68:
        return Arm(draw.normal(-14, 6), draw.uniform(32, 44), draw.uniform(78, 98), -62)
    if kind < 0.86:
        return Arm(draw.uniform(15, 50), draw.uniform(6, 20), draw.uniform(60, 115), draw.normal(-8, 12))
    return Arm(draw.uniform(20, 85), draw.uniform(8, 50), draw.uniform(5, 40))


def _hanging_arm(draw: _Draw) -> Arm:
    return Arm(draw.normal(4, 7), abs(draw.normal(10, 5)), abs(draw.normal(12, 9)))


def _standing_leg(draw: _Draw) -> Leg:
    forward, knee = draw.normal(1, 3), abs(draw.normal(3, 3))
    return Leg(forward, abs(draw.normal(6, 3)), knee, toe=forward - knee)


def _flat_leg(forward: float, out: float, knee: float) -> Leg:
    """A leg whose sole stays level, as far as an ankle bends (25 degrees up, 45 down)."""
    return Leg(forward, out, knee, toe=min(45.0, max(-25.0, forward - knee)))


def _stand(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    if draw.chance(0.2):  # weight on one leg
        return replace(
            angles, leg_left=_flat_leg(draw.uniform(8, 16), draw.uniform(5, 14), draw.uniform(14, 26))
        )
    return angles


def _walk(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    swing, knee = draw.uniform(17, 31), draw.uniform(3, 12)
    return replace(
        angles,
        leg_left=Leg(swing, 3, knee, toe=draw.uniform(-5, 5)),
        leg_right=Leg(-0.75 * swing, 3, draw.uniform(12, 34), toe=draw.uniform(-15, 5)),
        arm_left=Arm(-draw.uniform(14, 30), 8, draw.uniform(8, 22)),
        arm_right=Arm(draw.uniform(14, 32), 8, draw.uniform(12, 35)),
        lean=draw.normal(3, 2),
    )


def _run(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    return replace(
        angles,
        leg_left=Leg(draw.uniform(45, 72), 4, draw.uniform(60, 100)),
        leg_right=Leg(-draw.uniform(8, 26), 4, draw.uniform(40, 95), toe=25),
        arm_left=Arm(-draw.uniform(28, 52), 14, draw.uniform(75, 105), -10),
        arm_right=Arm(draw.uniform(28, 58), 10, draw.uniform(75, 105), -15),
        lean=draw.uniform(7, 18),
        side=draw.normal(0, 2),
    )


def _seated_yaw(draw: _Draw, angles: BodyAngles) -> float:
    """Never quite frontal: thighs that point at the viewer would look like standing."""
    if angles.view == "side":
        return angles.yaw
    return (0.0 if angles.view == "front" else 180.0) + draw.sign() * draw.uniform(12, 38)


def _sit_on_chair(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    def leg() -> Leg:
        return _flat_leg(draw.uniform(80, 94), draw.uniform(3, 14), draw.uniform(76, 98))

    def arm(resting: Arm) -> Arm:
        on_thigh = draw.chance(0.65)
        return Arm(draw.uniform(24, 42), draw.uniform(5, 14), draw.uniform(28, 58)) if on_thigh else resting

    return replace(
        angles,
        leg_left=leg(),
        leg_right=leg(),
        arm_left=arm(_hanging_arm(draw)),
        arm_right=arm(angles.arm_right),
        lean=draw.normal(0, 5),
        yaw=_seated_yaw(draw, angles),
        ground="chair",
        camera=draw.uniform(12, 24),
    )


def _sit_on_floor(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    """Legs straight ahead, crossed, or with the knees up; half of them lean back on their hands."""
    kind = draw.rng.random()

    def leg() -> Leg:
        if kind < 0.3:
            return Leg(
                draw.uniform(84, 92), draw.uniform(4, 20), draw.uniform(0, 10), toe=draw.uniform(-5, 20)
            )
        if kind < 0.65:
            return Leg(draw.uniform(40, 52), draw.uniform(78, 86), draw.uniform(110, 126), 172, 20)
        return _flat_leg(draw.uniform(122, 134), draw.uniform(3, 10), draw.uniform(95, 118))

    angles = replace(
        angles,
        leg_left=leg(),
        leg_right=leg(),
        lean=draw.uniform(-6, 10),
        yaw=_seated_yaw(draw, angles),
        ground="any",
        camera=draw.uniform(14, 28),
    )
    if draw.chance(0.35):
        arms = [Arm(-draw.uniform(30, 45), draw.uniform(12, 26), 4) for _ in range(2)]
        return replace(angles, arm_left=arms[0], arm_right=arms[1], lean=draw.uniform(-18, -10))
    arms = [Arm(draw.uniform(30, 55), draw.uniform(4, 14), draw.uniform(15, 50)) for _ in range(2)]
    return replace(angles, arm_left=arms[0], arm_right=arms[1] if draw.chance(0.7) else angles.arm_right)


def _lie(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    """On the back, the belly or a side, always along the picture's width so that it reads as lying.

    "front" shows the face (from above, or on a side facing the viewer), "back" the back of the head, "side"
    the profile from a low viewpoint.
    """
    across = draw.sign() * draw.normal(90, 12)
    on_side = angles.view != "side" and draw.chance(0.4)
    if on_side:
        yaw = draw.normal(0 if angles.view == "front" else 180, 9)
        turn = {"yaw": yaw, "roll": 90.0 * draw.sign(), "camera": draw.uniform(10, 30)}
    else:
        belly = angles.view == "back" or (angles.view == "side" and draw.chance(0.25))
        camera = draw.uniform(8, 22) if angles.view == "side" else draw.uniform(42, 64)
        turn = {"yaw": across, "pitch": 90.0 if belly else -90.0, "camera": camera}
    angles = replace(angles, **turn, lean=0.0, side=draw.normal(0, 3), twist=0.0, ground="any")
    return _lying_limbs(draw, angles, on_side)


def _lying_limbs(draw: _Draw, angles: BodyAngles, on_side: bool) -> BodyAngles:
    def straight() -> Leg:
        return Leg(draw.uniform(-2, 6), draw.uniform(2, 13), draw.uniform(0, 10), toe=draw.uniform(10, 35))

    def arm() -> Arm:
        if draw.chance(0.3):
            return Arm(draw.uniform(160, 172), draw.uniform(10, 22), draw.uniform(5, 40))
        return Arm(draw.uniform(0, 14), draw.uniform(8, 30 if on_side else 65), draw.uniform(0, 40))

    legs = [straight(), straight()]
    if draw.chance(0.35) and angles.pitch <= 0:  # one knee drawn up: not possible on the belly
        forward = draw.uniform(40, 58)
        legs[0] = _flat_leg(forward, 6, draw.uniform(1.7, 2.0) * forward)
    if on_side:
        legs = [replace(leg, out=draw.uniform(0, 4)) for leg in legs]
    return replace(angles, leg_left=legs[0], leg_right=legs[1], arm_left=arm(), arm_right=arm())


def _kneel(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    """On both knees, or on one with the other foot set up in front."""

    def on_knee() -> Leg:
        return Leg(draw.uniform(-4, 8), draw.uniform(3, 11), draw.uniform(86, 98), toe=draw.uniform(35, 55))

    other = on_knee() if draw.chance(0.5) else _flat_leg(draw.uniform(80, 92), 6, draw.uniform(82, 96))
    return replace(angles, leg_left=other, leg_right=on_knee(), ground="any", camera=draw.uniform(4, 16))


def _crouch(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    def leg() -> Leg:
        return _flat_leg(draw.uniform(98, 120), draw.uniform(8, 26), draw.uniform(112, 136))

    def arm() -> Arm:
        return Arm(draw.uniform(40, 78), draw.uniform(5, 18), draw.uniform(10, 65))

    return replace(
        angles,
        leg_left=leg(),
        leg_right=leg(),
        arm_left=arm(),
        arm_right=arm(),
        lean=draw.uniform(14, 34),
        neck_pitch=draw.normal(-10, 6),
    )


def _jump(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    """Knees tucked, a star, or a leap with one leg in front."""
    kind = draw.rng.random()

    def leg() -> Leg:
        if kind < 0.33:
            return Leg(draw.uniform(25, 70), draw.uniform(5, 22), draw.uniform(60, 115), toe=25)
        return Leg(draw.uniform(-10, 15), draw.uniform(16, 38), draw.uniform(0, 40), toe=25)

    def arm() -> Arm:
        return Arm(draw.uniform(-8, 25), draw.uniform(75, 155), draw.uniform(0, 35))

    legs = [leg(), leg()]
    if kind > 0.66:
        legs = [Leg(draw.uniform(60, 80), 9, draw.uniform(20, 60)), Leg(-18, 9, draw.uniform(20, 60), toe=25)]
    return replace(
        angles, leg_left=legs[0], leg_right=legs[1], arm_left=arm(), arm_right=arm(), ground="air", camera=4.0
    )


def _raise_arms(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    def arm() -> Arm:
        return Arm(draw.uniform(-5, 12), draw.uniform(125, 170), draw.uniform(0, 45))

    return replace(angles, arm_left=arm(), arm_right=arm())


def _wave(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    waving = Arm(draw.uniform(0, 18), draw.uniform(84, 112), draw.uniform(70, 108), 90)
    return replace(
        angles, arm_left=waving, arm_right=_hanging_arm(draw) if draw.chance(0.6) else angles.arm_right
    )


def _dance(draw: _Draw, angles: BodyAngles) -> BodyAngles:
    lifted = draw.uniform(25, 75)
    return replace(
        angles,
        leg_left=Leg(lifted, draw.uniform(6, 34), draw.uniform(0.6, 1.4) * lifted, toe=20),
        arm_left=Arm(draw.uniform(-15, 50), draw.uniform(65, 155), draw.uniform(10, 80)),
        arm_right=Arm(
            draw.uniform(-20, 50), draw.uniform(40, 110), draw.uniform(20, 90), draw.uniform(-50, 60)
        ),
        side=draw.normal(0, 9),
        twist=draw.normal(0, 13),
    )


_POSERS: dict[str, Callable[[_Draw, BodyAngles], BodyAngles]] = {
    "standing": _stand,
    "walking": _walk,
    "running": _run,
    "sitting on a chair": _sit_on_chair,
    "sitting on the floor": _sit_on_floor,
    "lying down": _lie,
    "kneeling": _kneel,
    "crouching": _crouch,
    "jumping": _jump,
    "arms raised": _raise_arms,
    "waving": _wave,
    "dancing": _dance,
}
