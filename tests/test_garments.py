"""GarmentNet, and calls whose clothes come by words on a pipeline that has one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stock_pipelines import draw
from tiny_pipelines import (
    MAKERS,
    make_detail,
    make_garments,
    make_layout,
    make_mini,
    make_reference,
    without,
)

from bolid.garments import LEAST, SURE, GarmentNet
from bolid.hub import write_hub_layout
from bolid.pipeline import BoLIDPipeline
from bolid.request import Asked, make_request

TEXT = 8  # width of the prompts' states
BARE = {"upper": 0, "lower": 0}


def small() -> GarmentNet:
    torch.manual_seed(0)
    net = GarmentNet(TEXT, channels=(6, 8), kernel=3, heads=2)
    torch.nn.init.normal_(net.leave.weight, std=1.0)
    return net.eval()


def seen(count: int = 2, height: int = 96, width: int = 64) -> list[torch.Tensor]:
    """Map, skeleton and words."""
    source = torch.Generator().manual_seed(1)
    strength = (torch.rand(count, 1, height, width, generator=source) > 0.7).float()
    colours = 2 * torch.rand(count, 3, height, width, generator=source) - 1
    skeleton = torch.rand(count, 3, height, width, generator=source)
    return [torch.cat([colours * strength, strength], 1), skeleton,
            torch.randn(count, 5, TEXT, generator=source)]  # fmt: skip


def test_it_draws_by_map_skeleton_and_words():
    net, given = small(), seen()
    colours, logits = net(*given)
    assert colours.shape == (2, 3, 96, 64)
    assert logits.shape == (2, 2, 96, 64)
    for at, each in enumerate(given):
        others = [*given[:at], each.flip(0), *given[at + 1 :]]
        assert not torch.allclose(net(*others)[0], colours)


def test_rows_do_not_touch_each_other():
    net, given = small(), seen()
    alone = net(*(each[:1] for each in given))
    for one, both in zip(alone, net(*given), strict=True):
        torch.testing.assert_close(one[0], both[0], rtol=0, atol=1e-5)


def test_sizes_of_whole_places_work_and_others_are_named():
    net = small()
    assert net(*seen(1, 104, 72))[1].shape == (1, 2, 104, 72)
    with pytest.raises(ValueError, match="multiples of 8"):
        net(*seen(1, 100, 64))
    given = seen(1)
    with pytest.raises(ValueError, match="both must have one"):
        net(given[0], given[1][..., :32], given[2])
    with pytest.raises(ValueError, match="another text encoder"):
        net(*given[:2], torch.zeros(1, 5, TEXT + 1))
    with pytest.raises(ValueError, match="multiple of heads=3"):
        GarmentNet(TEXT, channels=(6, 8), heads=3)


def test_it_is_small():
    assert sum(each.numel() for each in GarmentNet(192).parameters()) <= 136_000


def test_a_map_is_filled_where_it_leaves_room():
    net, given = small(), seen()
    appearance = given[0]
    room = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    filled = net.fill(*given, room)
    assert torch.equal(filled[1], appearance[1])
    covered = appearance[0, 3] > 0
    assert torch.equal(filled[0][:, covered], appearance[0][:, covered])
    assert filled[0, 3].max() <= 1
    assert filled[0, 3][~covered].mean() > 0.1
    assert (filled[0, :3].abs() <= filled[0, 3:] + 1e-6).all()  # colours are times what covers
    half = net.fill(*given, room / 2)
    free = ~covered & (filled[0, 3] < 1)
    torch.testing.assert_close(half[0][:, free], filled[0][:, free] / 2)


def test_what_is_nowhere_sure_is_not_named():
    net, given = small(), seen()
    torch.nn.init.zeros_(net.leave.weight)
    upper, lower = net.leave.bias[3 * 16 : 4 * 16], net.leave.bias[4 * 16 :]
    with torch.no_grad():
        upper.fill_(logit(SURE - 0.01))
        lower.fill_(logit(SURE - 0.01))
        assert torch.equal(net.fill(*given, torch.ones(2, 2)), given[0])
        upper[0] = logit(SURE + 0.01)  # in one pixel of sixteen
    filled = net.fill(*given, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert (filled[0, 3] > given[0][0, 3]).float().mean() > 0.3
    assert torch.equal(filled[1], given[0][1])  # nothing lower is named


def test_what_is_surely_bare_stays_empty():
    net, given = small(), seen()
    torch.nn.init.zeros_(net.leave.weight)
    with torch.no_grad():
        net.leave.bias[3 * 16 :] = logit(LEAST - 0.01)
        net.leave.bias[3 * 16] = logit(SURE + 0.01)
    filled = net.fill(*given, torch.ones(2, 2))
    changed = (filled != given[0]).any(1)
    assert changed.any()
    changed[:, ::4, ::4] = False
    assert not changed.any()


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


def test_half_precision_fills_nearly_the_same():
    given, room = seen(), torch.ones(2, 2)
    halved = small().half().fill(*given, room)
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, small().fill(*given, room), rtol=0, atol=0.05)


@pytest.fixture(scope="module", params=list(MAKERS))
def pipe(request) -> Any:
    made = MAKERS[request.param]()
    made.register_modules(garments=make_garments(made))
    return made


@pytest.fixture(scope="module")
def mini() -> Any:
    made = make_mini()
    made.register_modules(garments=make_garments(made))
    return made


def test_where_a_part_is_not_to_be_kept_the_words_dress_it(pipe):
    person = pipe.encode_identity(make_reference())
    for strength in (BARE, {"upper": 0}, {"lower": 0.5}):
        options: dict[str, Any] = {"pose": "sitting", "id_strength": strength}
        assert not torch.equal(
            draw(pipe, "a", person, **options), draw(without(pipe, "garments"), "a", person, **options)
        )


@pytest.mark.parametrize(
    "options",
    [
        {"pose": "sitting"},
        {"pose": "sitting", "id_strength": {"head": 0, "feet": 0}},
        {"pose": "sitting", "id_strength": BARE, "appearance_strength": 0},
        {"pose": "sitting", "id_strength": BARE, "pose_strength": 0},
        {"id_strength": BARE},
    ],
)
def test_where_it_does_not_act_all_is_as_without(pipe, options):
    ours = draw(pipe, "a", make_reference(), **options)
    assert torch.equal(ours, draw(without(pipe, "garments"), "a", make_reference(), **options))


def plan_of(pipe: Any, prompts: list[str], **options: Any) -> Any:
    asked = Asked(
        **{"prompt": prompts, "embeds": None, "reference": None, "image_prompt": None, "image_strength": 0.0,
           "id_strength": 1.0, "pose_strength": 1.0, "retarget": None, "height": None, "width": None,
           "pose": "standing"} | options
    )  # fmt: skip
    states = pipe.text_states(prompts, {}, range(len(prompts)))
    return pipe.plan(make_request(asked, pipe.picture_size, 8), states)


def test_the_map_says_what_the_words_say(mini):
    person = mini.encode_identity(make_reference())
    plan = plan_of(mini, ["a", "b"], reference=person, id_strength=[BARE, 1.0])
    own = plan_of(without(mini, "garments"), ["a", "b"], reference=person, id_strength=[BARE, 1.0])
    room = torch.tensor([[1.0, 1.0]])
    expected = mini.garments.fill(own.maps[:1], own.skeletons[:1], plan.words[0], room)
    torch.testing.assert_close(plan.maps[:1], expected)
    assert torch.equal(plan.maps[1], own.maps[1])
    assert not torch.equal(plan.maps[0], own.maps[0])
    np.testing.assert_array_equal(plan.room, [[1, 1], [0, 0]])
    nobody = plan_of(mini, ["a", "b"], pose=["standing", None])
    np.testing.assert_array_equal(nobody.room, [[1, 1], [0, 0]])
    assert nobody.maps[0].any()
    assert not nobody.maps[1].any()
    assert not plan_of(without(mini, "garments"), ["a", "b"]).maps.any()


def test_it_reads_the_row_s_own_prompt(mini):
    person = mini.encode_identity(make_reference())
    options: dict[str, Any] = {"pose": "sitting", "id_strength": BARE}
    many = draw(mini, ["a", "b"], person, **options)
    for row, prompt in enumerate(("a", "b")):
        alone = draw(mini, prompt, person, **options)
        torch.testing.assert_close(many[row], alone[0], rtol=0, atol=1e-4)
    states, negative = mini.encode_prompt("a", "cpu", 1, True, "")
    given = draw(mini, None, person, prompt_embeds=states, negative_prompt_embeds=negative, **options)
    torch.testing.assert_close(given, many[:1], rtol=0, atol=1e-4)


def test_everybody_of_a_group_wears_what_the_words_say(mini):
    people = [mini.encode_identity(make_reference()) for _ in range(2)]
    options: dict[str, Any] = {"pose": ["standing", "sitting"], "id_strength": [BARE, 1.0]}
    ours = draw(mini, "a", people, **options)
    theirs = draw(without(mini, "garments"), "a", people, **options)
    middle = ours.shape[-1] // 2
    changed = (ours - theirs).abs().amax((0, 1, 2))
    assert changed[:middle].max() > 0.01


def test_details_see_the_filled_map(mini):
    pipe = without(mini, "garments")
    pipe.register_modules(garments=mini.garments, detail=make_detail())
    person = pipe.encode_identity(make_reference())
    options: dict[str, Any] = {"pose": "sitting", "id_strength": BARE, "output_type": "np"}
    plan = plan_of(pipe, ["a"], reference=person, pose="sitting", id_strength=BARE)
    plain = draw(pipe, "a", person, detail_strength=0, **options)
    pictures = torch.from_numpy(plain).permute(0, 3, 1, 2) * 2 - 1
    expected = pipe.detail(pictures, plan.maps, plan.skeletons).clamp(-1, 1)
    ours = torch.from_numpy(draw(pipe, "a", person, **options)).permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_a_pose_that_was_found_is_dressed_too(mini):
    pipe = without(mini, "garments")
    pipe.register_modules(garments=mini.garments, layout=make_layout(pipe))
    options: dict[str, Any] = {"id_strength": BARE}
    ours = draw(pipe, "a", make_reference(), **options)
    pipe.register_modules(garments=None)
    assert not torch.equal(ours, draw(pipe, "a", make_reference(), **options))


def test_it_travels_with_pipeline_and_adapter(mini, tmp_path: Path):
    mini.save_pretrained(tmp_path / "whole")
    mini.save_bolid_adapter(tmp_path / "adapter")
    options: dict[str, Any] = {"pose": "sitting", "id_strength": BARE}
    expected = draw(mini, "a", make_reference(), **options)
    opened = BoLIDPipeline.from_pretrained(tmp_path / "whole")
    opened.set_progress_bar_config(disable=True)
    torch.testing.assert_close(draw(opened, "a", make_reference(), **options), expected, rtol=0, atol=2e-5)
    assert BoLIDPipeline.from_pretrained(tmp_path / "whole", garments=None).garments is None
    opened.unload_bolid_adapter()
    assert opened.garments is None
    opened.load_bolid_adapter(tmp_path / "adapter")
    torch.testing.assert_close(draw(opened, "a", make_reference(), **options), expected, rtol=0, atol=2e-5)
    write_hub_layout(tmp_path / "whole", "a card")
    index = json.loads((tmp_path / "whole" / "model_index.json").read_text())
    assert index["garments"] == ["bolid_garments", "GarmentNet"]
    assert BoLIDPipeline.from_pretrained(tmp_path / "whole").garments is not None
