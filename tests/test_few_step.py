"""L_rec at the timesteps of few-step sampling: which rows, from what, and that it teaches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_objective import SMALL, awaken, gradients, make_base, make_rows

from bolid.training.draws import Draws
from bolid.training.objectives.diffusion import DiffusionObjective, posed
from bolid.training.objectives.few_step import (
    FewStepOptions,
    FewStepRows,
    few_step_rows,
    noised,
    x0_huber,
    x0_of,
)
from bolid.training.objectives.mini_unet import mini_scheduler


def draws(count: int, step: int = 0) -> Draws:
    return Draws(0, step, np.arange(count), count, torch.device("cpu"))


def make_objective(**few_step: Any) -> DiffusionObjective:
    torch.manual_seed(0)
    options = replace(SMALL, few_step=FewStepOptions(**few_step), text_drop=0.0, identity_drop=0.0)
    objective = DiffusionObjective(options, make_base())
    awaken(objective.adapter)
    return objective


def test_rows_take_the_samplers_steps_and_rows_without_a_pose_keep_theirs() -> None:
    steps, with_pose = torch.arange(400) % 1000, torch.arange(400) % 4 != 0
    options = FewStepOptions(share=0.8, steps=4, first_share=0.5, own_share=0.7)
    rows = few_step_rows(options, mini_scheduler(), steps, with_pose, draws(400))
    assert not rows.few[~with_pose].any()
    assert rows.few[with_pose].float().mean() == pytest.approx(0.8, abs=0.08)
    torch.testing.assert_close(rows.steps[~rows.few], steps[~rows.few])
    taken, counts = rows.steps[rows.few].unique(return_counts=True)
    assert taken.tolist() == [249, 499, 749, 999]
    assert counts[-1] / counts.sum() == pytest.approx(0.5, abs=0.1)
    later = rows.few & (rows.steps < 999)
    assert not rows.own[~later].any()  # pure noise holds no x0, and the others stand on the truth
    assert rows.own[later].float().mean() == pytest.approx(0.7, abs=0.12)


def test_own_rows_are_noised_from_the_models_x0_and_the_others_from_the_truth() -> None:
    torch.manual_seed(0)
    scheduler, truth, noise = mini_scheduler(), torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    guess = torch.randn(1, 4, 2, 2)
    own, steps = torch.tensor([False, True, False]), torch.tensor([249, 499, 999])
    few = torch.ones_like(own)
    rows = FewStepRows(few, steps, own, ~few)
    made = noised(scheduler, truth, noise, rows, lambda chosen: guess[chosen - 1])
    mixed = torch.stack([truth[0], guess[0], truth[2]])
    torch.testing.assert_close(made, scheduler.add_noise(mixed, noise, steps))
    torch.testing.assert_close(made[2], noise[2])  # zero terminal SNR


def test_x0_error_is_the_error_of_x0_whatever_the_step() -> None:
    torch.manual_seed(0)
    scheduler, truth, noise = mini_scheduler(), torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    steps = torch.tensor([249, 499, 999])
    noisy, alphas = scheduler.add_noise(truth, noise, steps), scheduler.alphas_cumprod[steps]
    velocity = scheduler.get_velocity(truth, noise, steps)
    one = torch.ones(3, 1, 1, 1)
    exact = x0_of(velocity, noisy, alphas, "v_prediction")
    torch.testing.assert_close(exact, truth)
    torch.testing.assert_close(x0_huber(exact, truth, one, 0.2), torch.zeros(3))
    # v off by d puts x0 off by √(1-ᾱ) d, which counts nearly linearly where it is large
    off = x0_huber(x0_of(velocity + 5.0, noisy, alphas, "v_prediction"), truth, one, 0.2)
    torch.testing.assert_close(off, 5 * (1 - alphas).sqrt() - 0.2, rtol=0.01, atol=0.0)


def test_x0_of_a_predicted_noise() -> None:
    torch.manual_seed(0)
    scheduler, truth, noise = mini_scheduler(), torch.randn(2, 4, 2, 2), torch.randn(2, 4, 2, 2)
    steps = torch.tensor([249, 499])
    noisy, alphas = scheduler.add_noise(truth, noise, steps), scheduler.alphas_cumprod[steps]
    torch.testing.assert_close(x0_of(noise, noisy, alphas, "epsilon"), truth)


def test_the_first_x0_is_what_one_step_of_sampling_gives() -> None:
    from bolid.lightning import roll_out
    from bolid.training.objectives.conditions import Given

    objective, base = make_objective(share=1.0), make_base()
    batch = make_rows(base).batch(np.arange(4))
    inputs = objective.inputs(batch)
    given = Given(inputs, batch["plain_ids"], torch.zeros(4, dtype=torch.bool))
    text, noise, rows = objective.encode(batch, given), torch.randn(4, *batch["latents"].shape[1:]), [1, 3]
    with torch.no_grad():
        found = objective.first_x0(noise, text, given, torch.tensor(rows))
        conditions = objective.adapter.conditions(inputs)
        one_step = roll_out(objective.unet, objective.scheduler, noise, text.states, conditions, steps=1)
    torch.testing.assert_close(found, one_step[rows], rtol=1e-4, atol=1e-4)


def test_it_reaches_base_and_adapter_and_share_0_is_the_plain_loss() -> None:
    batch = make_rows(make_base(), count=8).batch(np.arange(8))
    objective = make_objective(share=1.0, first_share=0.3, own_share=1.0)
    losses = objective(batch, draws(8))
    assert set(gradients(objective, losses["loss"])) >= {"unet.conv_in.weight", "unet.conv_out.weight"}
    plain, off = make_objective(), make_objective(share=0.0, own_share=0.3)
    assert float(plain(batch, draws(8))["loss"]) == float(off(batch, draws(8))["loss"])
    assert float(losses["loss"]) != float(plain(batch, draws(8))["loss"])


def test_rows_without_a_pose_are_told_by_their_inputs() -> None:
    objective = make_objective(share=1.0)
    batch = make_rows(make_base()).batch(np.arange(4))
    lost = torch.tensor([True, False, False, True])
    assert posed(objective.inputs(batch).without_pose(lost)).tolist() == [False, True, True, False]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        FewStepOptions(share=1.5)
    with pytest.raises(ValueError, match="at least 1 step"):
        FewStepOptions(steps=0)
    options = replace(SMALL, base="tiny", few_step=FewStepOptions(share=0.5))
    with pytest.raises(ValueError, match="stage=distill"):
        DiffusionObjective(options, make_base("sd15"))
