"""The lightning branch: its modes agree where they must, and gradients go where they should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers import DDIMScheduler
from tiny_lightning import STEPS, Scene
from tiny_unets import make_unet
from torch.testing import assert_close

from bolid.adapter import BoLIDAdapter
from bolid.lightning import Guidance, LightningOptions, lightning, roll_out
from bolid.losses import layout_alignment


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene()


@pytest.fixture
def free_unet(scene: Scene) -> Iterator[UNet2DConditionModel]:
    """The scene's UNet with trainable weights, and as it was afterwards."""
    yield scene.unet.requires_grad_(True)
    scene.unet.requires_grad_(False)
    scene.unet.zero_grad(set_to_none=True)


def test_roll_out_is_the_plain_loop_of_a_ddim_sampler(scene: Scene) -> None:
    conditions = scene.adapter.conditions(scene.inputs())
    schedule: Any = DDIMScheduler.from_config(scene.scheduler.config)
    schedule.set_timesteps(STEPS)
    latents = scene.noise
    with torch.no_grad():
        for t in schedule.timesteps:
            v = scene.unet(latents, t, scene.text, cross_attention_kwargs=conditions.kwargs()).sample
            latents = schedule.step(v, t, latents).prev_sample
        given = roll_out(scene.unet, scene.scheduler, scene.noise, scene.text, conditions, STEPS)
    assert_close(given, latents, rtol=0, atol=0)


def test_all_modes_give_the_same_picture(scene: Scene) -> None:
    conditions = scene.adapter.conditions(scene.inputs())
    plain = roll_out(scene.unet, scene.scheduler, scene.noise, scene.text, conditions, STEPS)
    for mode, last in (("full", 1), ("last_k", 1), ("last_k", 2), ("last_k", STEPS)):
        assert_close(scene.run(mode, last=last).latents, plain, rtol=0, atol=0)
    with torch.no_grad():
        assert_close(scene.run("full").latents, plain, rtol=0, atol=0)


def test_one_step_is_what_the_first_call_sees(scene: Scene) -> None:
    """So it is the whole branch where one step is all there is."""
    assert_close(scene.run("one_step", steps=1).latents, scene.run("full", steps=1).latents, rtol=0, atol=0)
    assert_close(scene.run("one_step", steps=4).latents, scene.run("full", steps=1).latents)
    one, full = (
        scene.gradients(scene.run("one_step").latents),
        scene.gradients(scene.run("full", steps=1).latents),
    )
    assert_close(one, full)


def test_guidance_is_as_before_and_records_the_positive_half(scene: Scene) -> None:
    inputs, layers = scene.inputs(), scene.adapter.layer_names
    negative = scene.adapter.conditions(inputs.negative())
    guidance = Guidance(2.0, torch.zeros_like(scene.text), negative)
    with torch.no_grad():
        guided = scene.run("full", guidance=guidance, record=layers, steps=1)
        alone = scene.run("full", record=layers, steps=1)
        away = lightning(
            scene.unet, scene.scheduler, scene.noise, guidance.text, negative, LightningOptions(1, "full")
        )
    expected = away.latents + 2 * (alone.latents - away.latents)
    assert_close(guided.latents, expected, rtol=1e-4, atol=1e-5)
    assert_close(guided.queries, alone.queries, rtol=0, atol=0)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_all_steps_as_the_last_are_the_full_gradient(scene: Scene, checkpoint: bool) -> None:
    plain = scene.gradients(
        roll_out(
            scene.unet,
            scene.scheduler,
            scene.noise,
            scene.text,
            scene.adapter.conditions(scene.inputs()),
            STEPS,
        )
    )
    assert len(plain) > 20
    assert all(
        bool((gradient != 0).any())
        for name, gradient in plain.items()
        if "layers" in name and "_image" not in name
    )
    for mode in ("full", "last_k"):
        given = scene.gradients(scene.run(mode, last=STEPS, checkpoint=checkpoint).latents)
        assert_close(given, plain, rtol=1e-4, atol=1e-7)


def test_last_k_takes_the_gradient_of_its_steps_alone(scene: Scene) -> None:
    """By hand: the first step without gradient, then a full branch over the others."""
    conditions = scene.adapter.conditions(scene.inputs())
    schedule: Any = DDIMScheduler.from_config(scene.scheduler.config)
    schedule.set_timesteps(STEPS)
    latents = scene.noise
    for index, t in enumerate(schedule.timesteps):
        with torch.set_grad_enabled(index > 0):
            v = scene.unet(latents, t, scene.text, cross_attention_kwargs=conditions.kwargs()).sample
            latents = schedule.step(v, t, latents).prev_sample
    expected = scene.gradients(latents)
    assert_close(scene.gradients(scene.run("last_k", last=2).latents), expected, rtol=1e-4, atol=1e-7)
    full = scene.gradients(scene.run("full").latents)
    assert any(not torch.allclose(full[name], expected[name], rtol=1e-2) for name in full)


def test_gradients_reach_the_noise_only_through_all_steps(scene: Scene) -> None:
    noise = scene.noise.clone().requires_grad_()
    conditions = scene.adapter.conditions(scene.inputs())
    reached_in: dict[Any, bool] = {"full": True, "one_step": True, "last_k": False}
    for mode, reached in reached_in.items():
        noise.grad = None
        options = LightningOptions(STEPS, mode)
        made = lightning(scene.unet, scene.scheduler, noise, scene.text, conditions, options)
        made.latents.sum().backward(retain_graph=True)
        assert (noise.grad is not None) == reached


def test_steps_without_gradient_do_not_cut_off_later_ones_under_autocast(
    scene: Scene, free_unet: UNet2DConditionModel
) -> None:
    """Autocast keeps casts of weights: one made under no_grad would be used again, and has no gradient."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            without = scene.run("last_k", record=scene.adapter.layer_names)
        made = scene.run("last_k", record=scene.adapter.layer_names)
        loss = made.latents.float().square().mean()
        loss = loss + sum(
            layout_alignment(q, 0 * without.queries[0][n]).mean() for n, q in made.queries[0].items()
        )
    loss.backward()
    missing = [n for n, p in free_unet.named_parameters() if p.grad is None]
    assert not missing


def test_nothing_shared_is_changed(scene: Scene) -> None:
    processors = dict(scene.unet.attn_processors)
    config = dict(scene.scheduler.config)
    steps = scene.scheduler.timesteps.clone()
    conditions = scene.adapter.conditions(scene.inputs())
    scene.run("full", conditions, record=scene.adapter.layer_names)
    assert scene.unet.attn_processors == processors
    assert dict(scene.scheduler.config) == config
    assert_close(scene.scheduler.timesteps, steps)
    assert len(conditions.groups) == 1


def test_sdxl_runs_with_its_added_conditions() -> None:
    unet, _ = make_unet("sdxl")
    adapter = BoLIDAdapter.for_unet(
        unet, vision_dim=16, resampler_width=16, resampler_heads=2, body_channels=(8,) * 3
    )
    adapter.attach(unet)
    inputs = adapter.inputs(patches=torch.randn(2, 4, 9, 16))
    added = {"text_embeds": torch.randn(2, 24), "time_ids": torch.rand(2, 6)}
    made = lightning(
        unet,
        DDIMScheduler(clip_sample=False, timestep_spacing="trailing"),
        torch.randn(2, 4, 12, 8),
        torch.randn(2, 7, 24),
        adapter.conditions(inputs),
        LightningOptions(2, "full"),
        record=adapter.layer_names,
        added_cond_kwargs=added,
    )
    made.latents.mean().backward()
    assert all(p.grad is not None for name, p in adapter.named_parameters() if "to_v_id" in name)


@pytest.mark.parametrize("wrong", [{"mode": "half"}, {"steps": 0}, {"last": 5}, {"last": 0}])
def test_options_refuse_what_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        LightningOptions(**wrong)
