"""Our tokens in IP-Adapter Plus layout: stock diffusers and our loader make the pictures that we make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from official_files import fill, nested, numbers, run_unet, tiny_unet
from tiny_unets import make_pipeline
from torch import Tensor
from torch.testing import assert_close

from bolid.adapter import BoLIDAdapter
from bolid.baselines import Features, load_baseline
from bolid.baselines.export import export_ip_adapter_plus, ip_adapter_plus

SMALL: dict[str, Any] = {
    "vision_dim": 40,
    "tokens_per_part": (5,),
    "image_token_count": 3,
    "resampler_width": 32,
    "resampler_heads": 2,
}
LARGE: dict[str, Any] = {"resampler_depth": 4, "resampler_ffn_ratio": 4}  # what the layout is meant for
PATCHES = numbers("patches", (2, 6, 40))
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def adapter_for(unet: Any, **options: Any) -> BoLIDAdapter:
    adapter = BoLIDAdapter.for_unet(unet, **(SMALL | options))
    fill(adapter, "export/")
    return adapter


def ours(adapter: BoLIDAdapter, unet: Any, group: str) -> Tensor:
    """Our own picture, with the adapter attached and taken off again."""
    adapter.attach(unet)
    given = {"patches": PATCHES[:, None]} if group == "identity" else {"image_patches": PATCHES}
    with torch.no_grad():
        result = run_unet(unet, cross_attention_kwargs=adapter.conditions(adapter.inputs(**given)).kwargs())
    adapter.detach(unet)
    return result


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("group", ["identity", "image"])
@pytest.mark.parametrize(
    "options", [{}, {"resampler_depth": 4, "resampler_ffn_ratio": 4}], ids=["mini", "full"]
)
def test_stock_unets_read_it(family: str, group: Any, options: dict[str, Any]) -> None:
    """A smaller resampler is the same function in the layout's larger one."""
    unet = tiny_unet(family)
    adapter = adapter_for(unet, **options)
    expected, plain = ours(adapter, unet, group), run_unet(unet)
    unet._load_ip_adapter_weights([nested(ip_adapter_plus(adapter, group))])
    assert (expected - plain).abs().max() > 1e-2
    assert_close(run_unet(unet, image_embeds=[PATCHES[:, None]]), expected, **CLOSE)


@pytest.mark.parametrize("group", ["identity", "image"])
def test_it_comes_back_through_our_own_loader(group: Any, tmp_path: Path) -> None:
    unet = tiny_unet("sd15")
    adapter = adapter_for(unet, resampler_width=64, resampler_heads=1)
    expected = ours(adapter, unet, group)
    export_ip_adapter_plus(adapter, tmp_path / "tokens.safetensors", group)
    baseline = load_baseline(tmp_path / "tokens.safetensors", unet)
    assert baseline.method.name == "ip-adapter-plus"
    baseline.attach(unet)
    conditions = baseline.conditions(baseline.tokens(Features(patches=PATCHES)))
    assert_close(run_unet(unet, cross_attention_kwargs=conditions.kwargs()), expected, **CLOSE)


def test_stock_pipelines_read_the_file(tmp_path: Path) -> None:
    pipeline = make_pipeline("sd15")
    export_ip_adapter_plus(adapter_for(pipeline.unet), tmp_path / "tokens.safetensors", "identity")
    pipeline.load_ip_adapter(
        str(tmp_path), subfolder="", weight_name="tokens.safetensors", image_encoder_folder=None
    )
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "height": 64, "width": 64}
    both = torch.stack([0 * PATCHES[:1], PATCHES[:1]], dim=1).transpose(
        0, 1
    )  # [2, 1, L, D]: negative, positive
    images = []
    for scale in (0.0, 1.0):
        pipeline.set_ip_adapter_scale(scale)
        noise = torch.Generator().manual_seed(0)
        images.append(
            pipeline("a", ip_adapter_image_embeds=[both], generator=noise, **options).images  # pyright: ignore
        )
    assert not torch.equal(*images)


def test_what_the_layout_cannot_hold_is_refused() -> None:
    unet = tiny_unet("sd15")
    for options, group, match in (
        ({"resampler_depth": 6}, "identity", "6 layers"),
        ({"resampler_ffn_ratio": 8}, "identity", "256 feed-forward channels"),
        ({"resampler_width": 96, "resampler_heads": 1}, "image", "96 channels a head"),
        ({"zero_tokens": 2}, "identity", "attention sink"),
        ({"image_token_count": 0}, "image", "no image prompt"),
    ):
        with pytest.raises(ValueError, match=match):
            ip_adapter_plus(adapter_for(unet, **options), group)  # pyright: ignore[reportArgumentType]
