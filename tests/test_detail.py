"""DetailNet, and the pipeline that has one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import MAKERS, make_detail, make_mini, make_reference, without
from transformers import CLIPImageProcessor

from bolid.detail import CELL, REACH, WHOLE, DetailNet, changeable, near
from bolid.hub import write_hub_layout
from bolid.pipeline import BoLIDPipeline
from bolid.request import Asked, make_request


def a_map(height: int = 64, width: int = 48) -> torch.Tensor:
    """A map with one square of 8 x 8 pixels."""
    appearance = torch.zeros(1, 4, height, width)
    appearance[:, :, 24:32, 16:24] = 0.5
    return appearance


def black(appearance: torch.Tensor) -> torch.Tensor:
    """The skeleton map of nobody, beside a map."""
    return torch.zeros_like(appearance[:, :3])


def test_a_new_net_changes_nothing():
    picture, appearance = torch.rand(2, 3, 64, 48), a_map().repeat(2, 1, 1, 1)
    skeleton, words = torch.rand(2, 3, 64, 48), torch.randn(2, 5, 16)
    torch.testing.assert_close(DetailNet()(picture, appearance, skeleton), picture, rtol=0, atol=0)
    reads = DetailNet(cross_attention_dim=16)
    torch.testing.assert_close(reads(picture, appearance, skeleton, words), picture, rtol=0, atol=0)


def test_a_share_of_the_map_lies_over_the_picture():
    picture, appearance = torch.rand(1, 3, 64, 48), a_map()
    appearance[:, :3] = -appearance[:, 3:]  # black, times the strength
    made = DetailNet(share=0.4)(picture, appearance, black(appearance))
    inside, expected = (..., slice(24, 32), slice(16, 24)), picture.clone()
    expected[inside] += 0.4 * 0.5 * (-1 - picture[inside])
    torch.testing.assert_close(made, expected)
    with pytest.raises(ValueError, match="from 0 to 1"):
        DetailNet(share=1.5)


def test_only_the_map_and_what_is_near_it_change():
    height, width = 192, 128
    picture, appearance = torch.rand(1, 3, height, width), torch.zeros(1, 4, height, width)
    appearance[:, :, 80:88, 60:68] = WHOLE
    change = (make_detail()(picture, appearance, black(appearance)) - picture).abs().sum(1)[0]
    assert change[80:88, 60:68].min() > 0
    reach = round(REACH * height)
    for low, high, places in ((80, 88, change.sum(1)), (60, 68, change.sum(0))):
        changed = places.nonzero().squeeze(1)
        assert low - reach <= int(changed.min()) < low
        assert high <= int(changed.max()) < high + reach
    assert near(appearance[:, 3:]).max() == 1


def test_how_far_it_reaches_does_not_depend_on_where_the_map_begins():
    for height, start in ((192, 81), (192, 83), (64, 30), (512, 201)):
        coverage = torch.zeros(1, 1, height, 128)
        coverage[:, :, start : start + 5, 60] = 1
        changed = near(coverage)[0, 0].sum(1).nonzero().squeeze(1)
        far = max(start - int(changed.min()), int(changed.max()) - (start + 4))
        assert 4 < far <= max(REACH * height + CELL, 3 * CELL)


def test_a_fading_map_fades_the_change():
    strong, weak = torch.ones(1, 1, 64, 48), torch.full((1, 1, 64, 48), 0.05)
    assert near(strong).min() == 1
    torch.testing.assert_close(near(weak), near(strong) * 0.05 / WHOLE)
    torch.testing.assert_close(near(WHOLE / 2 * strong), near(strong) / 2)
    torch.testing.assert_close(near(WHOLE * strong), near(strong))


def test_an_empty_map_leaves_its_picture():
    picture, maps = torch.rand(2, 3, 64, 48), torch.cat([a_map(), torch.zeros(1, 4, 64, 48)])
    changed = make_detail()(picture, maps, torch.ones(2, 3, 64, 48))
    assert not torch.equal(changed[0], picture[0])
    torch.testing.assert_close(changed[1], picture[1], rtol=0, atol=0)


def test_what_has_bones_and_no_map_may_change_as_far_as_there_is_a_map():
    """Clothes may come by words: the map shows a head, the skeleton a whole body."""
    appearance, skeleton = torch.zeros(3, 4, 192, 128), torch.zeros(3, 3, 192, 128)
    appearance[0, :, 20:28, 60:68] = 1.0
    appearance[1, :, 20:28, 60:68] = 0.05
    skeleton[:, 1, 120:124, 60:64] = 0.8
    may = changeable(appearance, skeleton)[:, 0]
    assert may[0, 24, 64] == 1
    assert may[0, 122, 62] == 1
    assert may[0, 180, 62] == 0
    assert 0 < may[1, 122, 62] < 0.25
    assert may[2].max() == 0


def test_words_decide():
    picture, appearance, skeleton = torch.rand(1, 3, 64, 48), a_map(), torch.zeros(1, 3, 64, 48)
    net, words = make_detail(16), torch.randn(2, 5, 16)
    one, other = (net(picture, appearance, skeleton, each[None]) for each in words)
    assert (one - other).abs().max() > 0.01
    with pytest.raises(ValueError, match="no words, and this DetailNet reads 16"):
        net(picture, appearance, skeleton)
    with pytest.raises(ValueError, match="words of width 16, and this DetailNet reads none"):
        make_detail()(picture, appearance, skeleton, words[:1])
    with pytest.raises(ValueError, match="multiples of 4"):
        DetailNet((8, 10), (1, 1), 16)


def test_a_larger_net_starts_as_a_smaller_one_and_all_of_it_learns():
    torch.manual_seed(1)
    small = DetailNet((8, 8), (1, 1), heads=2)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    large, words = DetailNet((12, 16), (2, 2), 16, share=0.3), torch.randn(1, 5, 16)
    large.start_as(small)
    given = torch.rand(1, 3, 64, 48), a_map(), torch.rand(1, 3, 64, 48)
    less = small(*given)
    over = 0.3 * (given[1][:, :3] - given[1][:, 3:] * less)
    torch.testing.assert_close(large(*given, words), less + over, rtol=1e-4, atol=1e-5)
    optimiser = torch.optim.Adam(large.parameters(), 1e-2)
    before = {name: value.clone() for name, value in large.state_dict().items()}
    for _ in range(4):  # what reaches others by zeros learns after these
        optimiser.zero_grad()
        large(*given, words).square().mean().backward()
        optimiser.step()
    same = [name for name, value in large.state_dict().items() if torch.equal(value, before[name])]
    assert same == []
    with pytest.raises(ValueError, match="has no place here"):
        small.start_as(large)


@pytest.mark.parametrize(
    ("picture", "appearance"), [((64, 48), (32, 24)), ((62, 48), (62, 48)), ((64, 46), (64, 46))]
)
def test_sizes_must_fit(picture, appearance):
    with pytest.raises(ValueError, match="multiples of 4"):
        make_detail()(
            torch.zeros(1, 3, *picture), torch.zeros(1, 4, *appearance), torch.zeros(1, 3, *picture)
        )
    with pytest.raises(ValueError, match="one of each a level"):
        DetailNet((8, 8), (1,))


@pytest.fixture(scope="module", params=list(MAKERS))
def pipe(request) -> Any:
    made = MAKERS[request.param]()
    made.register_modules(detail=make_detail(made.unet.config.cross_attention_dim))
    return made


def call(pipe: Any, **changes: Any) -> np.ndarray:
    given = {
        "prompt": "a",
        "reference": make_reference(),
        "pose": "standing",
        "generator": 0,
        "output_type": "np",
    }
    return np.asarray(pipe(**(given | changes)).images)


def test_details_come_by_their_strength(pipe):
    whole, half, none = (call(pipe, detail_strength=strength) for strength in (1.0, 0.5, 0.0))
    plain = without(pipe, "detail")
    np.testing.assert_array_equal(none, call(plain))
    assert np.abs(whole - none).max() > 0.02
    inside = (whole > 0.01) & (whole < 0.99) & (none > 0.01) & (none < 0.99)
    np.testing.assert_allclose(half[inside], ((whole + none) / 2)[inside], atol=0.01)
    weaker = call(pipe, detail_strength=1.0, id_strength=0.0)
    np.testing.assert_array_equal(weaker, call(plain, id_strength=0.0))
    np.testing.assert_array_equal(call(pipe, pose=None), call(plain, pose=None))
    np.testing.assert_array_equal(call(pipe, output_type="latent"), call(plain, output_type="latent"))


def test_the_prompt_is_read_whether_it_comes_as_text_or_embeddings(pipe):
    embeds = torch.cat(pipe.text_states(["a", "b"], {}, range(2)))
    assert not torch.equal(embeds[0], embeds[1])
    both = call(pipe, prompt=["a", "b"], reference=[make_reference()], num_images_per_prompt=2)
    np.testing.assert_allclose(both[2:3], call(pipe, prompt="b"), atol=2e-3)
    if pipe.is_xl:  # its pooled embeddings would be needed too
        return
    np.testing.assert_allclose(
        call(pipe, prompt=None, prompt_embeds=embeds[:1], guidance_scale=1.0),
        call(pipe, guidance_scale=1.0),
        atol=1e-5,
    )


def test_every_form_of_output_is_there(pipe):
    exact = call(pipe)
    assert isinstance(pipe("a", make_reference(), "standing", generator=0).images[0], Image.Image)
    tensor = call(pipe, output_type="pt")
    np.testing.assert_allclose(tensor.transpose(0, 2, 3, 1), exact, atol=1e-6)
    as_tuple = pipe("a", make_reference(), "standing", generator=0, output_type="np", return_dict=False)
    np.testing.assert_array_equal(as_tuple[0], exact)
    assert len(as_tuple) == (1 if pipe.is_xl else 2)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, "much", None])
def test_a_wrong_strength_is_named(wrong):
    with pytest.raises(ValueError, match="detail_strength"):
        call(make_mini(), detail_strength=wrong)


def test_what_a_mask_keeps_stays(pipe):
    height, width = pipe.picture_size
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2] = 255
    mask[height // 2 :] = 100  # the stock pipelines read it as black
    given = {"image": picture, "mask_image": Image.fromarray(mask), "num_images_per_prompt": 2}
    with_them, plain = call(pipe, **given), call(pipe, **given, detail_strength=0.0)
    assert np.abs(with_them - plain)[:, : height // 2].max() > 0.01
    np.testing.assert_allclose(with_them[:, height // 2 :], plain[:, height // 2 :], atol=1e-6)


def test_people_of_a_group_get_their_own_maps_where_they_act():
    pipe = make_mini()
    pipe.register_modules(detail=make_detail())
    people = [
        pipe.encode_identity(make_reference(colours={2: colour})) for colour in ((250, 0, 0), (0, 0, 250))
    ]
    poses = ["standing", "sitting"]
    asked = Asked("a", None, people, poses, None, 0.0, 1.0, 1.0, False, None, None)
    plan = pipe.plan(make_request(asked, pipe.picture_size, 8))
    maps, regions = plan.maps, plan.regions(*plan.request.size)
    assert maps.shape == (1, 4, *plan.request.size)
    for own, region, colour in zip((0, 1), regions, (0, 2), strict=True):
        here = (region > 0) & (plan.persons[own].maps[0, 3:] > 0)
        assert here.any()
        torch.testing.assert_close(maps[0] * here, plan.persons[own].maps[0] * here)
        shown = (maps[0, :3] * (region > 0))[:, (maps[0, 3] > 0) & (region[0] > 0)]
        assert (shown[colour] > 0.9).any()
        assert not (shown[2 - colour] > 0.9).any()
    given = {"reference": people, "pose": poses}
    change = np.abs(call(pipe, **given) - call(pipe, **given, detail_strength=0.0))[0].max((0, 2))
    assert change[: len(change) // 2].max() > 0.01
    assert change[len(change) // 2 :].max() > 0.01


def test_rows_without_a_pose_stay_and_pictures_keep_their_order():
    pipe = make_mini()
    pipe.register_modules(detail=make_detail())
    person = pipe.encode_identity(make_reference())
    given = {"prompt": ["a", "b"], "reference": [person, person], "pose": ["standing", None]}
    given |= {"num_images_per_prompt": 2}
    with_them, plain = call(pipe, **given), call(pipe, **given, detail_strength=0.0)
    assert np.abs(with_them - plain)[:2].max((1, 2, 3)).min() > 0.01
    np.testing.assert_allclose(with_them[2:], plain[2:], atol=1e-6)


class Refusing(torch.nn.Module):
    """In the place of the stock safety checker: the first picture of its first call is refused."""

    calls = 0

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, images: torch.Tensor, **_inputs: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        refused = [self.calls == 0 and index == 0 for index in range(len(images))]
        self.calls += 1
        for index, each in enumerate(refused):
            if each:
                images[index] = torch.zeros_like(images[index])
        return images, refused


def test_the_safety_checker_sees_the_finished_pictures_too():
    pipe: Any = MAKERS["sd15"]()
    checker = Refusing()
    pipe.register_modules(detail=make_detail())
    pipe.safety_checker, pipe.feature_extractor = checker, CLIPImageProcessor(size=16, crop_size=16)
    drawn = pipe(["a", "b"], [make_reference()], "standing", generator=0, output_type="np")
    assert checker.calls == 2
    assert drawn.nsfw_content_detected == [True, False]
    assert np.ptp(drawn.images[0]) == 0
    assert np.ptp(drawn.images[1]) > 0.1


def test_half_precision_changes_nothing_far_from_the_map():
    picture, net = torch.rand(1, 3, 64, 48), make_detail().half()
    finished = net(picture, a_map(), black(a_map()))
    assert finished.dtype == torch.float32
    far = (near(a_map()[:, 3:]) == 0).expand_as(picture)
    torch.testing.assert_close(finished[far], picture[far], rtol=0, atol=0)


def test_a_size_that_does_not_fit_is_refused_before_anything_is_drawn():
    pipe = make_mini()
    pipe.register_modules(detail=DetailNet((8, 8, 8, 8), (1, 1, 1, 1)))
    with pytest.raises(ValueError, match="multiples of 16, or detail_strength=0"):
        call(pipe, height=72)
    call(pipe, height=72, detail_strength=0.0)


def test_it_travels_with_pipeline_and_adapter(tmp_path):
    pipe = make_mini()
    pipe.register_modules(detail=make_detail())
    pipe.save_pretrained(tmp_path / "whole")
    pipe.save_bolid_adapter(tmp_path / "adapter")
    opened = BoLIDPipeline.from_pretrained(tmp_path / "whole")
    opened.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(call(opened), call(pipe))
    assert BoLIDPipeline.from_pretrained(tmp_path / "whole", detail=None).detail is None
    plain = without(pipe, "detail")
    plain.unload_bolid_adapter()
    plain.load_bolid_adapter(tmp_path / "adapter")
    plain.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(call(plain), call(pipe))
    plain.unload_bolid_adapter()
    assert plain.detail is None


def test_a_repository_names_it_for_both_readers(tmp_path):
    pipe = make_mini()
    pipe.register_modules(detail=make_detail())
    pipe.save_pretrained(tmp_path)
    write_hub_layout(tmp_path, "a card")
    assert json.loads((tmp_path / "model_index.json").read_text())["detail"] == ["bolid_detail", "DetailNet"]
    assert "from bolid.detail import DetailNet" in (tmp_path / "detail" / "bolid_detail.py").read_text()
    opened = BoLIDPipeline.from_pretrained(tmp_path)
    opened.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(call(opened), call(pipe))
