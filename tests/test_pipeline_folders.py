"""Opening, saving and telling apart, on real classes at tiny size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from stock_pipelines import draw, stock
from tiny_pipelines import make_mini, make_xl
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from bolid import BoLIDPipeline, BoLIDXLPipeline, Reference
from bolid.attention import IdentityAttnProcessor


class TestFolders:
    @pytest.mark.parametrize("opener", [BoLIDPipeline, BoLIDXLPipeline])
    def test_round_trip_by_either_door(self, tmp_path: Path, person: Reference, opener: Any) -> None:
        for pipe in (make_mini(), make_xl()):
            folder = tmp_path / type(pipe).__name__
            pipe.save_pretrained(folder)
            index = json.loads((folder / "model_index.json").read_text())
            assert index["_class_name"] == type(pipe).__name__
            again = opener.from_pretrained(folder)
            again.set_progress_bar_config(disable=True)
            assert type(again) is type(pipe)
            assert again.config.default_guidance_scale == 2.0
            expected = draw(pipe, reference=person, pose="sitting")
            assert torch.equal(draw(again, reference=person, pose="sitting"), expected)

    def test_half_precision(self, tmp_path: Path, person: Reference) -> None:
        make_mini().save_pretrained(tmp_path)
        half = BoLIDPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
        half.set_progress_bar_config(disable=True)
        assert half.adapter.dtype == half.unet.dtype == torch.bfloat16
        options: dict[str, Any] = {"reference": person, "pose": "sitting", "image_prompt": person.image}
        assert torch.isfinite(draw(half, **options).float()).all()

    def test_a_plain_base_and_an_adapter_apart(self, tmp_path: Path, person: Reference) -> None:
        pipe = make_mini()
        expected = draw(pipe, reference=person, pose="sitting", guidance_scale=7.5)  # a base's own default
        pipe.save_bolid_adapter(tmp_path / "adapter-only")
        pipe.adapter.detach(pipe.unet)
        base = stock(pipe)
        base.register_modules(image_encoder=None)
        base.save_pretrained(tmp_path / "base")
        plain = BoLIDPipeline.from_pretrained(tmp_path / "base")
        plain.set_progress_bar_config(disable=True)
        assert type(plain) is BoLIDPipeline
        assert plain.adapter is None
        with pytest.raises(ValueError, match="no adapter; load one with load_bolid_adapter"):
            draw(plain, reference=person)
        nothing = draw(plain)
        plain.load_bolid_adapter(tmp_path / "adapter-only")
        assert torch.equal(draw(plain, reference=person, pose="sitting"), expected)
        assert torch.equal(draw(plain), nothing)
        plain.save_pretrained(tmp_path / "whole")
        whole = BoLIDPipeline.from_pretrained(tmp_path / "whole")
        whole.set_progress_bar_config(disable=True)
        assert torch.equal(draw(whole, reference=person, pose="sitting"), expected)
        plain.unload_bolid_adapter()
        assert not any(
            isinstance(each, IdentityAttnProcessor) for each in plain.unet.attn_processors.values()
        )
        assert torch.equal(draw(plain), nothing)
        assert all(getattr(plain, name) is None for name in ("adapter", "image_encoder", "estimator", "face"))
        with pytest.raises(ValueError, match="no adapter; load one"):
            draw(plain, reference=person)
        plain.load_bolid_adapter(tmp_path / "adapter-only")
        assert torch.equal(draw(plain, reference=person, pose="sitting"), expected)

    def test_an_adapters_files(self, tmp_path: Path) -> None:
        """safetensors by layer name, configs beside, nothing of the base."""
        pipe = make_xl()
        pipe.save_bolid_adapter(tmp_path)
        kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
        assert kept == {"config.json", "diffusion_pytorch_model.safetensors", "model.safetensors"}
        with safe_open(tmp_path / "adapter" / "diffusion_pytorch_model.safetensors", "pt") as file:
            names = set(file.keys())
        layer = next(iter(pipe.adapter.layer_names))
        assert f"layers.{layer.replace('.', '__')}.to_k_id.weight" in names
        assert not [name for name in names if "unet" in name or "attn1" in name]

    def test_pixel_statistics_go_with_the_adapter(self, tmp_path: Path, person: Reference) -> None:
        """SDXL has no feature_extractor of its own: the encoder would see other colours without it."""
        pipe = make_xl()
        plain = draw(pipe, reference=person)
        pipe.register_modules(feature_extractor=CLIPImageProcessor())
        expected = draw(pipe, reference=person)
        assert not torch.allclose(expected, plain, atol=1e-4)
        pipe.save_bolid_adapter(tmp_path)
        base = make_xl()
        base.unload_bolid_adapter()
        base.load_bolid_adapter(tmp_path)
        assert torch.equal(draw(base, reference=person), expected)

    def test_an_adapter_for_another_vision_encoder_is_refused(self, tmp_path: Path) -> None:
        pipe = make_mini()
        pipe.save_bolid_adapter(tmp_path)
        shutil.rmtree(tmp_path / "image_encoder")
        small = {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        other = CLIPVisionModel(CLIPVisionConfig(hidden_size=24, **small))
        pipe.unload_bolid_adapter()
        pipe.register_modules(image_encoder=other)
        with pytest.raises(ValueError, match="vision encoder with patches of 16, the pipeline's gives 24"):
            pipe.load_bolid_adapter(tmp_path)
        assert pipe.adapter is None
        assert pipe.image_encoder is other

    def test_an_adapter_for_another_unet_is_refused(self, tmp_path: Path) -> None:
        make_xl().save_bolid_adapter(tmp_path)
        pipe = make_mini()
        with pytest.raises(ValueError, match="made for another base"):
            pipe.load_bolid_adapter(tmp_path)
        with pytest.raises(ValueError, match=r"adapter/config\.json"):
            pipe.load_bolid_adapter(tmp_path / "nowhere")

    def test_what_is_no_pipeline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        for source in (tmp_path, tmp_path / "missing", "models/nowhere", "./nowhere/at/all"):
            with pytest.raises(ValueError, match=r"give the folder of a saved pipeline"):
                BoLIDPipeline.from_pretrained(source)
        (tmp_path / "model_index.json").write_text(
            '{"_class_name": "FluxPipeline", "vae": ["diffusers", "X"]}'
        )
        with pytest.raises(ValueError, match=r"works with Stable Diffusion 1\.5 and SDXL"):
            BoLIDPipeline.from_pretrained(tmp_path)
