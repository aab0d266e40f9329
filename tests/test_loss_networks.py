"""The networks inside losses: each kind opens from its folder, reads where it should, lets gradients pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_objective import save_loss_networks
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    Dinov2Config,
    Dinov2Model,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

from bolid.losses import LossWeights, keypoint_loss
from bolid.pose import Pose
from bolid.training.objectives.lightning_losses import BranchOptions, LightningBranch, Task, networks_needed
from bolid.training.objectives.loss_networks import load_loss_networks, person_crop


@pytest.fixture(scope="module")
def avatar_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_loss_networks(tmp_path_factory.mktemp("avatars"))


@pytest.fixture(scope="module")
def photo_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViTPose and DINOv2 of transformers, tiny."""
    folder = tmp_path_factory.mktemp("photos")
    torch.manual_seed(2)
    shape: dict[str, Any] = {
        "image_size": (64, 48),
        "patch_size": (16, 16),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "out_indices": [2],
    }
    heads: dict[str, Any] = {"backbone_config": VitPoseBackboneConfig(**shape), "num_labels": 17}
    pose: Any = VitPoseForPoseEstimation(VitPoseConfig(**heads))
    pose.save_pretrained(folder / "pose")
    sizes: dict[str, Any] = {"image_size": 28, "patch_size": 14}
    dino = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **sizes)
    Dinov2Model(dino).save_pretrained(folder / "appearance")
    return folder


def target(rows: int = 2) -> Tensor:
    return torch.tensor(Pose.named("standing").keypoints)[None].repeat(rows, 1, 1).float()


def test_only_what_has_a_weight_is_needed() -> None:
    assert networks_needed(LossWeights()) == []
    assert networks_needed(LossWeights(semantic=1, layout=1)) == []
    assert networks_needed(LossWeights(id=1, heatmap=1, appearance=1)) == ["pose", "appearance"]


@pytest.mark.parametrize("kind", ["avatars", "photos"])
def test_gradients_reach_the_pixels(avatar_networks: Path, photo_networks: Path, kind: str) -> None:
    folder = avatar_networks if kind == "avatars" else photo_networks
    weights = LossWeights(id=1, heatmap=1, appearance=1)
    networks = load_loss_networks(folder, networks_needed(weights))
    assert not any(p.requires_grad for network in networks.values() for p in network.parameters())
    branch = LightningBranch(BranchOptions(), weights, networks)
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 120, 80, requires_grad=True)  # not the networks' own size
    task: Any = Task(pixels, None, None, pixels.detach() + 0.1, target(), [])  # pyright: ignore[reportArgumentType]
    losses = branch._on_pixels(lambda latents: latents, pixels, task)
    assert {name: tuple(value.shape) for name, value in losses.items()} == dict.fromkeys(
        ("id", "heatmap", "appearance"), (2,)
    )
    for value in losses.values():
        gradient = torch.autograd.grad(value.sum(), pixels, retain_graph=True)[0]
        assert bool(gradient.isfinite().all())
        assert bool(gradient.any())


@pytest.mark.parametrize("kind", ["avatars", "photos"])
def test_maps_see_the_picture_and_their_weights_its_places(
    avatar_networks: Path, photo_networks: Path, kind: str
) -> None:
    folder = avatar_networks if kind == "avatars" else photo_networks
    network: Any = load_loss_networks(folder, ["appearance"])["appearance"]
    pixels = torch.rand(2, 3, 120, 80, requires_grad=True)
    weight = torch.zeros(2, 1, 120, 80)
    weight[:, :, :60] = 2  # the upper half alone counts
    maps, weights = network.maps(pixels, target(), weight)
    assert [each.shape[-2:] for each in maps] == [each.shape[-2:] for each in weights]
    for each in weights:
        assert float(each.mean()) == pytest.approx(1, abs=1e-5)
    gradient = torch.autograd.grad(
        sum((each * w).sum() for each, w in zip(maps, weights, strict=True)), pixels
    )
    assert bool(gradient[0].any())
    if kind == "avatars":
        assert float(weights[0][:, :, -1].abs().max()) == 0


@pytest.mark.parametrize("kind", ["avatars", "photos"])
def test_places_and_frames_agree(avatar_networks: Path, photo_networks: Path, kind: str) -> None:
    """A peak in the heat-map at a joint's cell is that joint's place in the picture, whatever the crop."""
    folder = avatar_networks if kind == "avatars" else photo_networks
    network: Any = load_loss_networks(folder, ["pose"])["pose"]
    with torch.no_grad():
        sight = network(torch.rand(2, 3, 100, 90), target())
    height, width = sight.heatmaps.shape[-2:]
    peaks = sight.heatmaps.flatten(2).argmax(-1)
    cells = torch.stack(((peaks % width + 0.5) / width, (peaks // width + 0.5) / height), -1)
    places = cells * sight.extent + sight.corner
    reach = 4 / torch.tensor((width, height)) * sight.extent  # the window of the soft-argmax
    assert bool(((places - sight.places).abs() <= reach).all())
    assert sight.confidence.shape == (2, 18)
    framed = sight.framed(target())
    assert_close(framed[..., :2] * sight.extent + sight.corner, target()[..., :2])
    assert_close(framed[..., 2], target()[..., 2])
    assert float(keypoint_loss(target(), target(), (100, 90), sight.confidence).sum()) == 0


def test_the_crop_is_the_persons_box() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 96, 64).clone()  # a pixel's value is its x
    points = torch.zeros(1, 18, 3)
    points[0, 0], points[0, 1] = torch.tensor((0.4, 0.3, 1)), torch.tensor((0.6, 0.7, 1))
    crop, corner, extent = person_crop(ramp, points, (32, 24))
    centre = corner + extent / 2
    assert_close(centre[0, 0], torch.tensor((0.5, 0.5)))
    assert float(extent[0, 0, 1]) == pytest.approx(0.4 * 1.25)
    assert float(extent[0, 0, 0] * 64 / (extent[0, 0, 1] * 96)) == pytest.approx(24 / 32)  # not stretched
    assert float(crop[0, 0, 16, 11:13].mean()) == pytest.approx(0.5, abs=0.02)
    whole, _, extent = person_crop(ramp, torch.zeros(1, 18, 3), (96, 64))
    assert_close(extent[0, 0], torch.tensor((1.25, 1.25)))
    assert bool(whole.isfinite().all())


def test_texts_and_pictures_share_a_space(avatar_networks: Path) -> None:
    network: Any = load_loss_networks(avatar_networks, ["text_image"])["text_image"]
    texts = network.texts(["on a beach", "on a beach", "in snow"])
    pictures = network.pictures(torch.rand(3, 3, 50, 40))
    assert texts.shape == pictures.shape
    assert_close(texts.norm(dim=-1), torch.ones(3))
    assert torch.equal(texts[0], texts[1])
    assert not torch.allclose(texts[0], texts[2])
