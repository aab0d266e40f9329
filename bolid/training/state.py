"""What changes while training: weights, optimiser, schedule, average; its image on disk and back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from bolid.training.config import TrainConfig
from bolid.training.draws import Draws
from bolid.training.muon import Muon
from bolid.training.sharding import split_frozen_unet


class Objective(Protocol):
    """What a stage trains: an nn.Module whose forward gives scalar losses, with "loss" the one that is
    minimised. Losses beside "loss" are figures to log: only what goes into "loss" may keep a graph of weights
    that "loss" does not reach (DDP waits for the gradient of every weight it can see from the result).

    An objective may also have `companions` (like `models`, left beside the export for later runs, no part of
    it), `prepare(batch) -> batch` (work on the CPU that needs no weights and no random
    numbers, done a step ahead in the background), `picture(batch)`, `finish(rows)` and `complete(folder)`.
    """

    models: dict[str, Any]  # name -> module with save_pretrained; exported under that name

    def __call__(self, batch: dict[str, Tensor], draws: Draws, /) -> dict[str, Tensor]: ...

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]: ...


@dataclass
class Run:
    """Everything that changes while training; `state()` and `restore()` are its image on disk."""

    objective: Any  # the bare module
    model: Any  # the same, as accelerate prepared it: what a training step calls
    optimizer: Any
    schedule: Any
    ema: EMAModel | None
    accelerator: Any
    step: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable ones."""
        return [p for p in self.objective.parameters() if p.requires_grad]

    def state(self) -> dict[str, Any]:
        """Tensors and numbers only, so that it loads with weights_only=True. The same for any number of
        processes."""
        trainable = {n: p.detach() for n, p in self.objective.named_parameters() if p.requires_grad}
        buffers = {
            n: b for n, b in self.objective.named_buffers() if n.split(".")[0] not in _frozen(self.objective)
        }
        return {
            "step": self.step,
            "parameters": trainable,
            "buffers": buffers,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {
                k: v for k, v in self.schedule.state_dict().items() if isinstance(v, (int, float, list))
            },
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a saved state; learning rate, decays and the like are those of the config of now.

        Raises ValueError when the checkpoint is of another architecture; nothing has changed then.
        """
        parameters = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        buffers = dict(self.objective.named_buffers())
        _check_names(parameters, state["parameters"])
        _check_names({n: buffers[n] for n in buffers.keys() & state["buffers"].keys()}, state["buffers"])
        with torch.no_grad():
            for name, value in state["parameters"].items():
                parameters[name].copy_(value)
            for name, value in state["buffers"].items():
                buffers[name].copy_(value)
        self._restore_optimizer(state)
        if self.ema is not None:
            self._restore_average(state["ema"])
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def _restore_optimizer(self, state: Mapping[str, Any]) -> None:
        """Moments and the place in the schedule. A group's settings stay: `learning_rate` lowered after a NaN
        must count."""
        settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        peaks, place = self.schedule.base_lrs, state["schedule"]["last_epoch"]
        # every name of get_scheduler makes a LambdaLR
        lrs = [peak * share(place) for peak, share in zip(peaks, self.schedule.lr_lambdas, strict=True)]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"] | {"base_lrs": peaks, "_last_lr": lrs})
        for group, own, lr in zip(self.optimizer.param_groups, settings, lrs, strict=True):
            group.update(own | {"lr": lr})

    def _restore_average(self, saved: Mapping[str, Any] | None) -> None:
        """A run without an average that gets one when it is resumed starts it from the weights."""
        assert self.ema is not None
        if saved is None:
            self.ema = EMAModel(self.parameters, decay=self.ema.decay, foreach=True)
        else:
            decay = self.ema.decay
            self.ema.load_state_dict(dict(saved))
            self.ema.decay = decay  # the config of now decides
        self.ema.to(self.accelerator.device)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that only one of two networks has, or that have another shape in the other."""
    both = one.keys() & other.keys()
    return sorted((one.keys() ^ other.keys()) | {n for n in both if one[n].shape != other[n].shape})


def _check_names(there: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    if wrong := differing(there, saved):
        raise ValueError(
            f"the checkpoint is of another architecture: {len(wrong)} weights differ, for example "
            f"{wrong[0]!r}. "
            "Resume with the config that made it (config.yaml beside it), or choose another --output_dir."
        )


def _frozen(objective: nn.Module) -> set[str]:
    """Names of the children without a trainable weight: they come from elsewhere and are not saved."""
    return {
        n for n, child in objective.named_children() if not any(p.requires_grad for p in child.parameters())
    }


def build_run(objective: Any, config: TrainConfig, accelerator: Any) -> Run:
    """Optimiser, schedule and EMA around an objective's trainable parameters, prepared by accelerate."""
    if config.gradient_checkpointing:
        enable_gradient_checkpointing(objective)
    if config.shard_base:
        split_frozen_unet(objective)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, config)
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    model, prepared = accelerator.prepare(objective, optimizer)
    ema = EMAModel(parameters, decay=config.ema_decay, foreach=True) if config.ema_decay else None
    return Run(objective, model, prepared, schedule, ema, accelerator)


def make_optimizer(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of the config; the learning rate means the same to both."""
    common: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.adam_weight_decay,
    }
    if config.optimizer == "muon":
        return Muon(parameters, **common)
    return torch.optim.AdamW(parameters, **common, fused=True)


def enable_gradient_checkpointing(objective: nn.Module) -> None:
    """Activations of every diffusers model inside are recomputed in the backward pass.

    Raises:
        ValueError: no model of this stage can.
    """
    able = [
        module
        for module in objective.modules()
        if isinstance(module, ModelMixin) and module._supports_gradient_checkpointing
    ]
    if not able:
        raise ValueError(
            "gradient_checkpointing: no model of this stage can recompute its activations; leave it out and "
            "lower train_batch_size (with gradient_accumulation_steps) if memory is short."
        )
    for module in able:
        module.enable_gradient_checkpointing()


@contextmanager
def averaged(run: Run) -> Iterator[None]:
    """Inside, the objective has its EMA weights."""
    if run.ema is None:
        yield
        return
    parameters = run.parameters
    run.ema.store(parameters)
    run.ema.copy_to(parameters)
    try:
        yield
    finally:
        run.ema.restore(parameters)
