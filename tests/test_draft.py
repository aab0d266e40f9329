"""BodyNet taught alone, and the loss on decoded x0."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_objective import SMALL, awaken, gradients, make_base, make_rows, save_loss_networks
from torch.testing import assert_close

from bolid.losses import LossWeights, answer_loss, perceptual_loss, picture_loss
from bolid.training.draws import step_draws
from bolid.training.objectives.diffusion import DiffusionObjective

ALL_GIVEN: dict[str, float] = {"map_drop": 0, "pose_drop": 0, "identity_drop": 0, "faded_share": 0}


def make_objective(family: str = "mini", **changes: Any) -> DiffusionObjective:
    torch.manual_seed(0)
    objective = DiffusionObjective(dataclasses.replace(SMALL, **changes), make_base(family))
    awaken(objective.adapter)
    return objective


def batch_of(objective: DiffusionObjective, count: int = 4) -> dict[str, torch.Tensor]:
    return make_rows(objective.base, count).batch(np.arange(count))


def test_the_draft_alone_trains_bodynet_and_nothing_else() -> None:
    objective = make_objective(base="tiny", weights=LossWeights(rec=0, draft=1), **ALL_GIVEN)
    out = objective(batch_of(objective), step_draws(0, 0, 4))
    assert set(out) == {"loss", "draft"}
    found = gradients(objective, out["loss"])
    moved = {".".join(name.split(".")[:2]) for name, value in found.items() if value.any()}
    assert moved == {"adapter.body_net", "draft.head"}
    assert all(value.any() for name, value in found.items() if name.startswith("adapter.body_net"))
    assert set(objective.models) == {"adapter"}  # the linear map is not exported


def test_rows_without_map_or_pose_count_nothing() -> None:
    for dropped in ("map_drop", "pose_drop"):
        objective = make_objective(weights=LossWeights(rec=0, draft=1), **(ALL_GIVEN | {dropped: 1.0}))
        assert float(objective(batch_of(objective), step_draws(0, 0, 4))["draft"]) == 0


def test_a_draft_can_be_learnt() -> None:
    objective = make_objective(base="tiny", weights=LossWeights(rec=0, draft=1), **ALL_GIVEN)
    batch, draws = batch_of(objective), step_draws(0, 0, 4)
    weights = [p for p in objective.parameters() if p.requires_grad]
    optimizer, values = torch.optim.Adam(weights, 1e-2), []
    for _ in range(30):
        loss = objective(batch, draws)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.5 * values[0]


def test_a_base_without_the_finest_level_has_no_draft() -> None:
    with pytest.raises(ValueError, match="finest features"):
        make_objective("xl", base="tiny", weights=LossWeights(draft=1))


def test_the_picture_loss_needs_a_prediction_and_adds_to_it() -> None:
    with pytest.raises(ValueError, match="decodes what rec predicts"):
        make_objective(weights=LossWeights(rec=0, draft=1, picture=1))
    objective = make_objective(weights=LossWeights(picture=2), picture_rows=2)
    batch, draws = batch_of(objective), step_draws(0, 0, 4)
    out = objective(batch, draws)
    assert_close(out["loss"].detach(), out["rec"] + 2 * out["picture"])
    alone = make_objective()
    first, second = gradients(objective, out["loss"]), gradients(alone, alone(batch, draws)["loss"])
    assert any(not torch.allclose(first[name], second[name]) for name in second)
    assert not any(p.requires_grad for p in objective.base.vae.parameters())


def test_picture_loss_by_hand() -> None:
    truth = torch.zeros(2, 3, 4, 5)
    picture, weight = truth.clone(), torch.ones(2, 1, 4, 5)
    picture[1, 0, 1, 1], picture[1, 2, 1, 1] = 0.3, 0.4  # one pixel, 0.5 off
    rounding = 1 / 255
    one = (0.25 + rounding**2) ** 0.5 - rounding
    # the pixel itself, and its differences to two neighbours each way
    expected = one / 20 + 2 * one / 16 + 2 * one / 15
    assert_close(picture_loss(picture, truth, weight), torch.tensor([0.0, expected]))
    weight[1, 0, 1, 1] = 0  # the difference to the pixel on its right and below stays
    assert_close(picture_loss(picture, truth, weight)[1], torch.tensor(one / 16 + one / 15))


def test_a_blurred_edge_costs_more_than_a_sharp_one_beside_its_place() -> None:
    truth = torch.ones(1, 3, 8, 32)
    truth[..., 16:] = -1
    beside = truth.roll(1, -1)
    beside[..., 0] = 1
    kernel = torch.ones(1, 1, 1, 9) / 9
    blurred = torch.nn.functional.conv2d(
        torch.nn.functional.pad(truth[:, :1], (4, 4, 0, 0), mode="replicate"), kernel
    ).expand_as(truth)
    one = torch.ones(1, 1, 8, 32)
    assert float(picture_loss(beside, truth, one)) < float(picture_loss(blurred, truth, one))


def test_perceptual_loss_by_hand() -> None:
    truth = [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).repeat(2, 1, 2, 2)]
    picture, weight = [3 * truth[0]], torch.ones(2, 1, 2, 2)  # of another length: the same
    picture[0][1, :, 0, 0] = torch.tensor([0.0, 5.0])  # one place of four, a right angle off
    assert_close(perceptual_loss(picture, truth, [weight]), torch.tensor([0.0, 2 / 4]))
    assert_close(perceptual_loss(2 * picture, 2 * truth, [weight, 3 * weight])[1], torch.tensor(2.0))


def test_answer_loss_by_hand() -> None:
    """KL of two of three values, and of an attribute that both leave open."""
    truth = [torch.tensor([[50.0, 0.0, 0.0]] * 2), torch.zeros(2, 4)]
    answers = [torch.tensor([[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30]]).log(), torch.full((2, 4), 3.0)]
    assert_close(answer_loss(answers, truth), torch.tensor([math.log(2) / 2, 0.0]))


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("perceptual", "mini-appearance-evaluator"),
        ("details", "mini-attribute-evaluator"),
        ("answers", "mini-attribute-evaluator"),
    ],
)
def test_a_loss_on_features_needs_its_network_and_reaches_the_unet(
    tmp_path: Path, name: str, maker: str
) -> None:
    with pytest.raises(ValueError, match="decodes what rec predicts"):
        make_objective(weights=LossWeights(rec=0, draft=1, **{name: 1}))
    with pytest.raises(ValueError, match=maker):
        make_objective(weights=LossWeights(**{name: 1}))
    folder = str(save_loss_networks(tmp_path))
    weights = LossWeights(**{name: 2})
    objective = make_objective(weights=weights, picture_rows=2, loss_networks=folder)
    batch, draws = batch_of(objective), step_draws(0, 0, 4)
    out = objective(batch, draws)
    assert_close(out["loss"].detach(), out["rec"] + 2 * out[name])
    assert float(out[name]) > 0
    alone = make_objective()
    first, second = gradients(objective, out["loss"]), gradients(alone, alone(batch, draws)["loss"])
    assert any(not torch.allclose(first[one], second[one]) for one in second)
    assert not any(p.requires_grad for p in objective.perceivers.parameters())
