"""Consistency distillation: the teacher is its own fixed point, the average follows, few steps come out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_objective import make_base, make_rows
from tiny_pipelines import make_mini
from torch.testing import assert_close

from bolid.pipeline import BoLIDPipeline
from bolid.training.bases import FrozenBase
from bolid.training.data import Rows
from bolid.training.draws import step_draws
from bolid.training.objectives.conditions import draw_conditions
from bolid.training.objectives.distillation import (
    DistillationObjective,
    DistillationOptions,
    FewStepOptions,
)
from bolid.training.objectives.lightning_losses import few_step_scheduler


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("pipeline")
    make_mini().save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def base() -> FrozenBase:
    return make_base()


@pytest.fixture(scope="module")
def rows(base: FrozenBase) -> Rows:
    return make_rows(base)


def make_objective(folder: str, **few: Any) -> DistillationObjective:
    options = DistillationOptions(
        base=folder, lightning=FewStepOptions(**({"grid": 8} | few)), teacher_steps=4
    )
    return DistillationObjective(options, make_base(source=folder))


def test_points_are_those_that_few_step_sampling_meets(folder: str) -> None:
    objective = make_objective(folder, grid=48, segments=4)
    points = objective.points(torch.arange(1, 49))
    schedule: Any = few_step_scheduler(objective.scheduler)
    schedule.set_timesteps(4)
    assert points.step[[47, 35, 23, 11]].tolist() == schedule.timesteps.tolist()
    assert points.last.nonzero().flatten().tolist() == [0, 12, 24, 36]
    assert points.end.flatten()[:12].tolist() == [1] * 12
    assert (points.next > points.now).all()
    whole = make_objective(folder, grid=8, segments=1).points(torch.arange(1, 9))
    assert whole.end.flatten().tolist() == [1] * 8


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_last_point_of_a_segment_learns_the_teachers_own_step(folder: str, rows: Rows, kind: str) -> None:
    """There the target is the teacher's x0 itself, and a student equal to the teacher has no error."""
    base = make_base(source=folder)
    base.scheduler.register_to_config(prediction_type=kind, rescale_betas_zero_snr=kind == "v_prediction")
    few = FewStepOptions(steps=4, segments=4, grid=4, guidance=1.0)  # every point is the last of its segment
    objective = DistillationObjective(DistillationOptions(base=folder, lightning=few), base)
    out = objective(rows.batch(np.arange(4)), step_draws(0, 0, 4))
    assert float(out["v_error"]) < 1e-5
    stronger = dataclasses.replace(objective.options, lightning=dataclasses.replace(few, guidance=3.0))
    guided = DistillationObjective(stronger, base)
    assert float(guided(rows.batch(np.arange(4)), step_draws(0, 0, 4))["v_error"]) > 1e-5


def test_a_perfect_target_is_reached_from_any_point(folder: str, rows: Rows) -> None:
    """If teacher and average knew x0, the target would be x0 from anywhere, with any number of segments."""
    batch = rows.batch(np.arange(4))
    for segments in (1, 2, 4):
        objective = make_objective(folder, segments=segments, guidance=1.0)
        objective.clean = lambda prediction, sample, alphas: batch["latents"]  # noqa: ARG005 # pyright: ignore
        given = draw_conditions(objective.adapter, batch, objective.options, step_draws(0, 0, 4), 8)
        points = objective.points(torch.tensor([1, 4, 6, 8]))
        noise = torch.randn_like(batch["latents"])
        sample = points.now.sqrt() * batch["latents"] + (1 - points.now).sqrt() * noise
        with torch.no_grad():
            text, conditions = objective.encode(batch, given), objective.adapter.conditions(given.inputs)
            target = objective.target(sample, points, given, text, conditions)
        assert_close(target, batch["latents"], rtol=1e-3, atol=1e-3)


def test_only_the_student_learns_and_the_average_follows_once_a_step(folder: str, rows: Rows) -> None:
    objective = make_objective(folder, average=0.5)
    teacher = {n: p.clone() for n, p in objective.base.unet.named_parameters()}
    batch = rows.batch(np.arange(4))
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in objective.unet.parameters()}
    objective(batch, step_draws(0, 0, 4))["loss"].backward()
    name, weight = next(iter(objective.unet.named_parameters()))
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1.0
        for _ in range(2):  # two micro-batches of one step
            objective(batch, step_draws(0, 1, 4))
    average = objective.get_buffer("average__" + name.replace(".", "__"))
    assert_close(average, before + 0.5)
    assert all(torch.equal(p, teacher[n]) for n, p in objective.base.unet.named_parameters())


def test_training_brings_few_steps_nearer_to_many(folder: str, rows: Rows) -> None:
    objective = make_objective(folder)
    batch = rows.batch(np.arange(4))

    def distance() -> float:
        torch.manual_seed(0)
        return objective.evaluate(batch)["distance"]

    before = distance()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 1e-3)
    for step in range(20):
        objective(batch, step_draws(0, step, 4))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert distance() < 0.9 * before


def test_the_export_draws_in_few_steps_without_guidance(folder: str, rows: Rows, tmp_path: Path) -> None:
    objective = make_objective(folder)
    figures = objective.evaluate(rows.batch(np.arange(2)))
    assert set(figures) == {"distance", "distance_of_teacher"}
    for name, model in objective.models.items():
        model.save_pretrained(tmp_path / name)
    objective.complete(tmp_path)
    pipe = BoLIDPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.config.default_steps, pipe.config.default_guidance_scale) == (4, 1.0)
    drawn = pipe("on the beach", pose="sitting", generator=0, output_type="np").images
    assert np.isfinite(drawn).all()


def test_what_cannot_be_is_refused(folder: str, base: FrozenBase, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of segments"):
        FewStepOptions(segments=5, grid=48)
    with pytest.raises(ValueError, match=r"objective.base is needed"):
        DistillationObjective(DistillationOptions(), base)
    with pytest.raises(ValueError, match="holds no adapter"):
        DistillationObjective(DistillationOptions(base=folder, adapter=str(tmp_path)), base)
