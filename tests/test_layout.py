"""LayoutNet, and calls without a pose on a pipeline that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stock_pipelines import draw, stock
from tiny_pipelines import (
    MAKERS,
    make_controlnet,
    make_detail,
    make_layout,
    make_mini,
    make_reference,
    without,
)

from bolid.hub import write_hub_layout
from bolid.layout import LayoutNet
from bolid.pipeline import BoLIDPipeline
from bolid.pose import FACE, Pose, known

TEXT = 8  # width of the prompts' states


def words(count: int = 2, length: int = 5) -> torch.Tensor:
    return torch.randn(count, length, TEXT, generator=torch.Generator().manual_seed(1))


def noise(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 18, 3, generator=torch.Generator().manual_seed(2))


def small() -> LayoutNet:
    torch.manual_seed(0)
    return LayoutNet(TEXT, 5, width=16, layers=2, heads=2).eval()


def test_a_sample_is_key_points_that_the_noise_alone_decides():
    net = small()
    points = net.sample(words(), noise())
    assert points.shape == (2, 18, 3)
    assert set(points[..., 2].unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(net.sample(words(), noise()), points, rtol=0, atol=0)
    assert not torch.equal(net.sample(words(), noise() + 0.5), points)
    assert not torch.equal(net.sample(words() + 0.5, noise()), points)


def test_rows_do_not_touch_each_other():
    net, changed = small(), noise()
    changed[1] += 1
    points, others = net.sample(words(), noise()), net.sample(words(), changed)
    torch.testing.assert_close(points[0], others[0])
    assert not torch.allclose(points[1], others[1])
    torch.testing.assert_close(net.sample(words()[:1], noise()[:1])[0], points[0])


def test_guidance_leads_away_from_what_no_words_give():
    net = small()
    plain, led = (net.sample(words(), noise(), guidance=share)[..., :2] for share in (1.0, 2.0))
    net.empty.copy_(words()[0])
    alone = net.sample(words()[:1], noise()[:1], guidance=2.0)
    torch.testing.assert_close(alone[..., :2], plain[:1])
    assert not torch.allclose(led, plain)


def test_half_precision_samples_nearly_the_same():
    points, halved = small().sample(words(), noise()), small().half().sample(words(), noise())
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved[..., :2], points[..., :2], rtol=0, atol=0.01)


def test_normalised_key_points_are_about_of_deviation_one():
    points = torch.tensor(Pose.named("standing").keypoints)[None]
    inside = small().normalised(points)
    back = inside[..., :2] * 0.19 + torch.tensor((0.5, 0.475))
    torch.testing.assert_close(back, points[..., :2])
    assert inside[..., :2].abs().max() < 3
    hidden = points.clone()
    hidden[..., 2] = 0.5
    assert (small().normalised(hidden)[..., 2] == -1).all()


def test_it_is_small():
    assert sum(each.numel() for each in LayoutNet(192, 64).parameters()) <= 220_000


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="no multiple of heads=3"):
        LayoutNet(TEXT, 5, width=16, heads=3)
    with pytest.raises(ValueError, match="made for another text encoder"):
        small().sample(torch.zeros(1, 5, TEXT + 1), noise(1))


@pytest.fixture(scope="module", params=list(MAKERS))
def pipe(request) -> Any:
    made = MAKERS[request.param]()
    made.register_modules(layout=make_layout(made))
    return made


@pytest.fixture(scope="module")
def mini() -> Any:
    made = make_mini()
    made.register_modules(layout=make_layout(made))
    return made


def given_pose(pipe: Any, prompt: str, seed: int, **options: Any) -> torch.Tensor:
    """The call with the pose that it would find, given."""
    noise = torch.Generator().manual_seed(seed)
    pose = pipe.pose_from_prompt(prompt, noise)
    return draw(pipe, prompt, make_reference(), **({"pose": pose, "generator": noise} | options))


def test_a_call_without_a_pose_is_one_with_the_pose_of_its_prompt(pipe):
    found = draw(pipe, "a", make_reference())
    torch.testing.assert_close(found, given_pose(pipe, "a", 7, retarget=True), rtol=0, atol=0)
    torch.testing.assert_close(
        draw(pipe, "a", make_reference(), retarget=False), given_pose(pipe, "a", 7), rtol=0, atol=0
    )
    assert not torch.equal(found, draw(without(pipe, "layout"), "a", make_reference()))
    assert not torch.equal(found, draw(pipe, "a", make_reference(), generator=8))


def test_without_a_person_it_is_the_stock_pipeline(pipe):
    for reference, options in ((None, {}), (make_reference(), {"id_strength": 0})):
        ours = draw(pipe, "a", reference, num_images_per_prompt=2, generator=7, **options)
        pipe.adapter.detach(pipe.unet)
        seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
        theirs = stock(pipe)(
            "a", num_images_per_prompt=2, generator=seeds, num_inference_steps=2, output_type="latent",
            guidance_scale=2.0,
        ).images  # fmt: skip
        pipe.adapter.attach(pipe.unet)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", [{"pose_strength": 0}, {"pose": "sitting"}, {"image": True}])
def test_where_it_does_not_act_all_is_as_without(mini, options):
    if "image" in options:
        options = {"image": make_reference().image, "strength": 0.9}
    ours = draw(mini, "a", make_reference(), **options)
    assert torch.equal(ours, draw(without(mini, "layout"), "a", make_reference(), **options))


def test_every_picture_has_a_pose_of_its_own(pipe):
    people = [make_reference(), make_reference(colours={2: (0, 0, 250)})]
    people = [pipe.encode_identity(each) for each in people]
    many = draw(pipe, ["a", "b"], people, num_images_per_prompt=2, negative_prompt="c", generator=7)
    assert len(many) == 4
    assert not torch.allclose(pose_of(pipe, "a", 7), pose_of(pipe, "a", 8))
    for index, (prompt, person) in enumerate((("a", people[0]), ("b", people[1]))):
        for picture in range(2):
            alone = draw(pipe, prompt, person, negative_prompt="c", generator=7 + picture)
            torch.testing.assert_close(many[2 * index + picture], alone[0], rtol=1e-4, atol=1e-4)


def pose_of(pipe: Any, prompt: str, seed: int) -> torch.Tensor:
    return torch.from_numpy(pipe.pose_from_prompt(prompt, seed).keypoints.copy())


def test_rows_with_a_pose_and_rows_without_a_person_stay_as_they_are(mini):
    person = mini.encode_identity(make_reference())
    strengths = [1.0, 1.0, 0.0]
    poses = [None, "sitting", None]
    many = draw(mini, ["a", "b", "c"], [person] * 3, pose=poses, id_strength=strengths)
    for row, prompt in enumerate(("a", "b", "c")):
        options = {"pose": poses[row], "id_strength": strengths[row]}
        alone = draw(mini, prompt, person, **options)
        torch.testing.assert_close(many[row], alone[0], rtol=0, atol=1e-4)
        assert torch.equal(alone, draw(without(mini, "layout"), prompt, person, **options)) == (row > 0)


def test_embeddings_count_as_their_prompt(mini):
    states, negative = mini.encode_prompt("a", "cpu", 1, True, "b")
    given = {"prompt_embeds": states, "negative_prompt_embeds": negative, "num_images_per_prompt": 2}
    ours = draw(mini, None, make_reference(), **given)
    theirs = draw(mini, "a", make_reference(), negative_prompt="b", num_images_per_prompt=2)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


def test_generators_of_every_kind(mini):
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    listed = draw(mini, "a", make_reference(), num_images_per_prompt=2, generator=seeds)
    assert torch.equal(listed, draw(mini, "a", make_reference(), num_images_per_prompt=2, generator=7))
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(draw(mini, "a", make_reference(), num_images_per_prompt=2, generator=None))
    assert torch.equal(*drawn)
    one = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert torch.equal(*(draw(mini, "a", make_reference(), generator=each) for each in one))


def test_steps_are_those_of_a_call_with_a_pose(mini):
    pipe = without(mini, "layout")
    pipe.register_to_config(default_steps_unposed=3)

    def steps(**options: Any) -> int:
        seen: list[int] = []
        pipe(
            "a", make_reference(), output_type="latent",
            callback_on_step_end=lambda _run, step, _time, tensors: seen.append(step) or tensors, **options,
        )  # fmt: skip
        return len(seen)

    assert steps() == 3
    pipe.register_modules(layout=make_layout(pipe))
    assert steps() == 2
    assert steps(pose_strength=0) == steps(id_strength=0) == 3


def test_a_wide_picture_keeps_the_pose_s_shape(mini):
    height, width = mini.picture_size
    pose = mini.pose_from_prompt("a", 7)
    points = pose.keypoints.copy()
    points[:, 0] = np.where(points[:, 2] > 0, (points[:, 0] + 0.5) / 2, 0)  # the frame stands in the middle
    noise = torch.Generator().manual_seed(7)
    mini.pose_from_prompt("a", noise)
    wide = {"width": 2 * width, "height": height}
    ours = draw(mini, "a", make_reference(), retarget=False, **wide)
    theirs = draw(mini, "a", make_reference(), pose=Pose(points), generator=noise, **wide)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_details_and_a_controlnet_get_the_pose_too(mini):
    pipe = without(mini, "layout")
    pipe.register_modules(
        layout=mini.layout, detail=make_detail(), controlnet=make_controlnet(pipe.unet)
    )  # fmt: skip
    ours = draw(pipe, "a", make_reference(), output_type="np", num_images_per_prompt=2)
    theirs = given_pose(pipe, "a", 7, retarget=True, output_type="np")
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    assert np.abs(ours[0] - ours[1]).max() > 0.01


def test_a_pose_can_be_seen_beforehand(mini):
    pose = mini.pose_from_prompt("a", 7)
    assert isinstance(pose, Pose)
    points = pose.keypoints
    assert not points[points[:, 2] == 0].any()
    assert set(points[list(FACE), 2].tolist()) <= {0.0, 1.0}
    np.testing.assert_array_equal(known(points), points)
    listed = mini.pose_from_prompt(["a", "b"], 7)
    np.testing.assert_allclose(listed[0].keypoints, points, atol=1e-5)
    assert isinstance(mini.pose_from_prompt(["a"]), list)


def test_mistakes_are_named(mini):
    with pytest.raises(ValueError, match=r"no layout.*name a pose"):
        without(mini, "layout").pose_from_prompt("a")
    with pytest.raises(ValueError, match="give a text, or a list of texts"):
        mini.pose_from_prompt(3)
    with pytest.raises(ValueError, match="generator lists 1 for 2 pictures"):
        mini.pose_from_prompt(["a", "b"], [3])


def test_it_travels_with_pipeline_and_adapter(mini, tmp_path: Path):
    mini.save_pretrained(tmp_path / "whole")
    mini.save_bolid_adapter(tmp_path / "adapter")
    expected = draw(mini, "a", make_reference())
    opened = BoLIDPipeline.from_pretrained(tmp_path / "whole")
    opened.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(opened, "a", make_reference()), expected, rtol=0, atol=2e-5)
    assert BoLIDPipeline.from_pretrained(tmp_path / "whole", layout=None).layout is None
    opened.unload_bolid_adapter()
    assert opened.layout is None
    opened.load_bolid_adapter(tmp_path / "adapter")
    torch.testing.assert_close(draw(opened, "a", make_reference()), expected, rtol=0, atol=2e-5)
    write_hub_layout(tmp_path / "whole", "a card")
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["layout"] == ["bolid_layout", "LayoutNet"]
    assert BoLIDPipeline.from_pretrained(tmp_path / "whole").layout is not None
