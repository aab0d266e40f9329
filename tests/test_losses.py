"""The losses' limits: 0 at equality, what they must not see, and where their gradients go."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from bolid import losses
from bolid.losses import LossWeights, reconstruction_loss, total
from bolid.training.objectives.mini_unet import mini_scheduler


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def people(rows: int = 3, joints: int = 18, seed: int = 0) -> Tensor:
    """Targets [B, J, 3] inside the frame, all seen."""
    places = torch.rand(rows, joints, 2, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    return torch.cat((places, torch.ones(rows, joints, 1)), -1)


def test_the_error_of_epsilon_is_the_same_from_v() -> None:
    scheduler: Any = mini_scheduler()
    steps = torch.tensor([10, 500, 900])
    latents, noise = random(3, 4, 6, 4), random(3, 4, 6, 4, seed=1)
    alphas = scheduler.alphas_cumprod[steps]
    a = alphas.view(-1, 1, 1, 1)
    guess = noise + 0.1 * random(3, 4, 6, 4, seed=2)  # of ε
    noisy = scheduler.add_noise(latents, noise, steps)
    guess_v = (guess - (1 - a).sqrt() * noisy) / a.sqrt()
    target_v = scheduler.get_velocity(latents, noise, steps)
    assert_close(
        reconstruction_loss(guess_v, target_v, alphas), reconstruction_loss(guess, noise), rtol=1e-3, atol=0
    )


def test_snr_weight_counts_pure_noise_and_bounds_clean_steps() -> None:
    weight = losses.snr_weight(torch.tensor([0.0, 0.5, 0.999]), gamma=5.0)
    assert_close(weight, torch.tensor([1.0, 1.0, 0.005]), rtol=1e-3, atol=0)


def test_reconstruction_is_zero_at_equality_and_weighs_pixels() -> None:
    a, b = random(2, 4, 6, 4), random(2, 4, 6, 4, seed=1)
    assert reconstruction_loss(a, a).tolist() == [0, 0]
    half = torch.zeros(2, 1, 6, 4)
    half[:, :, :3] = 2
    assert_close(reconstruction_loss(a, b, weight=half), (a - b)[:, :, :3].square().mean((1, 2, 3)))


def test_keypoint_weights_stand_on_visible_joints() -> None:
    target = people(2)
    target[0, 1:, 2] = 0
    target[0, 0] = torch.tensor((2.5 / 8, 4.5 / 12, 1))  # the middle of latent pixel (4, 2)
    target[1, :, 2] = 0
    weights = losses.keypoint_weights(target, (12, 8))
    assert weights.shape == (2, 1, 12, 8)
    assert_close(weights.mean((2, 3)), torch.ones(2, 1))
    assert int(weights[0].argmax()) == 4 * 8 + 2
    assert_close(weights[0].max() / weights[0].min(), torch.tensor(5.0), rtol=1e-3, atol=0)
    assert_close(weights[1], torch.ones(1, 12, 8))


def test_cosine_losses() -> None:
    a, b = random(4, 16), random(4, 16, seed=1)
    assert losses.clip_loss(a, a).tolist() == [0] * 4
    assert_close(losses.clip_loss(a, b), 1 - F.cosine_similarity(a, b))
    assert_close(losses.clip_loss(3 * a, b), losses.clip_loss(a, b))
    assert_close(losses.clip_loss(a, -a), torch.full((4,), 2.0))
    assert bool(losses.clip_loss(torch.zeros(4, 16), b).isfinite().all())


def test_the_hinge_of_the_appearance_loss_ends_the_reward() -> None:
    reference = random(2, 16).requires_grad_()
    near = (reference.detach() + 0.05 * random(2, 16, seed=1)).requires_grad_()
    value = losses.appearance_loss(near, reference, margin=0.1)
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert near.grad is not None
    assert near.grad.abs().max() == 0
    far = random(2, 16, seed=2).requires_grad_()
    losses.appearance_loss(far, reference, margin=0.1).sum().backward()
    assert far.grad is not None
    assert far.grad.abs().max() > 0
    assert reference.grad is None


def test_alignment_is_pulids_and_reaches_the_path_with_identity_alone() -> None:
    with_identity, without = (
        random(2, 3, 12, 8).requires_grad_(),
        random(2, 3, 12, 8, seed=1).requires_grad_(),
    )
    keys = random(2, 3, 5, 8, seed=2).requires_grad_()
    literal = [
        torch.softmax(keys @ q.transpose(-1, -2) / 8**0.5, dim=-1) @ q for q in (with_identity, without)
    ]
    pair = [{"a": with_identity}], [{"a": without}], {"a": keys}
    given = losses.alignment_losses(*pair)
    assert_close(given["semantic"], (literal[0] - literal[1]).square().mean((1, 2, 3)))
    assert_close(given["layout"], (with_identity - without).square().mean((1, 2, 3)))
    (given["semantic"] + given["layout"]).sum().backward()
    assert with_identity.grad is not None
    assert with_identity.grad.abs().max() > 0
    assert without.grad is None
    assert keys.grad is None
    same = losses.alignment_losses(pair[0], pair[0], pair[2])
    assert [value.tolist() for value in same.values()] == [[0, 0], [0, 0]]


def test_alignment_is_a_mean_over_steps_and_layers() -> None:
    query = {seed: random(2, 3, 12, 8, seed=seed) for seed in range(4)}
    keys = {"a": random(2, 3, 5, 8, seed=8)}
    both = losses.alignment_losses(
        [{"a": query[0]}, {"a": query[1]}], [{"a": query[2]}, {"a": query[3]}], keys
    )
    each = [losses.alignment_losses([{"a": query[i]}], [{"a": query[i + 2]}], keys) for i in (0, 1)]
    for name, value in both.items():
        assert_close(value, (each[0][name] + each[1][name]) / 2)
    with pytest.raises(ValueError, match="No queries"):
        losses.alignment_losses([{}], [{}], keys)


def test_total_weighs_and_averages_rows() -> None:
    given = {"rec": torch.tensor([1.0, 3.0]), "id": torch.tensor(4.0), "clip": torch.tensor([torch.nan])}
    assert float(total(given, LossWeights(rec=2, id=0.5, clip=0))) == 6
    del given["clip"]
    assert float(total(given, LossWeights(id=1))) == 6
    with pytest.raises(ValueError, match=r"'face'.*appearance"):
        total({"face": torch.ones(1)}, LossWeights())
    with pytest.raises(ValueError, match="weight 0"):
        total({"layout": torch.ones(1)}, LossWeights())


def test_each_equation_of_the_objective_has_its_function_here() -> None:
    text = Path(losses.__file__).read_text()
    assert [text.count(f"[Eq. {n}]") for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert {"rec", "id", "clip"} <= {f.name for f in dataclasses.fields(LossWeights)}
