import pytest
import torch

from bolid.body import BodyNet, pack_appearance


def make_body() -> BodyNet:
    torch.manual_seed(0)
    return BodyNet(latent_channels=4, channels=(8, 16, 16)).eval()


@pytest.mark.parametrize(("height", "width"), [(96, 64), (200, 136)])
@torch.no_grad()
def test_one_map_per_level_rounding_up_as_the_unet_does(height, width):
    sizes, h, w = [], height // 8, width // 8
    for _ in range(3):
        sizes.append((h, w))
        h, w = (h + 1) // 2, (w + 1) // 2
    features = make_body()(torch.rand(2, 3, height, width), torch.randn(2, 5, height // 8, width // 8))
    assert [tuple(f.shape[-2:]) for f in features] == sizes
    assert [f.shape[1] for f in features] == [8, 16, 16]


@torch.no_grad()
def test_no_map_is_a_map_of_zeros():
    body, skeleton = make_body(), torch.rand(2, 3, 96, 64)
    for with_zeros, without in zip(body(skeleton, torch.zeros(2, 5, 12, 8)), body(skeleton), strict=True):
        assert torch.equal(with_zeros, without)


@torch.no_grad()
def test_rows_are_independent():
    body, skeleton, appearance = make_body(), torch.rand(2, 3, 96, 64), torch.randn(2, 5, 12, 8)
    both, one = body(skeleton, appearance), body(skeleton[1:], appearance[1:])
    for pair, single in zip(both, one, strict=True):
        torch.testing.assert_close(pair[1:], single, atol=1e-5, rtol=1e-5)


def test_wrong_sizes_are_refused():
    body = make_body()
    with pytest.raises(ValueError, match="multiples of 8"):
        body(torch.rand(1, 3, 90, 64))
    with pytest.raises(ValueError, match="same picture size"):
        body(torch.rand(1, 3, 96, 64), torch.zeros(1, 5, 8, 8))
    with pytest.raises(ValueError, match="norm_groups"):
        BodyNet(channels=(10, 16))


def test_pack_appearance_makes_uncovered_rows_zero():
    coverage = torch.zeros(2, 1, 96, 64)
    coverage[1, :, :48] = 0.5
    packed = pack_appearance(torch.randn(2, 4, 12, 8), coverage)
    assert packed.shape == (2, 5, 12, 8)
    assert packed[0].abs().max() == 0
    assert packed[1, 4, 0, 0] == 0.5
    assert packed[1, :4].abs().min() > 0


def test_save_and_load_round_trip(tmp_path):
    body, skeleton = make_body(), torch.rand(1, 3, 96, 64)
    body.save_pretrained(tmp_path)
    for before, after in zip(body(skeleton), BodyNet.from_pretrained(tmp_path)(skeleton), strict=True):
        assert torch.equal(before, after)
