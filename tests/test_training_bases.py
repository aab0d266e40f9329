"""Frozen bases of every family, opened from saved folders of tiny real pipelines."""

from pathlib import Path

import pytest
import torch
from tiny_pipelines import make_mini, make_xl
from transformers import CLIPImageProcessor

from bolid.pipeline import BoLIDPipeline
from bolid.pipeline_xl import BoLIDXLPipeline
from bolid.training.bases import FrozenBase, open_base

TEXTS = ["abc", "on a beach"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    for name, make in (("mini", make_mini), ("xl", make_xl)):
        make().save_pretrained(root / name)
    return {"mini": root / "mini", "xl": root / "xl"}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, FrozenBase]:
    return {name: open_base(folder) for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["mini", "xl"])
def test_everything_is_frozen_and_stays_in_evaluation_mode(bases, name):
    base = bases[name]
    assert not any(p.requires_grad for p in base.parameters())
    base.train()
    assert not any(module.training for module in base.modules())
    assert all("BoLID" not in type(p).__name__ for p in base.unet.attn_processors.values())
    assert {p.dtype for p in base.parameters()} == {torch.float32}


def test_text_is_that_of_the_stock_sd_pipeline(bases, folders):
    pipe = BoLIDPipeline.from_pretrained(folders["mini"])
    stock, negative = pipe.encode_prompt(TEXTS, "cpu", 1, True)
    text = bases["mini"].encode_text(torch.from_numpy(bases["mini"].token_ids(TEXTS)))
    torch.testing.assert_close(text.states, stock, rtol=0, atol=0)
    assert text.added is None
    torch.testing.assert_close(bases["mini"].empty_text(2).states, negative, rtol=0, atol=1e-6)


def test_text_is_that_of_the_stock_sdxl_pipeline(bases, folders):
    pipe = BoLIDXLPipeline.from_pretrained(folders["xl"])
    stock, negative, pooled, negative_pooled = pipe.encode_prompt(TEXTS, device="cpu")
    base = bases["xl"]
    text, empty = base.encode_text(torch.from_numpy(base.token_ids(TEXTS)), (64, 48)), base.empty_text(2)
    assert text.added is not None
    assert empty.added is not None
    torch.testing.assert_close(text.states, stock, rtol=0, atol=0)
    torch.testing.assert_close(text.added["text_embeds"], pooled, rtol=0, atol=0)
    assert text.added["time_ids"].tolist() == [[64, 48, 0, 0, 64, 48]] * 2
    assert torch.equal(empty.states, negative)
    assert torch.equal(empty.added["text_embeds"], negative_pooled)
    mixed = text.where(torch.tensor([True, False]), empty)
    assert mixed.added is not None
    assert not mixed.states[0].any()
    assert torch.equal(mixed.states[1], text.states[1])
    assert torch.equal(mixed.added["time_ids"], text.added["time_ids"])
    prediction = base.unet(torch.zeros(2, 4, 8, 8), torch.tensor([5, 6]), **mixed[:2].kwargs()).sample
    assert prediction.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("name", ["mini", "xl"])
def test_latents_and_pictures_are_those_of_the_vae(bases, name):
    base, pixels = bases[name], torch.rand(2, 3, 64, 48) * 2 - 1
    latents = base.latents(pixels)
    assert latents.shape == (2, 4, 8, 6)
    assert base.decode(latents).shape == pixels.shape
    encoded = base.vae.encode(pixels)
    expected = encoded.latents if name == "mini" else encoded.latent_dist.mean
    torch.testing.assert_close(latents, expected * base.vae.config.scaling_factor)
    wanted = latents.clone().requires_grad_()
    base.decode(wanted).sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.any()


def test_half_precision_leaves_sdxls_vae_in_float32(folders):
    base = open_base(folders["xl"], torch.float16)
    assert base.unet.dtype == torch.float16
    assert base.text_encoders[1].dtype == torch.float16
    assert base.vae.dtype == torch.float32
    assert open_base(folders["mini"], torch.bfloat16).unet.dtype == torch.bfloat16


def test_parts_without_a_unet_are_bolid_mini_before_its_last_stage(folders, tmp_path):
    for name in ("vae", "image_encoder", "text_encoder", "tokenizer", "estimator"):
        (tmp_path / name).symlink_to(folders["mini"] / name)
    base = open_base(tmp_path)
    assert base.unet is None
    assert base.fingerprint() == open_base(folders["mini"]).fingerprint()
    (tmp_path / "vae").unlink()
    with pytest.raises(ValueError, match="stage 'autoencoder'"):
        open_base(tmp_path)


def test_a_vision_encoder_from_elsewhere_brings_its_statistics(bases, folders, tmp_path):
    pipe = make_mini(seed=3)
    pipe.image_encoder.save_pretrained(tmp_path)
    base = open_base(folders["xl"], image_encoder=str(tmp_path))
    assert base.feature_extractor.image_mean == CLIPImageProcessor().image_mean
    assert base.patches(torch.zeros(2, 4, 3, 32, 32)).shape == (2, 4, 16, 16)
    assert base.fingerprint() != bases["xl"].fingerprint()


@pytest.mark.parametrize(
    ("source", "encoder", "message"),
    [
        ("nowhere/at-all", None, "neither a folder"),
        ("mini", "nowhere", "image_encoder='nowhere'"),
    ],
)
def test_what_cannot_be_opened_is_named(folders, source, encoder, message):
    with pytest.raises(ValueError, match=message):
        open_base(folders.get(source, source), image_encoder=encoder)
