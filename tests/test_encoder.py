import pytest
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from transformers import CLIPVisionConfig, CLIPVisionModel

from bolid.encoder import IdentityResampler, ImageResampler, Resampler, crop_parts, part_patches


def make_resampler(**options) -> IdentityResampler:
    torch.manual_seed(0)
    return IdentityResampler(12, 10, (3, 2, 2, 1), width=16, heads=2, **options).eval()


def test_crop_is_the_masked_square_around_the_part():
    image = torch.full((1, 3, 96, 64), 0.5)
    image[:, :, :, 32:] = -0.5
    parts = torch.zeros(1, 96, 64, dtype=torch.uint8)
    parts[:, 20:60, 22:42] = 2  # 40 × 20 pixels, its right half dark
    crops, present = crop_parts(image, parts, size=48)
    assert present.tolist() == [[False, True, False, False]]
    assert crops[:, [0, 2, 3]].abs().max() == 0
    upper = crops[0, 1, 0]  # 48 pixels show 40 · 1.2 picture pixels: one to one
    assert (upper[4:44, 14:24] == 0.5).all()
    assert (upper[4:44, 24:34] == -0.5).all()
    assert upper[:4].abs().max() == upper[:, :14].abs().max() == upper[:, 34:].abs().max() == 0


def test_background_never_bleeds_in_and_rows_are_independent():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 96, 64) * 2 - 1
    parts = torch.randint(0, 5, (2, 12, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2).to(torch.uint8)
    crops, present = crop_parts(image, parts)
    changed = torch.where(parts[:, None] == 0, torch.ones(()), image)
    assert torch.equal(crop_parts(changed, parts)[0], crops)
    torch.testing.assert_close(crop_parts(image[1:], parts[1:])[0], crops[1:])
    assert present.all()


def test_a_few_stray_pixels_are_no_part():
    parts = torch.zeros(1, 96, 64, dtype=torch.uint8)
    parts[:, 5, :11] = 1
    crops, present = crop_parts(torch.ones(1, 3, 96, 64), parts)
    assert not present.any()
    assert crops.abs().max() == 0


def test_large_pictures_are_averaged_down():
    checkers = (torch.arange(512)[:, None] + torch.arange(512)) % 2 * 2.0 - 1
    crops, _ = crop_parts(
        checkers.expand(1, 3, -1, -1), torch.full((1, 512, 512), 3, dtype=torch.uint8), size=32
    )
    assert crops[0, 2].abs().max() < 0.75  # single-pixel checkers would survive point sampling at ±1


def test_crop_refuses_maps_of_another_size():
    with pytest.raises(ValueError, match="label map"):
        crop_parts(torch.zeros(1, 3, 96, 64), torch.zeros(1, 64, 96, dtype=torch.uint8))


@torch.no_grad()
def test_part_patches_are_penultimate_without_the_class_token():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    vision = CLIPVisionModel(config).eval()
    crops = torch.rand(2, 4, 3, 32, 32)
    patches = part_patches(vision, crops)
    assert patches.shape == (2, 4, 16, 12)
    states = vision(pixel_values=crops[:, 2], output_hidden_states=True).hidden_states
    torch.testing.assert_close(patches[:, 2], states[2][:, 1:], atol=1e-5, rtol=1e-4)
    assert part_patches(vision, crops[:, 0]).shape == (2, 16, 12)
    half = part_patches(vision, crops, mean=(0.5,) * 3, std=(0.5,) * 3)
    torch.testing.assert_close(half, patches, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tokens_of_a_part_depend_on_that_part_alone():
    resampler, patches = make_resampler(), torch.randn(2, 4, 9, 12)
    present = torch.tensor([[True, True, False, True]] * 2)
    tokens, token_present = resampler(patches, present)
    assert tokens.shape == (2, 8, 10)
    assert resampler.part_ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 3]
    assert token_present[0].tolist() == [True] * 5 + [False] * 2 + [True]
    assert tokens[:, 5:7].abs().max() == 0
    patches[:, 1] += 1
    changed = (resampler(patches, present)[0] != tokens).any(dim=-1)
    assert changed[0].tolist() == [False] * 3 + [True] * 2 + [False] * 3


def test_refuses_another_number_of_parts():
    with pytest.raises(ValueError, match="crop_parts"):
        Resampler(12, 10)(torch.zeros(1, 3, 9, 12))


@torch.no_grad()
def test_one_part_equals_ip_adapter_plus():
    torch.manual_seed(0)
    theirs = IPAdapterPlusImageProjection(
        embed_dims=12, output_dims=10, hidden_dims=16, depth=2, dim_head=8, heads=2, num_queries=5
    ).eval()
    ours = ImageResampler(12, 10, (5,), width=16, depth=2, heads=2, ffn_ratio=4).eval()
    renamed = {"part_embedding": torch.zeros(1, 16)}
    for name, value in theirs.state_dict().items():
        for old, new in {
            ".ln0.": ".0.norm1.",
            ".ln1.": ".0.norm2.",
            ".attn.to_q.": ".0.to_q.",
            ".attn.to_out.0.": ".0.to_out.",
            ".ff.0.": ".1.0.",
            ".ff.1.net.0.proj.": ".1.1.",
            ".ff.1.net.2.": ".1.3.",
            ".attn.to_k.": ".0.to_k.",
            ".attn.to_v.": ".0.to_v.",
        }.items():
            name = name.replace(old, new)
        renamed[name] = value
    for layer in range(2):
        pair = [renamed.pop(f"layers.{layer}.0.to_{letter}.weight") for letter in "kv"]
        renamed[f"layers.{layer}.0.to_kv.weight"] = torch.cat(pair)
    ours.load_state_dict(renamed)
    patches = torch.randn(2, 9, 12)
    torch.testing.assert_close(ours(patches), theirs(patches), atol=1e-5, rtol=1e-5)
