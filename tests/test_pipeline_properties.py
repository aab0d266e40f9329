"""The properties that diffusers tests its own pipelines for, held for ours at tiny size.

In the order of diffusers' PipelineTesterMixin: saving, optional components, batches, outputs, FreeU, guidance
scales, types, callbacks, prompt embeddings alone. Schedulers, offloading, attention switches, VAE slicing and
tiling, `from_pipe` and LoRA are in test_one_door.py.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from stock_pipelines import NEAR, draw, stock
from tiny_pipelines import make_sd15, make_xl

from bolid import BoLIDPipeline, Reference
from bolid.request import Asked, make_request

MAKERS: dict[str, Any] = {"sd15": make_sd15, "xl": make_xl}
FAMILIES = pytest.mark.parametrize("family", list(MAKERS))
OPTIONAL = (
    "estimator", "feature_extractor", "image_encoder", "adapter", "detail", "layout", "garments", "face",
    "controlnet",
)  # fmt: skip


def same(pipe: Any, person: Reference, **options: Any) -> torch.Tensor:
    return draw(pipe, reference=person, pose="sitting", **options)


@FAMILIES
def test_saving_and_loading(family: str, person: Reference, tmp_path: Path) -> None:
    """With and without its optional parts, as a variant, in shards; safetensors only."""
    pipe = MAKERS[family]()
    expected, nothing = same(pipe, person), draw(pipe)
    pipe.save_pretrained(tmp_path / "whole", variant="fp16", max_shard_size="60KB")
    files = [path.name for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert any(".fp16-00002-of-" in name for name in files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    again = BoLIDPipeline.from_pretrained(tmp_path / "whole", variant="fp16")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(pipe)
    assert torch.equal(same(again, person), expected)
    pipe.adapter.detach(pipe.unet)
    pipe.register_modules(**dict.fromkeys(OPTIONAL))
    pipe.save_pretrained(tmp_path / "less")
    less = BoLIDPipeline.from_pretrained(tmp_path / "less")
    less.set_progress_bar_config(disable=True)
    assert all(getattr(less, name) is None for name in OPTIONAL)
    assert torch.equal(draw(less), nothing)
    with pytest.raises((ValueError, OSError), match="fp32"):  # a variant that is not there
        BoLIDPipeline.from_pretrained(tmp_path / "whole", variant="fp32")


def test_pickled_weights_are_read_on_demand_only(tmp_path: Path) -> None:
    pipe = make_sd15()
    pipe.save_pretrained(tmp_path)
    weights = next((tmp_path / "unet").glob("*.safetensors"))
    torch.save(pipe.unet.state_dict(), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match=r"give use_safetensors=False to read its \.bin files"):
        BoLIDPipeline.from_pretrained(tmp_path)


@FAMILIES
def test_a_batch_is_its_rows(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    prompts = ["a", "b c", "d"]
    many = draw(pipe, prompts, person, pose="sitting", output_type="np")
    for row, prompt in enumerate(prompts):
        alone = draw(pipe, prompt, person, pose="sitting", output_type="np")
        np.testing.assert_allclose(many[row], alone[0], atol=1e-4)
    assert len(draw(pipe, prompts, person, num_images_per_prompt=2)) == 6


@FAMILIES
def test_outputs_and_components(family: str, person: Reference) -> None:
    """A tuple holds what the output holds; another pipeline of the same components draws the same."""
    pipe = MAKERS[family]()
    expected = same(pipe, person)
    pair = pipe(
        "a beach", person, pose="sitting", generator=7, output_type="latent", return_dict=False
    )  # fmt: skip
    assert torch.equal(pair[0], expected)
    again = type(pipe)(**pipe.components, default_steps=2, default_guidance_scale=2.0)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(same(again, person), expected)
    pictures = pipe("a beach", person, pose="sitting", generator=7).images
    assert [each.size for each in pictures] == [pipe.picture_size[::-1]]


@FAMILIES
def test_a_call_without_a_pose_has_defaults_of_its_own(
    family: str, person: Reference, tmp_path: Path
) -> None:
    """They are saved with the pipeline; those that are not set are the same with and without a pose."""
    pipe = MAKERS[family]()
    assert pipe.call_defaults(posed=False) == pipe.call_defaults() == (2, 2.0)
    made = type(pipe)(**pipe.components, default_steps=2, default_guidance_scale=2.0, default_steps_unposed=3)
    made.save_pretrained(tmp_path)
    again = BoLIDPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.call_defaults(posed=False) == (3, 2.0)
    for pose, strength, steps in (("sitting", 1.0, 2), ("sitting", 0.0, 3), (None, 1.0, 3)):
        seen: list[int] = []
        again(
            "a beach", person, pose=pose, pose_strength=strength, generator=7, output_type="latent",
            callback_on_step_end=lambda _run, step, _time, tensors, seen=seen: seen.append(step) or tensors,
        )  # fmt: skip
        assert len(seen) == steps


@FAMILIES
def test_freeu(family: str, person: Reference) -> None:
    """It scales skips beside our layers and is gone without a trace."""
    pipe = MAKERS[family]()
    expected = same(pipe, person)
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert torch.isfinite(same(pipe, person)).all()
    pipe.disable_freeu()
    assert torch.equal(same(pipe, person), expected)


@FAMILIES
def test_guidance(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    none, some, more = (same(pipe, person, guidance_scale=scale) for scale in (1.0, 3.0, 6.0))
    assert torch.equal(none, same(pipe, person, guidance_scale=1.0, negative_prompt="b"))
    assert not torch.allclose(some, more, atol=1e-3)
    assert not torch.allclose(none, some, atol=1e-3)


@FAMILIES
def test_types_and_devices(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert {"adapter", "image_encoder", "unet", "vae", "text_encoder"} <= networks.keys()
    pipe.to(dtype=torch.bfloat16)
    assert {part.dtype for part in networks.values()} == {torch.bfloat16}
    pipe.to("cpu", torch.float32)
    assert {part.dtype for part in networks.values()} == {torch.float32}
    tuple_out = pipe("a", person, num_inference_steps=2, return_dict=False, output_type="np")
    assert isinstance(tuple_out, tuple)
    assert np.isfinite(tuple_out[0]).all()


@FAMILIES
@pytest.mark.parametrize("task", [{}, {"image": np.zeros((64, 64, 3), np.uint8)}], ids=["text", "image"])
def test_callbacks(family: str, task: dict[str, Any], person: Reference) -> None:
    """They see what they ask for, may change it, and may stop their own call."""
    pipe = MAKERS[family]()
    names = ["latents", "prompt_embeds"]
    steps: list[int] = []

    def look(run: Any, step: int, _: Any, values: dict[str, Any]) -> dict[str, Any]:
        assert set(values) == set(names)
        assert run is not pipe
        steps.append(step)
        last = step == run.num_timesteps - 1
        return {**values, "latents": torch.zeros_like(values["latents"])} if last else values

    options: dict[str, Any] = {"callback_on_step_end_tensor_inputs": names, "num_inference_steps": 4, **task}
    seen = same(pipe, person, callback_on_step_end=look, **options)
    assert (seen == 0).all()
    assert steps == list(range(len(steps)))
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        same(pipe, person, callback_on_step_end_tensor_inputs=["this is not there"])


@FAMILIES
def test_a_callback_may_raise_or_end_guidance(family: str, person: Reference) -> None:
    """diffusers' own cut-off callbacks: the steps after it are those of the positive half alone."""
    pipe = MAKERS[family]()
    scales: list[float] = []

    def rising(run: Any, *_: Any) -> dict[str, Any]:
        run._guidance_scale += 1.0
        scales.append(run.guidance_scale)
        return {}

    same(pipe, person, callback_on_step_end=rising, guidance_scale=2.0, num_inference_steps=3)
    assert scales == [3.0, 4.0, 5.0]
    cutoff: Any = {"sd15": SDCFGCutoffCallback, "xl": SDXLCFGCutoffCallback}[family]
    ended = {"callback_on_step_end": cutoff(cutoff_step_ratio=None, cutoff_step_index=0)}
    seen = same(pipe, person, num_inference_steps=3, **ended)
    assert not torch.allclose(seen, same(pipe, person, num_inference_steps=3), atol=1e-3)
    assert not torch.allclose(seen, draw(pipe, num_inference_steps=3, **ended), atol=1e-3)
    noise = torch.Generator().manual_seed(7)
    plain = stock(pipe)(
        "a beach", generator=noise, num_inference_steps=3, guidance_scale=2.0, output_type="latent", **ended
    ).images
    pipe.adapter.attach(pipe.unet)
    assert torch.equal(draw(pipe, num_inference_steps=3, **ended), plain)


@FAMILIES
def test_ended_guidance_leaves_the_positive_half(family: str, person: Reference) -> None:
    pipe = MAKERS[family]()
    asked = Asked("a", None, person, "sitting", person.image, 0.5, 1.0, 1.0, None, None, None)
    plan = pipe.plan(make_request(asked, pipe.picture_size, 8))
    with torch.no_grad():
        both, alone = (pipe.conditions_for(plan, 2, guided) for guided in (True, False))
    found: list[torch.Tensor] = []
    for conditions in (both.for_rows(2), alone):
        conditions.map(lambda tensor: found.append(tensor) or tensor)
    half = len(found) // 2
    assert half > 20
    assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))
    with pytest.raises(ValueError, match="for 4 rows, the UNet runs with 1"):
        both.for_rows(1)


@FAMILIES
def test_prompt_embeddings_in_isolation(family: str, person: Reference) -> None:
    """Text encoders alone make the embeddings, and a pipeline without them draws the same from these."""
    pipe = MAKERS[family]()
    expected = same(pipe, person, negative_prompt="b")
    texts = {name: part for name, part in pipe.components.items() if name.startswith(("text_", "token"))}
    missing = {name: None for name in pipe.components if name not in texts}
    encoder = type(pipe)(**texts, **missing)
    options: dict[str, Any] = {"prompt": "a beach", "negative_prompt": "b", "device": "cpu"}
    made = encoder.encode_prompt(**options, num_images_per_prompt=1, do_classifier_free_guidance=True)
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    given = {name: value for name, value in zip(names, made, strict=False) if value is not None}
    rest = {name: part for name, part in pipe.components.items() if name not in texts}
    drawer = type(pipe)(**rest, **dict.fromkeys(texts), default_steps=2, default_guidance_scale=2.0)
    drawer.set_progress_bar_config(disable=True)
    torch.testing.assert_close(same(drawer, person, prompt=None, **given), expected, **NEAR)


@FAMILIES
def test_the_call_keeps_the_stock_arguments(family: str) -> None:
    pipe = MAKERS[family]()
    ours = set(inspect.signature(type(pipe).__call__).parameters)
    required = {
        "prompt",
        "num_inference_steps",
        "guidance_scale",
        "negative_prompt",
        "generator",
        "output_type",
    }
    assert required | {"height", "width", "num_images_per_prompt", "callback_on_step_end"} <= ours
    assert set(OPTIONAL) <= set(type(pipe)._optional_components)
