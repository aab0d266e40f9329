"""The critic of few-step pictures: who learns from what, on which rows, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_draft import ALL_GIVEN, batch_of, make_objective
from tiny_objective import gradients

from bolid.adapter import AdapterInputs
from bolid.losses import LossWeights
from bolid.training.draws import step_draws
from bolid.training.objectives.critic import Critic
from bolid.training.objectives.diffusion import DiffusionObjective
from bolid.training.objectives.few_step import FewStepOptions

LAST, FIRST = (FewStepOptions(share=1, steps=2, first_share=share) for share in (0.0, 1.0))


def judged(few_step: FewStepOptions = LAST, **weights: float) -> DiffusionObjective:
    return make_objective(weights=LossWeights(**weights), few_step=few_step, **ALL_GIVEN)


def critic_and_rows(count: int = 4) -> tuple[Critic, torch.Tensor, torch.Tensor, AdapterInputs]:
    """A critic, x0 that may learn, its truth, and the rows' conditions."""
    objective = judged(adversarial=1)
    batch = batch_of(objective, count)
    assert objective.critic is not None
    x0 = torch.zeros_like(batch["latents"].float()).requires_grad_()
    return objective.critic, x0, batch["latents"].float(), objective.inputs(batch)


def test_each_loss_teaches_its_own_side() -> None:
    critic, x0, truth, inputs = critic_and_rows()
    losses = critic.losses(x0, truth, inputs, torch.randn_like(truth))
    assert losses["critic"].shape == losses["adversarial"].shape == (4,)
    losses["adversarial"].sum().backward(retain_graph=True)
    assert x0.grad is not None
    assert x0.grad.flatten(1).any(1).all()
    assert not any(weight.grad is not None for weight in critic.parameters())
    x0.grad = None
    losses["critic"].sum().backward()
    assert x0.grad is None
    assert all(weight.grad is not None for weight in critic.parameters())


def test_it_learns_to_tell_and_what_it_says_leads_towards_the_truth() -> None:
    critic, x0, truth, inputs = critic_and_rows()
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
        critic.losses(x0, truth, inputs, noise)["critic"].sum().backward()
        optimizer.step()
    for verdict_true, verdict_own in zip(critic(truth, inputs), critic(x0, inputs), strict=True):
        assert (verdict_true.mean((1, 2, 3)) > verdict_own.mean((1, 2, 3))).all()
    critic.losses(x0, truth, inputs, noise)["adversarial"].sum().backward()
    assert x0.grad is not None
    assert float((-x0.grad * (truth - x0.detach())).sum()) > 0


def test_rows_that_are_not_at_the_last_step_count_nothing() -> None:
    weights: dict[str, Any] = {"rec": 1, "adversarial": 1}
    last = judged(LAST, **weights)
    first = judged(FIRST, **weights)
    told = last(batch_of(last), step_draws(0, 0, 4))
    assert min(float(told["critic"]), float(told["adversarial"])) > 0.1
    told = first(batch_of(first), step_draws(0, 0, 4))
    assert float(told["critic"]) == float(told["adversarial"]) == 0
    found = gradients(first, told["loss"])
    assert not any(value.any() for name, value in found.items() if name.startswith("critic."))


def test_it_is_not_exported_and_wants_few_step_rows() -> None:
    objective = judged(rec=1, adversarial=1)
    assert set(objective.models) == {"unet", "adapter"}
    with pytest.raises(ValueError, match=r"few_step\.share"):
        judged(FewStepOptions(), rec=1, adversarial=1)
