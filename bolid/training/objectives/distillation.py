"""From a trained base with its adapter to a base of few steps: consistency distillation on latents.

The facts are those of Latent Consistency Models (Luo et al. 2023, arXiv 2310.04378): the student maps any
point of the teacher's guided trajectory to that trajectory's end, because a step of the teacher's solver must
not change what it says; the answer after the step comes from a slow average of the student. LCM's c_skip and
c_out are 0 and 1 to within 3e-5 from time step 20 on and exactly 1 and 0 at the end, so they are left out.

With several segments (as in multistep and phased consistency models) "the end" is that of the segment a point
lies in. As many segments as steps fit a deterministic sampler, whose every step is then one learned jump.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from bolid.lightning import Guidance, roll_out
from bolid.losses import snr_weight
from bolid.training.bases import FrozenBase, TextConditions
from bolid.training.draws import Draws
from bolid.training.objectives.conditions import Given, draw_conditions, on_device
from bolid.training.objectives.export import complete_pipeline
from bolid.training.objectives.latent import LatentObjective, LatentOptions, read_adapter, training_schedule
from bolid.training.objectives.lightning_losses import few_step_scheduler


@dataclass(frozen=True)
class FewStepOptions:
    """What the base is distilled to."""

    steps: int = 4  # of the pictures it will draw
    segments: int = (
        4  # of the schedule, each with its own end; 1 is LCM, `steps` fits a deterministic sampler
    )
    grid: int = 48  # solver steps of the teacher over the whole schedule, a multiple of segments
    guidance: float = 2.0  # the teacher's; folded in: pictures of the student need none
    average: float = 0.95  # decay of the slow average that answers for the student, a step
    huber: float = 0.001  # c of LCM's pseudo-Huber distance √(e² + c²) − c; 0: plain squares

    def __post_init__(self) -> None:
        if self.steps < 1 or self.segments < 1 or self.grid % self.segments:
            raise ValueError(
                f"lightning.steps={self.steps}, segments={self.segments}, grid={self.grid}: 1 or more each, "
                "and grid a multiple of segments."
            )


@dataclass(frozen=True)
class DistillationOptions(LatentOptions):
    """Options of the stage `distill`. `base` is the trained pipeline; `adapter` its own unless given."""

    lightning: FewStepOptions = field(default_factory=FewStepOptions)
    teacher_steps: int = 16  # of the teacher's pictures that held-out ones are compared with
    grid_guidance: float = 1.0  # the student's pictures need no guidance
    grid_steps: int = 4  # of the validation grid


@dataclass(frozen=True)
class Points:
    """Where on the schedule a row is: ᾱ [B, 1, 1, 1] and time steps [B] of a point, of the solver's next one
    and of its segment's end (ᾱ = 1 beyond the last time step: the clean latents).
    """

    now: Tensor
    next: Tensor
    end: Tensor
    step: Tensor
    next_step: Tensor
    last: Tensor  # bool [B]: the next point is the end


class DistillationObjective(LatentObjective):
    """The distance between what the student and its slow average say of two points of one trajectory.

    The adapter is frozen; the student starts as the base's UNet. The slow average lives in buffers, so that
    checkpoints hold it.

    Raises:
        ValueError: no base is given, or it holds no adapter.
    """

    def __init__(self, options: DistillationOptions, base: FrozenBase):
        if options.base is None:
            raise ValueError("objective.base is needed: the folder of a trained pipeline, with its adapter.")
        adapter = read_adapter(options.adapter or options.base, base.require("unet"))
        adapter.requires_grad_(False).attach(base.unet, matmul=not torch.cuda.is_available())
        student = copy.deepcopy(base.unet).requires_grad_(True).float()
        super().__init__(options, base, student, adapter, training_schedule(base))
        self.options = options
        self.models = {"unet": student, "adapter": adapter}
        self.average_step: Tensor
        self.register_buffer("average_step", torch.tensor(-1))
        for name, parameter in student.named_parameters():
            self.register_buffer(_buffer(name), parameter.detach().clone())

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """batch: the columns of bolid.training.features.compute_features → "loss", plain error of v."""
        self.move_average(draws.step)
        batch = self.features(batch, draws)
        latents = batch["latents"].float()
        given = draw_conditions(self.adapter, batch, self.options, draws, self.base.fold)
        text, conditions = self.encode(batch, given), self.adapter.conditions(given.inputs)
        points = self.points(1 + draws.integers("point", self.options.lightning.grid))
        noise = draws.normal("noise", *latents.shape[1:])
        sample = points.now.sqrt() * latents + (1 - points.now).sqrt() * noise
        with torch.no_grad():
            target = self.target(sample, points, given, text, conditions)
        clean = self.clean(self._call(self.unet, sample, points.step, text, conditions), sample, points.now)
        error = (clean - target) / (1 - points.now).sqrt()  # that of v, whatever the UNet predicts
        weight = snr_weight(points.now.flatten(), self.options.snr_gamma).view(-1, 1, 1, 1)
        distance = self.distance(error) * self.pixel_weight(batch) * weight
        figures = {"v_error": draws.mean(error.detach().square())}
        return {"loss": draws.mean(distance), **figures}

    def distance(self, error: Tensor) -> Tensor:
        """LCM's pseudo-Huber of each element, or its square."""
        c = self.options.lightning.huber
        return (error.square() + c**2).sqrt() - c if c else error.square()

    def points(self, index: Tensor) -> Points:
        """Of each row's place on the solver's grid, int64 [B] in 1 … grid (grid: the last time step)."""
        o, count = self.options.lightning, self.scheduler.config.num_train_timesteps
        end = (index - 1) // (o.grid // o.segments) * (o.grid // o.segments)

        def at(place: Tensor) -> tuple[Tensor, Tensor]:
            step = (place * count / o.grid).round().long() - 1  # as trailing spacing has them; −1: clean
            return step, torch.where(step < 0, 1.0, self.alphas(step.clamp_min(0))).view(-1, 1, 1, 1)

        (step, now), (next_step, following), (_, last) = at(index), at(index - 1), at(end)
        return Points(now, following, last, step, next_step.clamp_min(0), index - 1 == end)

    def target(
        self, sample: Tensor, points: Points, given: Given, text: TextConditions, conditions: Any
    ) -> Tensor:
        """The clean latents [B, C, h, w] that the student should see in `sample`: one guided step of the
        teacher, and from there the slow average to the segment's end.
        """
        prediction = self._guided(sample, points.step, given, text, conditions)
        moved = self.jump(self.clean(prediction, sample, points.now), sample, points.now, points.next)
        answer = self._call(self.averaged, moved, points.next_step, text, conditions)
        clean = self.clean(answer, moved, points.next)
        end = torch.where(
            points.last.view(-1, 1, 1, 1), moved, self.jump(clean, moved, points.next, points.end)
        )
        # the one x0 whose jump from the sample reaches that end
        ratio = ((1 - points.end) / (1 - points.now)).sqrt()
        return (end - ratio * sample) / (points.end.sqrt() - ratio * points.now.sqrt())

    def clean(self, prediction: Tensor, sample: Tensor, alphas: Tensor) -> Tensor:
        """x0 by a prediction of v or ε at ᾱ."""
        prediction = prediction.float()
        if self.prediction == "v_prediction":
            return alphas.sqrt() * sample - (1 - alphas).sqrt() * prediction
        return (sample - (1 - alphas).sqrt() * prediction) / alphas.sqrt()

    @staticmethod
    def jump(clean: Tensor, sample: Tensor, now: Tensor, to: Tensor) -> Tensor:
        """DDIM's step from ᾱ `now` to ᾱ `to` with this x0."""
        ratio = ((1 - to) / (1 - now).clamp_min(1e-12)).sqrt()
        return to.sqrt() * clean + ratio * (sample - now.sqrt() * clean)

    def _guided(
        self, sample: Tensor, steps: Tensor, given: Given, text: TextConditions, conditions: Any
    ) -> Tensor:
        """The teacher's prediction, away from the negative half by the guidance that is folded in."""
        teacher = self.base.unet
        prediction = self._call(teacher, sample, steps, text, conditions).float()
        scale = self.options.lightning.guidance
        if scale == 1:
            return prediction
        negative = self.adapter.conditions(given.inputs.negative())
        nothing = text.where(torch.ones_like(given.no_text), on_device(self.empty, sample.device))
        away = self._call(teacher, sample, steps, nothing, negative).float()
        return away + scale * (prediction - away)

    @staticmethod
    def _call(network: Any, sample: Tensor, steps: Tensor, text: TextConditions, conditions: Any) -> Tensor:
        return network(sample, steps, cross_attention_kwargs=conditions.kwargs(), **text.kwargs()).sample

    def averaged(self, *args: Any, **kwargs: Any) -> Any:
        """The student with the weights of its slow average."""
        names = [name for name, _ in self.unet.named_parameters()]
        weights = {name: self.get_buffer(_buffer(name)) for name in names}
        return functional_call(self.unet, weights, args, kwargs)

    @torch.no_grad()
    def move_average(self, step: int) -> None:
        """Let the slow average follow the student, once per optimiser step however often it is called."""
        if step <= int(self.average_step):
            return
        decay = 0.0 if int(self.average_step) < 0 else self.options.lightning.average
        for name, parameter in self.unet.named_parameters():
            self.get_buffer(_buffer(name)).lerp_(parameter.detach(), 1 - decay)
        self.average_step.fill_(step)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Mean square distance of few-step latents to the teacher's own of many steps, from the same noise:
        the student's, and, to compare with, the teacher's with as few steps.
        """
        batch = self.features(batch)
        o, noise = self.options, torch.randn_like(batch["latents"].float())
        given = self.whole(batch)
        text = self.encode(batch, given)
        empty = self.encode(batch, replace(given, no_text=~given.no_text))
        conditions = self.adapter.conditions(given.inputs)
        guidance = Guidance(
            o.lightning.guidance,
            empty.states,
            self.adapter.conditions(given.inputs.negative()),
            {"added_cond_kwargs": empty.added},
        )

        def sample(unet: Any, steps: int, guided: Guidance | None) -> Tensor:
            return roll_out(
                unet,
                few_step_scheduler(self.scheduler),
                noise,
                text.states,
                conditions,
                steps,
                guided,
                added_cond_kwargs=text.added,
            )

        many = sample(self.base.unet, o.teacher_steps, guidance)
        few = sample(self.base.unet, o.lightning.steps, guidance)
        student = sample(self.unet, o.lightning.steps, None)
        return {
            "distance": float((student - many).square().mean()),
            "distance_of_teacher": float((few - many).square().mean()),
        }

    def complete(self, folder: Path) -> None:
        """A pipeline whose defaults are the few steps and no guidance."""
        steps = self.options.lightning.steps
        defaults = {"default_steps": steps, "default_guidance_scale": 1.0}
        complete_pipeline(folder, self.base, few_step_scheduler(self.scheduler), defaults)


def _buffer(name: str) -> str:
    """Buffers' names allow no dots."""
    return "average__" + name.replace(".", "__")
