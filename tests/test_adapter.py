from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from tiny_unets import make_pipeline, make_unet

import bolid.attention as attention
from bolid.adapter import AdapterInputs, BoLIDAdapter, part_scale
from bolid.attention import Conditions

OPTIONS = {"vision_dim": 12, "resampler_width": 16, "resampler_heads": 2, "tokens_per_part": (3, 2, 2, 1)}
FAMILIES = ("sd15", "sdxl", "mini")


def make_adapter(family: str, **options) -> tuple:
    """A UNet with its adapter attached; body projections random, as after training."""
    unet, call = make_unet(family)
    torch.manual_seed(1)
    adapter = BoLIDAdapter.for_unet(unet, **(OPTIONS | options)).eval()
    for layer in adapter.layers.values():
        torch.nn.init.normal_(layer.body.weight, std=0.2)
    adapter.attach(unet)
    return unet, call, adapter


def make_inputs(adapter: BoLIDAdapter, rows: int = 2) -> AdapterInputs:
    generator = torch.Generator().manual_seed(2)
    return adapter.inputs(
        patches=torch.randn(rows, 4, 9, 12, generator=generator),
        image_patches=torch.randn(rows, 9, 12, generator=generator),
        skeleton=torch.rand(rows, 3, 96, 64, generator=generator),
        appearance=torch.randn(rows, 5, 12, 8, generator=generator),
    )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_all_strengths_zero_equals_the_base_bit_for_bit(family):
    base, call = make_unet(family)
    unet, _, adapter = make_adapter(family)
    inputs = make_inputs(adapter)
    with_all = call(unet, adapter(inputs))
    assert not torch.equal(with_all, call(base))
    off = inputs.without_identity().without_image().without_pose()
    assert torch.equal(call(unet, adapter(off)), call(base))
    assert torch.equal(call(unet), call(base))


@pytest.mark.parametrize("kind", ["tokens", "image", "body"])
@torch.no_grad()
def test_each_kind_of_condition_matters(kind):
    unet, call, adapter = make_adapter("sd15")
    inputs = make_inputs(adapter)
    only = {
        "tokens": inputs.without_image().without_pose(),
        "image": inputs.without_identity().without_pose(),
        "body": inputs.negative(),
    }[kind]
    assert (call(unet, adapter(only)) - call(unet)).abs().max() > 1e-4


@torch.no_grad()
def test_every_part_at_s_is_strength_s_bit_for_bit():
    unet, call, adapter = make_adapter("sd15")
    inputs = make_inputs(adapter).without_pose().without_image()
    full = adapter(inputs)
    parts = adapter(replace(inputs, strength=torch.full((2, 4), 0.3)))
    scaled = replace(
        full.groups[0], values={name: values * 0.0 for name, values in full.groups[0].values.items()}
    )
    tokens = inputs.tokens
    for name in adapter.layer_names:
        layer = adapter.layers[name.replace(".", "__")]
        scaled.values[name] = layer.identity(tokens, torch.full((2,), 0.3))[1]
    whole = replace(full, groups=(scaled, *full.groups[1:]))
    assert parts.groups[0].bias.abs().max() == 0
    assert torch.equal(call(unet, parts), call(unet, whole))


@torch.no_grad()
def test_a_part_at_zero_has_no_influence():
    unet, call, adapter = make_adapter("sd15")
    strength = torch.tensor([[1.0, 0.0, 0.4, 1.0]]).expand(2, -1)
    inputs = replace(make_inputs(adapter), strength=strength)
    tokens = inputs.tokens.clone()
    tokens[:, adapter.part_ids == 1] += 3
    other = replace(inputs, tokens=tokens)
    assert torch.equal(call(unet, adapter(inputs)), call(unet, adapter(other)))
    absent = inputs.token_present & (adapter.part_ids != 1)
    dropped = replace(
        inputs, strength=torch.tensor([[1.0, 1.0, 0.4, 1.0]]).expand(2, -1), token_present=absent
    )
    assert torch.equal(call(unet, adapter(inputs)), call(unet, adapter(dropped)))


def test_part_scale_is_relative_to_the_strongest_present_part():
    strength = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    present = torch.tensor([[False, True, True, True], [True, True, True, True]])
    scale, bias = part_scale(strength, present, torch.arange(4))
    assert scale.tolist() == [0.5, 0.0]
    assert bias[0, 1] == 0
    assert (bias[0, [0, 2, 3]] < -1000).all()
    assert bias.isfinite().all()


@torch.no_grad()
def test_rows_without_anything_present_are_the_base():
    unet, call, adapter = make_adapter("sd15")
    inputs = make_inputs(adapter).without_pose().without_image()
    nobody = replace(inputs, token_present=torch.zeros_like(inputs.token_present))
    assert torch.equal(call(unet, adapter(nobody)), call(unet))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_rows_do_not_depend_on_their_batch_mates(family):
    unet, call, adapter = make_adapter(family)
    inputs = make_inputs(adapter)
    both = call(unet, adapter(inputs))
    for row in range(2):
        alone = {
            name: value if name == "part_ids" or value is None else value[row : row + 1]
            for name, value in vars(inputs).items()
        }
        single = call(unet, adapter(AdapterInputs(**alone)), rows=slice(row, row + 1))
        torch.testing.assert_close(single, both[row : row + 1], atol=2e-5, rtol=1e-4)


def test_dropping_is_by_row_and_one_function_makes_the_negative():
    _, _, adapter = make_adapter("sd15")
    inputs = make_inputs(adapter)
    dropped = inputs.without_identity(torch.tensor([True, False]))
    assert dropped.strength[0].tolist() == [0] * 4
    assert dropped.appearance[0].abs().max() == 0
    assert torch.equal(dropped.appearance[1], inputs.appearance[1])
    negative = inputs.negative()
    assert negative.strength.abs().max() == negative.image_strength.abs().max() == 0
    assert torch.equal(negative.skeleton, inputs.skeleton)
    assert torch.equal(negative.pose_strength, inputs.pose_strength)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_adapter_layer(family, checkpointing):
    unet, call, adapter = make_adapter(family)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    call(unet, adapter(make_inputs(adapter))).square().mean().backward()
    used = {row["level"] for row in adapter.config.layer_table}
    silent = [
        name
        for name, parameter in adapter.named_parameters()
        if (parameter.grad is None or parameter.grad.abs().max() == 0)
        and not (name.startswith("body_net.norms") and int(name.split(".")[2]) not in used)
    ]
    assert silent == []
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_checkpointing_leaves_the_gradients_as_they_were():
    gradients = []
    for checkpointing in (False, True):
        unet, call, adapter = make_adapter("mini")
        unet.train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        call(unet, adapter(make_inputs(adapter))).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in adapter.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_save_and_load_round_trip(tmp_path):
    unet, call, adapter = make_adapter("sdxl")
    before = call(unet, adapter(make_inputs(adapter)))
    adapter.save_pretrained(tmp_path)
    loaded = BoLIDAdapter.from_pretrained(tmp_path)
    assert loaded.layer_names == adapter.layer_names
    assert torch.equal(call(unet, loaded(make_inputs(loaded))), before)


def test_adapter_weights_never_enter_the_unet_and_detach_restores():
    base, call = make_unet("sd15")
    unet, _, adapter = make_adapter("sd15")
    assert set(unet.state_dict()) == set(base.state_dict())
    conditions = adapter(make_inputs(adapter))
    adapter.detach(unet)
    assert torch.equal(call(unet, conditions), call(base))
    with pytest.raises(ValueError, match="attach"):
        adapter.require_attached(unet)


def test_matmul_is_the_same_up_to_rounding_and_detaches():
    unet, call, adapter = make_adapter("mini")
    conditions = adapter(make_inputs(adapter))
    before = call(unet, conditions)
    adapter.attach(unet, matmul=True)
    torch.testing.assert_close(call(unet, conditions), before, atol=2e-5, rtol=1e-4)
    adapter.detach(unet)
    assert {type(processor) for processor in unet.attn_processors.values()} == {AttnProcessor2_0}


@torch.no_grad()
def test_a_bfloat16_copy_takes_float32_inputs():
    unet, call, adapter = make_adapter("sd15")
    before = call(unet, adapter(make_inputs(adapter)))
    inputs = make_inputs(adapter.to(torch.bfloat16))
    torch.testing.assert_close(call(unet, adapter(inputs)), before, atol=0.1, rtol=0.1)


def test_keys_start_from_the_text_weights():
    unet, _, adapter = make_adapter("sd15")
    name = adapter.layer_names[0]
    layer = adapter.layers[name.replace(".", "__")]
    assert torch.equal(layer.to_k_id.weight, unet.get_submodule(name).to_k.weight)


def test_zero_tokens_are_a_sink():
    unet, call, adapter = make_adapter("sd15", zero_tokens=2)
    conditions = adapter(make_inputs(adapter))
    group = conditions.groups[0]
    assert group.bias.shape == (2, 10)
    assert all(keys[:, :, -2:].abs().max() == 0 for keys in group.keys.values())
    assert call(unet, conditions).isfinite().all()


@torch.no_grad()
def test_stock_pipeline_takes_conditions_and_computes_keys_once(monkeypatch):
    pipeline = make_pipeline("mini")
    torch.manual_seed(1)
    adapter = BoLIDAdapter.for_unet(pipeline.unet, **OPTIONS).eval()

    def draw(**options):
        return pipeline(
            "a cat",
            height=96,
            width=64,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            **options,
        ).images

    before = draw()
    adapter.attach(pipeline.unet)
    assert torch.equal(draw(), before)
    inputs = make_inputs(adapter, rows=1)
    calls = []
    split = attention.split_heads
    monkeypatch.setattr(attention, "split_heads", lambda *given: calls.append(1) or split(*given))
    off = adapter(inputs.negative().without_pose())
    assert torch.equal(draw(cross_attention_kwargs=Conditions.cat(off, off).kwargs()), before)
    calls.clear()
    both = Conditions.cat(adapter(inputs.negative()), adapter(inputs))
    expected = len(calls)
    assert expected == 2 * 2 * len(adapter.layer_names)  # halves × (identity, image) × layers
    assert not torch.equal(draw(cross_attention_kwargs=both.kwargs()), before)
    assert len(calls) == expected


def test_mismatched_sizes_name_the_cure():
    unet, call, adapter = make_adapter("sd15")
    with pytest.raises(ValueError, match="one batch size"):
        adapter(AdapterInputs())
    big = adapter.inputs(skeleton=torch.rand(2, 3, 128, 64))
    with pytest.raises(ValueError, match="skeleton map"):
        call(unet, adapter(big))
    plain = BoLIDAdapter.for_unet(unet, **OPTIONS, image_token_count=0)
    with pytest.raises(ValueError, match="image_token_count"):
        plain.encode_image(torch.rand(1, 9, 12))
