"""img2img, inpainting and ControlNet on the one pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from stock_pipelines import NEAR, draw
from tiny_pipelines import (
    HEIGHT,
    MAKERS,
    WIDTH,
    make_controlnet,
    make_reference,
    make_sd15,
    own_components,
)

from bolid import BoLIDPipeline, Reference
from bolid.pose import Pose, skeleton_map


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("family", list(MAKERS))
def test_rows_and_pictures_of_a_prompt_go_together(family: str, person: Reference) -> None:
    """The stock img2img pipelines would pair pictures and prompts wrongly here."""
    pipe = MAKERS[family]()
    pictures = [noise(64, 64, 1), noise(64, 64, 2)]
    options: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5}
    many = draw(pipe, ["a", "b"], person, image=pictures, pose="sitting", num_images_per_prompt=2, **options)
    for row, prompt in enumerate("ab"):
        for index in range(2):
            alone = draw(
                pipe, prompt, person, image=pictures[row], pose="sitting", generator=7 + index, **options
            )
            torch.testing.assert_close(many[2 * row + index][None], alone, **NEAR)


def test_the_size_is_the_pictures_own(mini: BoLIDPipeline) -> None:
    assert draw(mini, image=noise(70, 131), strength=0.5).shape[-2:] == (8, 16)
    assert draw(mini, image=noise(70, 131), strength=0.5, height=64, width=32).shape[-2:] == (8, 4)


def test_minis_inpainting_keeps_what_is_outside_the_mask(person: Reference) -> None:
    """Its UNet lacks the channels that the stock inpainting pipelines ask for: a step callback does it."""
    pipe = MAKERS["mini"]()
    pipe.unet.register_to_config(in_channels=16)  # what the choice is made by
    before = noise(HEIGHT, WIDTH)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:48] = 255
    steps: list[int] = []

    def count(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return values

    seen = draw(
        pipe, reference=person, pose="standing", image=before, mask_image=Image.fromarray(mask),
        num_inference_steps=3, callback_on_step_end=count,
    )  # fmt: skip
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(before).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        kept = pipe.vae.encode(pixels).latents
    torch.testing.assert_close(seen[:, :, 6:], kept[:, :, 6:], rtol=0, atol=1e-5)
    assert (seen[:, :, :6] - kept[:, :, :6]).abs().mean() > 0.1
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("family", ["sd15", "xl"])
def test_unets_made_for_inpainting(family: str, person: Reference) -> None:
    """Nine input channels: the stock pipeline fills them, and the adapter goes by the latents' own four."""
    pipe = MAKERS[family]()
    wider = UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9).eval()
    made = type(pipe)(**{**pipe.components, "unet": wider, **own_components(wider)})
    made.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"image": noise(64, 64), "mask_image": Image.new("L", (64, 64), 255)}
    nothing, someone = (draw(made, reference=each, pose="sitting", **options) for each in (None, person))
    assert torch.isfinite(someone).all()
    assert not torch.allclose(nothing, someone, atol=1e-4)


@pytest.fixture(scope="module")
def controlled() -> BoLIDPipeline:
    pipe = make_sd15()
    pipe.register_modules(controlnet=make_controlnet(pipe.unet))
    return pipe


class TestControlNet:
    def test_it_gets_the_skeleton_of_the_pose(self, controlled: BoLIDPipeline, person: Reference) -> None:
        points = Pose.named("standing").keypoints
        drawn = Image.fromarray(skeleton_map(points[None], 64, 64)[0])
        for layer in controlled.adapter.layers.values():
            torch.nn.init.zeros_(layer.body.weight)  # so that BodyNet, which sees the pose too, is silent
        by_pose = draw(controlled, pose=points)
        assert torch.equal(by_pose, draw(controlled, control_image=drawn))
        assert not torch.equal(by_pose, draw(controlled))
        weak = draw(controlled, pose=points, pose_strength=0.5)
        assert torch.equal(weak, draw(controlled, control_image=drawn, controlnet_conditioning_scale=0.5))
        rows = draw(controlled, ["a", "b"], person, pose=[points, "lying"], num_images_per_prompt=2)
        alone = draw(controlled, "b", person, pose="lying")
        torch.testing.assert_close(rows[2:3], alone, **NEAR)

    def test_what_does_not_go_together_is_refused(
        self, controlled: BoLIDPipeline, mini: BoLIDPipeline
    ) -> None:
        with pytest.raises(ValueError, match="give one to all or to none"):
            draw(controlled, ["a", "b"], pose=["sitting", None])
        with pytest.raises(ValueError, match="no controlnet; leave it out, or load one"):
            draw(mini, control_image=noise(64, 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_image": noise(64, 64)}, "mask_image is given without a picture"),
        ({"strength": 0.5}, "strength is given without a picture"),
        ({"image": noise(64, 64), "strength": 0.0}, "above 0 and at most 1"),
        ({"image": noise(64, 64), "strength": 1.5}, "above 0 and at most 1"),
        ({"image": []}, "empty list"),
        ({"image": [noise(64, 64)] * 3}, "3 values for 1 prompts"),
        ({"image": "nowhere.png"}, "does not exist"),
        ({"padding_mask_crop": 3}, "unknown argument 'padding_mask_crop'"),
    ],
)
def test_mistakes(mini: BoLIDPipeline, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(mini, "a", make_reference(), **options)
