"""Several people in one picture, each in the region of an own pose; and the second pass over a head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stock_pipelines import draw
from tiny_pipelines import HEIGHT, MAKERS, WIDTH, make_reference

from bolid import BoLIDPipeline, Identity, Pose, Reference
from bolid.attention import region_at
from bolid.pose import PARTS
from bolid.refine import head_view, in_view
from bolid.regions import group_width, head_circle, head_regions, in_column, person_regions
from bolid.request import Asked, make_request

PEOPLE = (make_reference(), make_reference("walking", colours={2: (20, 220, 20), 3: (240, 240, 20)}))


def two(pipe: Any) -> list[Identity]:
    return [pipe.encode_identity(each) for each in PEOPLE]


@pytest.mark.parametrize("family", list(MAKERS))
def test_one_text_and_two_people_are_one_picture(family: str) -> None:
    pipe = MAKERS[family]()
    people = two(pipe)
    both = draw(pipe, "a", people, pose=["standing", "sitting"], num_images_per_prompt=2)
    assert both.shape == (2, 4, pipe.picture_size[0] // 8, group_width(*pipe.picture_size, 2, 8) // 8)
    assert not torch.equal(
        both, draw(pipe, "a", people[::-1], pose=["standing", "sitting"], num_images_per_prompt=2)
    )
    none = draw(pipe, "a", people, pose=["standing", "sitting"], id_strength=0)
    alone = draw(pipe, "a", width=both.shape[-1] * 8)
    assert not torch.equal(none, alone)  # the skeletons stay


def test_each_acts_in_an_own_region(mini: BoLIDPipeline) -> None:
    poses = np.stack(
        [in_column(Pose.named(name).keypoints, i, 2) for i, name in enumerate(("standing", "sitting"))]
    )
    regions = person_regions(poses, 24, 32)
    assert regions.shape == (2, 1, 24, 32)
    assert (regions[0] * regions[1]).max() == 0
    for points, region in zip(poses, regions, strict=True):
        joints = (points[points[:, 2] > 0, :2] * (32, 24)).astype(int)
        assert region[0, joints[:, 1], joints[:, 0]].min() > 0.9
    assert regions[0, 0, :, 31].max() == 0
    size = [side // 8 for side in (HEIGHT, group_width(HEIGHT, WIDTH, 2, 8))]
    regions = person_regions(poses, *size)
    other = [two(mini)[0], mini.encode_identity(make_reference("walking", colours={2: (9, 9, 9)}))]
    conditions, changed = conditions_of(mini, two(mini)), conditions_of(mini, other)
    for index, group in enumerate(conditions.groups):
        assert group.region is not None
        assert torch.equal(group.region[0], regions[index])
    for name, keys in conditions.groups[0].keys.items():
        assert torch.equal(keys, changed.groups[0].keys[name])
    for name, residual in conditions.body.items():  # another second person changes nothing outside its region
        differs = (residual - changed.body[name]).abs().amax(dim=(0, 2))
        inside = region_at(regions[1][None], residual.shape[1])[0, :, 0] > 0
        assert not differs[~inside].any()
        assert differs[inside].any()


def conditions_of(pipe: Any, people: list[Identity]) -> Any:
    """What the UNet gets of two people in one picture, standing and sitting, the poses' proportions kept."""
    asked = Asked("a", None, people, ["standing", "sitting"], None, 0.5, 1.0, 1.0, False, None, None)
    plan = pipe.plan(make_request(asked, pipe.picture_size, 8))
    with torch.no_grad():
        return pipe.conditions_for(plan, 1, True)


def test_a_person_at_zero_has_no_influence(mini: BoLIDPipeline) -> None:
    first = mini.encode_identity(PEOPLE[0])
    others = [
        mini.encode_identity(make_reference(colours={2: colour})) for colour in ((9, 9, 9), (250, 9, 9))
    ]
    options: dict[str, Any] = {
        "pose": ["standing", "sitting"],
        "id_strength": [1.0, dict.fromkeys(PARTS, 0.0)],
    }
    dark, red = (draw(mini, "a", [first, other], **options) for other in others)
    assert torch.equal(dark, red)
    options["id_strength"] = 1.0
    dark, red = (draw(mini, "a", [first, other], **options) for other in others)
    assert not torch.equal(dark, red)


def test_the_scene_of_an_image_prompt_is_everywhere(mini: BoLIDPipeline) -> None:
    people = two(mini)
    options: dict[str, Any] = {"pose": ["standing", "sitting"], "width": 128}
    plain = draw(mini, "a", people, **options)
    assert not torch.allclose(plain, draw(mini, "a", people, image_prompt=PEOPLE[0].image, **options))


def test_poses_that_say_where_are_taken_where_they_are(mini: BoLIDPipeline) -> None:
    people = two(mini)
    placed = [in_column(Pose.named(name).keypoints, i, 2) for i, name in enumerate(("standing", "sitting"))]
    named = draw(mini, "a", people, pose=["standing", "sitting"], width=128, retarget=True)
    given = draw(mini, "a", people, pose=placed, width=128, retarget=True)
    assert (named - given).abs().max() < 1e-3  # columns of 64 x 96 pixels are named poses' own 2:3 frame


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "2 people in one picture have 0 poses; give one pose each"),
        ({"pose": "sitting"}, "have 1 poses"),
        ({"pose": ["sitting", None]}, "have 1 poses"),
        ({"pose": ["sitting"] * 3}, "have 3 poses"),
        ({"pose": ["sitting"] * 2, "pose_strength": 0}, "the poses say where each person is"),
        ({"pose": ["sitting"] * 2, "id_strength": [1.0]}, "1 values for 2"),
        ({"pose": ["sitting"] * 2, "image_prompt": [None, None]}, "2 pictures for one prompt"),
    ],
)
def test_mistakes(mini: BoLIDPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(mini, "a", two(mini), **options)


class TestHead:
    @pytest.mark.parametrize("family", list(MAKERS))
    def test_only_the_head_is_drawn_again(self, family: str, person: Reference) -> None:
        pipe = MAKERS[family]()
        picture = Image.fromarray(np.kron(person.image, np.ones((2, 2, 1), np.uint8)))
        options: dict[str, Any] = {"pose": person.keypoints, "num_inference_steps": 3, "generator": 7}
        seen = pipe.refine_head(picture, "a", person, **options)
        assert seen.size == picture.size
        changed = np.abs(np.asarray(seen, int) - np.asarray(picture, int)).max(axis=-1) > 0
        head = head_circle(person.keypoints, WIDTH / HEIGHT)
        assert head is not None
        (x, y), _ = head
        assert changed[round(y * picture.height), round(x * picture.width)]
        view = head_view(person.keypoints, (picture.height, picture.width), pipe.picture_size)
        assert view is not None
        assert not changed[round(view.top + view.height) + 1 :].any()
        other = make_reference(colours={1: (20, 40, 220)})
        assert pipe.refine_head(picture, "a", other, **options) != seen  # the identity is in it again
        larger = pipe.refine_head(picture, "a", person, enlarge=2, **options)
        assert larger.size == (2 * picture.width, 2 * picture.height)

    def test_without_a_head_it_says_so(self, mini: BoLIDPipeline, person: Reference) -> None:
        points = person.keypoints.copy()
        points[[0, 14, 15, 16, 17]] = 0
        with pytest.raises(ValueError, match="shows no head"):
            mini.refine_head(person.image, "a", person, pose=points)

    def test_the_view_holds_the_head(self) -> None:
        points = Pose.named("standing").keypoints
        view = head_view(points, (192, 128), (96, 64))
        assert view is not None
        assert view.width / view.height == pytest.approx(64 / 96)
        inside = in_view(points, view, (192, 128))
        assert ((inside[[0, 14, 15], :2] > 0.2) & (inside[[0, 14, 15], :2] < 0.8)).all()
        assert (inside[[10, 13], 1] > 1).all()  # the feet are out of it

    def test_head_regions(self) -> None:
        regions = head_regions(np.stack([Pose.named("standing").keypoints, np.zeros((18, 3))]), 24, 16)
        assert 0 < regions[0].mean() < 0.3
        assert (regions[1] == 1).all()
