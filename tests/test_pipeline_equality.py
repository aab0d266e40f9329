"""Without an identity the result is the stock pipeline's, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from stock_pipelines import draw, stock
from tiny_pipelines import make_controlnet, make_mini, make_sd15, make_xl

from bolid import BoLIDPipeline, Pose, Reference
from bolid.attention import IdentityAttnProcessor
from bolid.pose import PARTS, skeleton_map


class TestStockEquality:
    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    @pytest.mark.parametrize("count", [1, 2])
    def test_no_identity_no_pose_is_the_stock_pipeline_bit_by_bit(
        self, person: Reference, guidance: float, count: int
    ) -> None:
        pipe = make_mini()
        common: dict[str, Any] = {
            "num_inference_steps": 3,
            "guidance_scale": guidance,
            "num_images_per_prompt": count,
            "negative_prompt": "b",
            "output_type": "np",
        }
        ours = pipe("a c", person, id_strength=0, generator=torch.Generator().manual_seed(3), **common).images
        pipe.adapter.detach(pipe.unet)
        plain = stock(pipe)("a c", generator=torch.Generator().manual_seed(3), **common).images
        assert np.array_equal(ours, plain)

    def test_the_same_for_sdxl(self, person: Reference) -> None:
        pipe = make_xl()
        common: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
        ours = pipe("a c", person, id_strength=0, generator=torch.Generator().manual_seed(3), **common).images
        pipe.adapter.detach(pipe.unet)
        plain = stock(pipe)("a c", generator=torch.Generator().manual_seed(3), **common).images
        assert np.array_equal(ours, plain)

    def test_zero_strengths_are_absent_conditions(self, mini: BoLIDPipeline, person: Reference) -> None:
        nothing = draw(mini)
        zeros = dict.fromkeys(PARTS, 0)
        picture = person.image
        for options in (
            {"id_strength": 0.0},
            {"id_strength": zeros},
            {"id_strength": 0, "pose": "sitting", "pose_strength": 0},
            {"id_strength": 0, "image_prompt": picture, "image_prompt_strength": 0},
        ):
            assert torch.equal(draw(mini, reference=person, **options), nothing)

    def test_pose_alone_does_not_look_at_the_reference(self, mini: BoLIDPipeline, person: Reference) -> None:
        with_person = draw(mini, reference=person, pose="sitting", id_strength=0)
        assert torch.equal(with_person, draw(mini, pose="sitting"))


class TestEveryTask:
    """From noise, from a picture, inside a mask; with a ControlNet and without."""

    @pytest.mark.parametrize("side", [(64, 64), (70, 67)], ids=["fitting", "odd"])
    @pytest.mark.parametrize("controlled", [False, True], ids=["plain", "controlnet"])
    @pytest.mark.parametrize("kind", ["", "Img2Img", "Inpaint"])
    @pytest.mark.parametrize("family", ["sd15", "xl"])
    def test_no_identity_is_the_stock_pipeline(
        self,
        opened: dict[str, Any],
        person: Reference,
        family: str,
        kind: str,
        controlled: bool,
        side: tuple[int, int],
    ) -> None:
        """odd: the given pictures are no multiples of 8, and the stock pipeline fits them."""
        pipe = opened[f"{family}-controlled" if controlled else family]
        before, mask, skeleton = pictures(*side)
        common: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "np"}
        ours, theirs = dict(common), dict(common)
        if kind:
            ours |= {"image": before, "strength": 0.6}
            theirs |= {"image": before, "strength": 0.6}
        if kind == "Inpaint":
            ours["mask_image"] = theirs["mask_image"] = mask
        if controlled:
            ours["control_image"] = skeleton
            theirs["control_image" if kind else "image"] = skeleton
            theirs["controlnet_conditioning_scale"] = 1.0
        if kind != "Img2Img" or controlled:
            theirs |= {"height": 64, "width": 64}
        expected = apart(pipe, kind, controlled)(
            "a c", generator=torch.Generator().manual_seed(3), **theirs
        ).images
        seen = pipe("a c", person, id_strength=0, generator=3, **ours).images
        assert np.array_equal(seen, expected)
        with_person = pipe("a c", person, generator=3, **ours).images
        assert not np.allclose(with_person, expected, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("family", ["sd15", "xl"])
    def test_in_half_precision_too(self, person: Reference, family: str, dtype: torch.dtype) -> None:
        pipe = {"sd15": make_sd15, "xl": make_xl}[family]().to(dtype)
        options: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
        expected = apart(pipe)("a c", generator=torch.Generator().manual_seed(3), **options).images
        assert torch.equal(draw(pipe, "a c", person, id_strength=0, **options | {"generator": 3}), expected)


def apart(pipe: Any, kind: str = "", controlled: bool = False) -> Any:
    """The stock pipeline around the same components but for the UNet: a copy that nothing of ours is in."""
    plain = stock(pipe, ("ControlNet" if controlled else "") + kind)
    unet = UNet2DConditionModel.from_config(pipe.unet.config).eval().to(pipe.unet.dtype)
    unet.load_state_dict(pipe.unet.state_dict())
    assert not any(isinstance(each, IdentityAttnProcessor) for each in unet.attn_processors.values())
    assert any(isinstance(each, IdentityAttnProcessor) for each in pipe.unet.attn_processors.values())
    plain.register_modules(unet=unet)
    return plain


def pictures(height: int, width: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Something to start from, a mask of its middle, and a skeleton."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[16:48, 16:48] = 255
    skeleton = skeleton_map(Pose.named("standing").keypoints[None], height, width)[0]
    return Image.fromarray(noise), Image.fromarray(mask), Image.fromarray(skeleton)


@pytest.fixture(scope="module")
def opened() -> dict[str, Any]:
    """SD 1.5 and SDXL, each with and without a ControlNet."""
    pipes: dict[str, Any] = {}
    for family, make in (("sd15", make_sd15), ("xl", make_xl)):
        pipes[family] = make()
        pipes[f"{family}-controlled"] = controlled = make()
        controlled.register_modules(controlnet=make_controlnet(controlled.unet))
    return pipes
