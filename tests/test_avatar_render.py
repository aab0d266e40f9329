"""The avatar renderer: deterministic, complete, and in agreement with its own ground truth."""

from dataclasses import replace

import numpy as np
import pytest

from bolid.avatars.identity import ATTRIBUTES, sample_identity
from bolid.avatars.render import Rendering, render, render_scene
from bolid.avatars.scene import SCENES
from bolid.avatars.seen import JOINT_NAMES
from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS, sample_angles

HEAD, UPPER, LOWER, FEET = 1, 2, 3, 4


def _draw(seed: int, family: str | None = None, view: str | None = None, **size: int) -> Rendering:
    rng = np.random.default_rng(seed)
    identity, angles = sample_identity(rng), sample_angles(rng, family, view)
    return render(identity, angles, SCENES[seed % len(SCENES)], rng, **size)


def _near(parts: np.ndarray, point: np.ndarray, reach: int = 3) -> set[int]:
    """The labels within `reach` pixels of a key-point (x, y in [0,1])."""
    height, width = parts.shape
    x, y = int(point[0] * width), int(point[1] * height)
    return set(
        np.unique(parts[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]).tolist()
    )


@pytest.mark.parametrize("family", POSE_FAMILIES)
@pytest.mark.parametrize("view", VIEWS)
def test_every_pose_and_view_is_inside_the_frame(family: str, view: str) -> None:
    for seed in range(3):
        drawn = _draw(seed, family, view)
        assert drawn.image.shape == (192, 128, 3)
        assert drawn.image.dtype == np.uint8
        assert drawn.parts.shape == (192, 128)
        assert drawn.keypoints.shape == (18, 3)
        assert drawn.keypoints.dtype == np.float32
        assert (drawn.keypoints[:, :2] >= 0).all()
        assert (drawn.keypoints[:, :2] <= 1).all()
        assert set(np.unique(drawn.keypoints[:, 2])) <= {0.0, 1.0}
        assert set(np.unique(drawn.parts)) <= {0, HEAD, UPPER, LOWER, FEET}
        assert HEAD in drawn.parts
        assert (drawn.family, drawn.view) == (family, view)


def test_same_seed_same_picture() -> None:
    first, second = _draw(7), _draw(7)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.parts, second.parts)
    np.testing.assert_array_equal(first.keypoints, second.keypoints)
    assert first.visible == second.visible


def test_parts_agree_with_seen_keypoints() -> None:
    expected = {"an": {LOWER, FEET}, "kn": {LOWER}, "wr": {UPPER}, "el": {UPPER}, "no": {HEAD}, "ey": {HEAD}}
    checked = 0
    for seed in range(40):
        drawn = _draw(seed)
        for name, point in zip(JOINT_NAMES, drawn.keypoints, strict=True):
            if point[2] == 1 and name[:2] in expected:
                checked += 1
                assert _near(drawn.parts, point) & expected[name[:2]], (seed, name)
    assert checked > 200


@pytest.mark.parametrize("family", ["standing", "walking", "arms raised"])
def test_the_face_is_seen_from_the_front_and_hidden_from_behind(family: str) -> None:
    face = [JOINT_NAMES.index(name) for name in ("nose", "eyeL", "eyeR")]
    front = np.mean([_draw(seed, family, "front").keypoints[face, 2].mean() for seed in range(10)])
    back = np.mean([_draw(seed, family, "back").keypoints[face, 2].mean() for seed in range(10)])
    assert front > 0.9
    assert back < 0.15


def test_a_larger_picture_is_the_same_one() -> None:
    for seed in range(6):
        small, large = _draw(seed), _draw(seed, height=384, width=256)
        np.testing.assert_array_equal(small.keypoints[:, :2], large.keypoints[:, :2])
        halved = large.image.reshape(192, 2, 128, 2, 3).mean((1, 3))
        assert np.abs(halved - small.image).mean() < 4  # 8-bit levels; only edges differ
        assert (large.parts[::2, ::2] == small.parts).mean() > 0.97


def test_other_aspects_are_drawn() -> None:
    drawn = _draw(3, height=128, width=128)
    assert drawn.image.shape == (128, 128, 3)
    assert (drawn.keypoints[:, :2] <= 1).all()


def test_the_background_depends_on_the_scene_seed_alone() -> None:
    rng = np.random.default_rng(0)
    empty = render_scene("street", 5)
    for _ in range(3):
        drawn = render(sample_identity(rng), sample_angles(rng), "street", rng, scene_seed=5)
        corner = np.s_[:20, :]  # above every head of a person that does not fill the frame
        background = drawn.parts[corner] == 0
        same = np.abs(drawn.image[corner].astype(int) - empty[corner]).max(-1) <= 1
        assert same[background].mean() > 0.95


def test_visible_attributes() -> None:
    rng = np.random.default_rng(1)
    person = replace(
        sample_identity(rng), glasses="glasses", beard="none", hat="none", hair="bald", shoes="boots"
    )
    front = render(person, sample_angles(rng, "standing", "front"), "studio", rng).visible
    assert front.keys() == ATTRIBUTES.keys()
    assert front["gender"]
    assert front["glasses"]
    assert front["hair"]
    assert not front["hair_colour"]
    assert front["shoes"]
    turned = replace(sample_angles(rng, "standing", "back"), yaw=180.0, neck_yaw=0.0)
    back = render(person, turned, "studio", rng).visible
    assert not back["glasses"]
    assert not back["beard"]
    assert back["hair"]


@pytest.mark.parametrize("name", ["hair", "hat", "glasses", "top", "pattern", "bottom", "shoes", "bag"])
def test_every_garment_changes_the_picture(name: str) -> None:
    rng = np.random.default_rng(4)
    person = replace(sample_identity(rng), hat="none", top="t-shirt", pattern="plain", bottom="trousers")
    angles = replace(sample_angles(rng, "standing", "front"), yaw=10.0)
    pictures = [
        render(replace(person, **{name: value}), angles, "studio", np.random.default_rng(0)).image
        for value in ATTRIBUTES[name]
    ]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert (one != other).any(-1).sum() >= 20


def test_unknown_scene_is_refused_with_the_list() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="choose one of studio, park"):
        render(sample_identity(rng), sample_angles(rng), "moon", rng)
