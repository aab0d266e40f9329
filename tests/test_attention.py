import pytest
import torch
from tiny_unets import make_unet

from bolid.attention import (
    MASKED,
    Conditions,
    IdentityAttnProcessor,
    TokenGroup,
    cross_attentions,
    detach,
    region_at,
    require_attached,
)


def tiny_group(rows: int = 2, tokens: int = 5, heads: int = 2, width: int = 4) -> TokenGroup:
    torch.manual_seed(0)
    shape = (rows, heads, tokens, width)
    return TokenGroup({"l": torch.randn(shape)}, {"l": torch.randn(shape)}, torch.zeros(rows, tokens))


def test_attend_equals_scaled_dot_product_attention():
    group = tiny_group()
    query = torch.randn(2, 2, 6, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, group.keys["l"], group.values["l"], scale=1
    )
    torch.testing.assert_close(group.attend(query, "l"), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_tokens_have_no_influence_and_all_masked_is_finite(dtype):
    group = tiny_group().map(lambda tensor: tensor.to(dtype))
    group.bias[:, 2] = MASKED
    query = torch.randn(2, 2, 6, 4, dtype=dtype)
    before = group.attend(query, "l")
    group.keys["l"][:, :, 2] += 7
    group.values["l"][:, :, 2] -= 9
    assert torch.equal(group.attend(query, "l"), before)
    group.bias[:] = MASKED
    assert group.attend(query, "l").isfinite().all()


def test_cat_repeat_and_add_keep_rows_in_order():
    conditions = Conditions(2, (tiny_group(),), {"l": torch.arange(2.0).view(2, 1, 1).expand(2, 6, 4)})
    both = Conditions.cat(conditions, conditions.map(lambda tensor: tensor + 10))
    assert both.rows == 4
    assert both.body["l"][:, 0, 0].tolist() == [0, 1, 10, 11]
    assert conditions.repeat(2).body["l"][:, 0, 0].tolist() == [0, 0, 1, 1]
    total = conditions + conditions
    assert len(total.groups) == 2
    assert total.body["l"][1, 0, 0] == 2


def test_cat_refuses_different_kinds():
    conditions = Conditions(2, (tiny_group(),))
    with pytest.raises(ValueError, match="same groups"):
        Conditions.cat(conditions, Conditions(2))


def test_region_limits_a_group_to_its_pixels():
    region = torch.zeros(2, 1, 4, 4)
    region[:, :, :2] = 1
    conditions = Conditions(2, (tiny_group(),), {"l": torch.ones(2, 16, 8)}).within(region)
    hidden = conditions.groups[0].attend(torch.randn(2, 2, 16, 4), "l")
    assert hidden[:, :, 8:].abs().max() == 0
    assert hidden[:, :, :8].abs().min() > 0
    assert conditions.body["l"][:, 8:].abs().max() == 0
    column = torch.zeros(2, 1, 4, 4)
    column[..., 0] = 1
    both = conditions.within(column).groups[0].region
    assert both is not None
    assert torch.equal(both, region * column)  # a face within one of several people
    assert region_at(torch.ones(1, 1, 25, 17), 13 * 9).shape == (1, 117, 1)
    with pytest.raises(ValueError, match="latents' size"):
        region_at(region, 15)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "mini"])
def test_without_conditions_equals_the_stock_processor(family):
    unet, call = make_unet(family)
    names = tuple(cross_attentions(unet))
    before = call(unet)
    keys = set(unet.state_dict())
    for name, attn in cross_attentions(unet).items():
        attn.set_processor(IdentityAttnProcessor(name))
    require_attached(unet, names)
    assert torch.equal(call(unet), before)
    assert torch.equal(call(unet, Conditions(2)), before)
    assert set(unet.state_dict()) == keys
    mask = torch.ones(2, 7)
    mask[:, 3:] = 0
    masked = call(unet, encoder_attention_mask=mask)
    detach(unet)
    assert torch.equal(call(unet, encoder_attention_mask=mask), masked)
    assert not any(isinstance(p, IdentityAttnProcessor) for p in unet.attn_processors.values())


def test_wrong_batch_names_the_cure():
    unet, call = make_unet("sd15")
    for name, attn in cross_attentions(unet).items():
        attn.set_processor(IdentityAttnProcessor(name))
    with pytest.raises(ValueError, match="Conditions"):
        call(unet, Conditions(3))


def test_replaced_processors_are_refused():
    unet, _ = make_unet("sd15")
    names = tuple(cross_attentions(unet))
    with pytest.raises(ValueError, match="attach"):
        require_attached(unet, names)
    for name, attn in cross_attentions(unet).items():
        attn.set_processor(IdentityAttnProcessor(name))
    unet.set_attention_slice("max")
    with pytest.raises(ValueError, match="attention slicing"):
        require_attached(unet, names)


def test_layers_of_a_compiled_unet_keep_their_names():
    """torch.compile puts the UNet one level deeper; nothing is compiled before it is called."""
    unet, _ = make_unet("sd15")
    names = list(cross_attentions(unet))
    assert list(cross_attentions(torch.compile(unet))) == names
