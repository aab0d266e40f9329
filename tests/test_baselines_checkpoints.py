"""Official checkpoints: tokens and pictures as the original code makes them, from either kind of file.

Tolerance 1e-4 on answers of size 1, float32: the order of sums differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline
from official_files import (
    LAYOUTS,
    checkpoint,
    control_picture,
    face_points,
    fill,
    identity_net,
    instantid_call,
    nested,
    numbers,
    outputs,
    real_features,
    real_unet,
    run_unet,
    tables,
    tiny_unet,
)
from opened_baselines import features, mixed, opened, tokens_of
from torch.testing import assert_close

from bolid.baselines import (
    METHODS,
    Baseline,
    Features,
    build_baseline,
    draw_face_points,
    load_baseline,
    split_checkpoint,
)
from bolid.baselines.baseline import _projector
from bolid.baselines.face_control import listening_to
from bolid.baselines.positions import attention_positions, cross_positions

CLOSE = {"rtol": 0.0, "atol": 1e-4}
ALL = list(LAYOUTS)
IP = [layout for layout in ALL if not layout.startswith("pulid")]
PULID = [layout for layout in ALL if layout.startswith("pulid")]


@pytest.mark.parametrize("layout", ALL)
def test_tokens_equal_the_original_modules(layout: str) -> None:
    positive, negative = tokens_of(opened(layout), layout)
    assert_close(positive, outputs()[f"{layout}/tokens"], **CLOSE)
    assert_close(negative, outputs()[f"{layout}/negative"], **CLOSE)


@pytest.mark.parametrize("layout", IP)
def test_a_unet_with_the_file_equals_one_with_the_original_attention(layout: str) -> None:
    """Position by position and low-rank updates included: the original keys its weights by list order."""
    unet = tiny_unet(LAYOUTS[layout][1])
    plain = run_unet(unet)
    baseline = opened(layout, unet)
    baseline.attach(unet)
    result = run_unet(unet, cross_attention_kwargs=mixed(baseline, layout).kwargs())
    assert_close(result, outputs()[f"{layout}/unet"], **CLOSE)
    assert (result - plain).abs().max() > 1e-2  # the file does something, else this proves nothing
    baseline.detach(unet)
    assert torch.equal(run_unet(unet), plain)


@pytest.mark.parametrize("layout", PULID)
@pytest.mark.parametrize("ortho", ["off", "v1", "v2"])
@pytest.mark.parametrize("zeros", [0, 3])
def test_pulids_switches_are_arguments(layout: str, ortho: Any, zeros: int) -> None:
    unet = tiny_unet("sdxl")
    baseline = opened(layout, unet)
    baseline.attach(unet)
    conditions = mixed(baseline, layout, zero_tokens=zeros, ortho=ortho)
    result = run_unet(unet, cross_attention_kwargs=conditions.kwargs())
    assert_close(result, outputs()[f"{layout}/unet/{zeros}/{ortho}"], **CLOSE)


def test_pulid_recordings_differ_by_switch() -> None:
    found = [value for name, value in outputs().items() if name.startswith("pulid_v1.1/unet/")]
    assert len(found) == 6
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(found) for b in found[:i])


def test_pulid_takes_several_references_and_one_negative() -> None:
    baseline, given = opened("pulid_v1.1"), features("pulid_v1.1")
    assert given.face is not None
    assert given.image is not None
    assert given.levels is not None
    joined = tuple(states.flatten(0, 1)[None] for states in given.levels)
    both = Features(face=given.face[None], image=given.image[None], levels=joined)
    with torch.no_grad():
        assert_close(baseline.tokens(both), outputs()["pulid_v1.1/two references"], **CLOSE)
        assert_close(baseline.negative(both), outputs()["pulid_v1.1/negative"][:1], **CLOSE)


@pytest.mark.parametrize("layout", ["ip-adapter-faceid_sd15", "pulid_v1"])
def test_strength_0_is_the_base_with_what_is_attached(layout: str) -> None:
    """FaceID's low-rank updates act apart from the tokens; PuLID has none."""
    unet = tiny_unet(LAYOUTS[layout][1])
    plain = run_unet(unet)
    baseline = opened(layout, unet)
    baseline.attach(unet, update_scale=0.0)
    off = baseline.conditions(tokens_of(baseline, layout)[0], 0.0, ortho="off")
    assert torch.equal(run_unet(unet, cross_attention_kwargs=off.kwargs()), plain)


@pytest.mark.parametrize("layout", ALL)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_both_kinds_of_file_open(layout: str, suffix: str, tmp_path: Path) -> None:
    path, state = tmp_path / f"{layout}{suffix}", checkpoint(layout)
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state if layout.startswith("pulid") else nested(state), path)
    baseline = load_baseline(path, tiny_unet(LAYOUTS[layout][1]), dtype=torch.float32)
    assert baseline.method.name == LAYOUTS[layout][0]
    assert_close(tokens_of(baseline, layout)[0], outputs()[f"{layout}/tokens"], **CLOSE)


@pytest.mark.parametrize("layout", ALL)
def test_tables_of_the_real_size_fit_the_real_bases(layout: str) -> None:
    """Every key and shape of the original modules at their real size, without memory."""
    method, family = LAYOUTS[layout]
    parts = split_checkpoint(checkpoint(layout, "real", "meta"), file_name=f"{layout}.bin")
    baseline = build_baseline(parts, real_unet(family))
    assert baseline.method.name == method
    assert len(baseline.layers) == {"sd15": 16, "sdxl": 70}[family]
    assert len(baseline.updates) == (8 * len(baseline.layers) if "faceid" in method else 0)
    placed = sum(weight.numel() for weight in baseline.parameters())
    part = baseline.state_dict().get("projector.part_embedding", torch.empty(0))  # ours, 0, not in files
    assert placed - part.numel() == sum(
        torch.Size(shape).numel() for shape in tables("real")[layout].values()
    )


def test_sizes_that_the_papers_state() -> None:
    real = tables("real")
    assert real["ip-adapter_sd15"]["image_proj.proj.weight"] == [3072, 1024]
    assert real["instantid"]["image_proj.proj_in.weight"] == [1280, 512]
    assert real["pulid_v1.1"]["id_adapter.latents"] == [1, 32, 1024]


def test_positions_of_the_real_bases() -> None:
    """down 1-11, up 13-29, mid 31 in SD 1.5; down 1-47, up 49-119, mid 121-139 in SDXL."""
    for family, ends in (("sd15", (11, 29, 31)), ("sdxl", (47, 119, 139))):
        positions = cross_positions(real_unet(family))
        assert list(positions) == list(range(1, ends[-1] + 1, 2))
        for place, last in zip(("down_blocks", "up_blocks", "mid_block"), ends, strict=True):
            assert max(p for p, name in positions.items() if name.startswith(place)) == last


def test_positions_do_not_hang_on_the_order_of_modules() -> None:
    unet = tiny_unet("sdxl")
    expected = attention_positions(unet)
    assert expected == tuple(name.removesuffix(".processor") for name in unet.attn_processors)
    modules = unet._modules
    modules["mid_block"] = modules.pop("mid_block")
    modules["down_blocks"] = modules.pop("down_blocks")
    assert next(iter(unet.attn_processors)).startswith("up_blocks")
    assert attention_positions(unet) == expected


def test_conditions_keep_their_orthogonal_form() -> None:
    baseline = opened("pulid_v1")
    conditions = mixed(baseline, "pulid_v1", ortho="v1").to(dtype=torch.float64).repeat(2)
    assert conditions.rows == 4
    assert getattr(conditions.groups[0], "ortho", None) == "v1"


@pytest.mark.parametrize("layout", ALL)
def test_half_precision_files_take_float_features(layout: str) -> None:
    """Published files are half precision; features come as the encoders give them."""
    baseline, unet = opened(layout).to(torch.bfloat16), tiny_unet(LAYOUTS[layout][1]).to(torch.bfloat16)
    tokens = tokens_of(baseline, layout)[0]
    assert tokens.dtype is torch.bfloat16
    wanted = outputs()[f"{layout}/tokens"]  # how bfloat16 rounds differs between processors: the norm's share
    assert float((tokens.float() - wanted).norm() / wanted.norm()) < 0.05
    baseline.attach(unet)
    inputs = [numbers("noise", (2, 4, 12, 8)).bfloat16(), numbers("text", (2, 7, 64)).bfloat16()]
    added = {"text_embeds": torch.zeros(2, 24).bfloat16(), "time_ids": torch.zeros(2, 6)}
    kwargs = baseline.conditions(tokens).kwargs()
    with torch.no_grad():
        result = unet(inputs[0], 7, inputs[1], added_cond_kwargs=added, cross_attention_kwargs=kwargs).sample
    assert result.dtype is torch.bfloat16
    assert result.isfinite().all()


def test_identity_net_listens_to_the_face() -> None:
    """The original hands the tokens over as the ControlNet's text; the ControlNet itself stays as it was."""
    unet = tiny_unet("sd15")
    plain: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    fill(plain, "control/")
    tokens, text = numbers("tokens", (2, 4, 64)), numbers("text", (2, 7, 64))
    given = {
        "sample": numbers("noise", (2, 4, 12, 8)),
        "timestep": 7,
        "controlnet_cond": torch.rand(2, 3, 24, 16),
    }
    with torch.no_grad():
        heard = listening_to(plain, tokens)(encoder_hidden_states=text, **given)
        assert torch.equal(heard[1], plain(encoder_hidden_states=tokens, **given)[1])
        assert not torch.equal(heard[1], plain(encoder_hidden_states=text, **given)[1])
        with pytest.raises(ValueError, match="negative first"):
            listening_to(plain, tokens[:1])(encoder_hidden_states=text, **given)


def test_instantids_whole_pipeline() -> None:
    """Adapter, IdentityNet and guidance, from a raw embedding to latents, as the original pipeline draws."""
    unet, call = tiny_unet("sdxl"), instantid_call()
    baseline, given = opened("instantid", unet), Features(face=numbers("a face", (1, 512), 2.0))
    baseline.attach(unet)
    with torch.no_grad():
        tokens = torch.cat([baseline.negative(given), baseline.tokens(given)])
        kwargs = baseline.conditions(tokens).kwargs()  # at the method's own strength, 0.8
        net = listening_to(identity_net(unet), tokens)
        pipe = StableDiffusionXLControlNetPipeline(unet=unet, controlnet=net, **call.components)
    pipe.set_progress_bar_config(disable=True)
    seen = pipe(image=control_picture(), cross_attention_kwargs=kwargs, **call.options).images
    assert_close(seen, outputs()["instantid/pipeline"], **CLOSE)


def test_five_points_are_drawn_as_identity_net_knows_them() -> None:
    points, (width, height) = face_points()
    assert torch.equal(
        torch.from_numpy(draw_face_points(points, height, width)), outputs()["instantid/points"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ALL)
def test_tokens_at_the_real_size(layout: str) -> None:
    """Every 32nd channel of what the original modules answer at their real size."""
    method, given = LAYOUTS[layout][0], real_features(layout)
    projector, _ = _projector(split_checkpoint(checkpoint(layout, "real"), method))
    baseline = Baseline(METHODS[method], projector.eval(), {}, {})
    with torch.no_grad():
        tokens = baseline.tokens(Features(**{name: given[name] for name in METHODS[method].features}))
    assert_close(tokens[..., ::32], outputs()[f"{layout}/real tokens"], **CLOSE)
