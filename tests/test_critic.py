"""The critic of few-step pictures: who learns from what, on which rows, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_draft import ALL_GIVEN, batch_of, make_objective
from tiny_objective import awaken, gradients, make_base
from tiny_pipelines import make_mini
from torch.testing import assert_close

from bolid.adapter import AdapterInputs
from bolid.losses import LossWeights
from bolid.training.draws import Draws, step_draws
from bolid.training.export import write_half
from bolid.training.objectives.critic import Critic
from bolid.training.objectives.critic_stage import CriticObjective, CriticOptions
from bolid.training.objectives.diffusion import DiffusionObjective
from bolid.training.objectives.few_step import FewStepOptions
from bolid.training.objectives.lightning_losses import few_step_scheduler

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


def stage(folder: Path, **changes: Any) -> CriticObjective:
    """The stage `critic` on a tiny pipeline that is saved in `folder`."""
    torch.manual_seed(0)
    make_mini().save_pretrained(folder)
    options = CriticOptions(base=str(folder), **({"steps": 3} | changes))
    objective = CriticObjective(options, make_base(source=str(folder)))
    awaken(objective.adapter)
    return objective


def test_alone_it_learns_on_every_row_and_nothing_else_does(tmp_path: Path) -> None:
    objective = stage(tmp_path)
    batch = batch_of(objective)
    out = objective(batch, step_draws(0, 0, 4))
    assert set(out) == {"loss", "adversarial"}
    out["loss"].backward()
    learning = {name for name, p in objective.named_parameters() if p.requires_grad}
    assert learning == {f"critic.{name}" for name, _ in objective.critic.named_parameters()}
    assert all(p.grad is not None and p.grad.any() for p in objective.critic.parameters())
    optimizer = torch.optim.Adam(objective.critic.parameters(), lr=2e-3)
    for step in range(30):
        optimizer.zero_grad()
        objective(batch, step_draws(0, step, 4))["loss"].backward()
        optimizer.step()
    assert objective.evaluate(batch) == {"told": 1.0}


def test_its_loss_is_the_same_however_the_batch_is_split(tmp_path: Path) -> None:
    objective = stage(tmp_path)
    batch = batch_of(objective)
    whole = objective(batch, step_draws(0, 0, 4))["loss"]
    halves = [
        objective(
            {k: v[rank::2] for k, v in batch.items()},
            Draws(0, 0, np.arange(rank, 4, 2), 4, batch["latents"].device),
        )["loss"]
        for rank in (0, 1)
    ]
    assert_close((halves[0] + halves[1]) / 2, whole)


def test_it_judges_what_the_pipeline_draws(tmp_path: Path) -> None:
    objective = stage(tmp_path, steps=2)
    batch = batch_of(objective)
    noise = torch.randn(batch["latents"].shape)
    given = objective.whole(batch)
    drawn = objective.drawn(batch, given, noise)
    scheduler = few_step_scheduler(objective.scheduler)
    scheduler.set_timesteps(2)
    x = noise
    with torch.no_grad():
        text = objective.encode(batch, given)
        for step in scheduler.timesteps:
            told = objective.call_unet(x, step.expand(4), text, given.inputs)
            x = scheduler.step(told, step, x).prev_sample
    assert_close(drawn, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"), [({"steps": 0}, "at least 1 step"), ({"pose_drop": 0.1}, "a pose in every row")]
)
def test_what_it_cannot_judge_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CriticOptions(**changes)


def test_it_needs_a_base() -> None:
    with pytest.raises(ValueError, match=r"objective\.base"):
        CriticObjective(CriticOptions(), make_base())


def test_a_trained_one_goes_on(tmp_path: Path) -> None:
    trained = stage(tmp_path / "pipeline").critic
    write_half(trained, tmp_path / "export" / "critic")
    weights = LossWeights(rec=1, adversarial=1)
    for folder in (tmp_path / "export", tmp_path / "export" / "critic"):
        taught = make_objective(weights=weights, few_step=LAST, critic=str(folder))
        assert taught.critic is not None
        for name, value in trained.named_parameters():
            assert_close(taught.critic.get_parameter(name), value, atol=1e-3, rtol=1e-3)
        assert all(p.requires_grad and p.dtype == torch.float32 for p in taught.critic.parameters())
    with pytest.raises(ValueError, match="holds no Critic"):
        make_objective(weights=weights, few_step=LAST, critic=str(tmp_path / "pipeline"))
    Critic(latent_channels=3, fold=8).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="give one that was trained on this base"):
        make_objective(weights=weights, few_step=LAST, critic=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"needs objective\.weights\.adversarial"):
        make_objective(few_step=LAST, critic=str(tmp_path / "export"))


def test_it_wants_few_step_rows() -> None:
    with pytest.raises(ValueError, match=r"few_step\.share"):
        judged(FewStepOptions(), rec=1, adversarial=1)
