"""One loop for every stage: an objective, rows, a config; resumable at any step."""

import copy
import json
import math
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from bolid.training.checkpoint import load_checkpoint, save_checkpoint
from bolid.training.config import TrainConfig, dump_config
from bolid.training.data import Rows, batch_indices


class Objective(Protocol):
    """What a stage trains: an nn.Module whose forward gives scalar losses, with "loss" the one that is
    minimised."""

    models: dict[str, Any]  # name -> module with save_pretrained; exported under that name

    def __call__(self, batch: dict[str, Tensor]) -> dict[str, Tensor]: ...

    def evaluate(self, batch: dict[str, Tensor]) -> dict[str, float]: ...


@dataclass
class Run:
    """Everything that changes while training; `state()` and `restore()` are its image on disk."""

    objective: Any
    optimizer: torch.optim.Optimizer
    schedule: Any
    ema: EMAModel | None
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Tensors and numbers only, so that it loads with weights_only=True."""
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
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises ValueError when the checkpoint is of another architecture."""
        parameters = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        saved = state["parameters"]
        wrong = [n for n in parameters.keys() ^ saved.keys()] + [
            n for n in parameters.keys() & saved.keys() if parameters[n].shape != saved[n].shape
        ]
        if wrong:
            raise ValueError(
                f"the checkpoint is of another architecture: {len(wrong)} weights differ, for example "
                f"{wrong[0]!r}. "
                "Resume with the config that made it (config.yaml beside it), or choose another --output_dir."
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])
            buffers = dict(self.objective.named_buffers())
            for name, value in state["buffers"].items():
                buffers[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        self.step = state["step"]


def _frozen(objective: nn.Module) -> set[str]:
    """Names of the children without a trainable weight: they come from elsewhere and are not saved."""
    return {
        n for n, child in objective.named_children() if not any(p.requires_grad for p in child.parameters())
    }


def build_run(objective: Any, config: TrainConfig) -> Run:
    """Optimiser, schedule and EMA around an objective's trainable parameters."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=config.adam_weight_decay,
        fused=True,
    )
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_train_steps,
    )
    ema = EMAModel(parameters, decay=config.ema_decay, foreach=True) if config.ema_decay else None
    return Run(objective, optimizer, schedule, ema)


@contextmanager
def averaged(run: Run) -> Iterator[None]:
    """Inside, the objective has its EMA weights."""
    parameters = [p for p in run.objective.parameters() if p.requires_grad]
    if run.ema is None:
        yield
        return
    run.ema.store(parameters)
    run.ema.copy_to(parameters)
    try:
        yield
    finally:
        run.ema.restore(parameters)


def train_steps(run: Run, rows: Rows, config: TrainConfig, accelerator: Any) -> Iterator[dict[str, float]]:
    """Yield the losses of one optimiser step after another, from `run.step` to `config.max_train_steps`.

    The random state is set from (seed, step) before every step, so any step can be repeated alone.

    Raises:
        ValueError: the loss is not finite (the last good checkpoint stays as it is).
    """
    model = accelerator.prepare_model(run.objective)
    optimizer = accelerator.prepare_optimizer(run.optimizer)
    parameters = [p for p in run.objective.parameters() if p.requires_grad]
    while run.step < config.max_train_steps:
        torch.manual_seed(_mix(config.seed, run.step))
        indices = batch_indices(run.step, config.train_batch_size, len(rows), config.seed)
        batch = rows.batch(indices, accelerator.device)
        losses = model(batch)
        if not bool(torch.isfinite(losses["loss"])):
            raise ValueError(
                f"the loss became {float(losses['loss'])} at step {run.step}; the last checkpoint is kept. "
                "Lower learning_rate or max_grad_norm and resume with --resume_from_checkpoint latest."
            )
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        run.schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if run.ema is not None:
            run.ema.step(parameters)
        run.step += 1
        yield {name: float(value.detach()) for name, value in losses.items()}


def _mix(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def evaluate(run: Run, rows: Rows, config: TrainConfig, device: torch.device) -> dict[str, float]:
    """Means of the objective's held-out figures with EMA weights, over all rows of `rows`."""
    run.objective.eval()
    sums: dict[str, float] = {}
    count = 0
    rng_state = torch.get_rng_state()
    with averaged(run):
        for start in range(0, len(rows), config.train_batch_size):
            indices = np.arange(start, min(start + config.train_batch_size, len(rows)))
            torch.manual_seed(_mix(config.seed + 1, start))
            for name, value in run.objective.evaluate(rows.batch(indices, device)).items():
                sums[name] = sums.get(name, 0.0) + value * len(indices)
            count += len(indices)
    torch.set_rng_state(rng_state)
    run.objective.train()
    return {name: value / count for name, value in sums.items()}


@torch.no_grad()
def save_picture(run: Run, rows: Rows, output: Path, device: torch.device, count: int = 12) -> None:
    """The objective's picture of the first held-out rows, with EMA weights: `output/grid-{step}.png`."""
    if not hasattr(run.objective, "picture"):
        return
    from PIL import Image

    rng_state = torch.get_rng_state()
    torch.manual_seed(0)
    run.objective.eval()
    with averaged(run):
        grid = run.objective.picture(rows.batch(np.arange(min(count, len(rows))), device))
    run.objective.train()
    torch.set_rng_state(rng_state)
    Image.fromarray(grid).save(output / f"grid-{run.step}.png")


def train(config: TrainConfig, objective: Any, rows: Rows, held_out: Rows) -> Path:
    """Train, checkpoint, resume, export; returns the folder of the exported models.

    SIGTERM (a pre-emption) saves a checkpoint and ends the run; it goes on with `--resume_from_checkpoint
    latest`.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(dump_config(config))
    torch.manual_seed(config.seed)
    objective.to(device=accelerator.device, memory_format=torch.channels_last).train()
    run = build_run(objective, config)
    if config.resume_from_checkpoint:
        state = load_checkpoint(output, config.resume_from_checkpoint)
        if state is not None:
            run.restore(state)
    if run.ema is not None:
        run.ema.to(accelerator.device)

    def save() -> None:
        save_checkpoint(
            output,
            run.step,
            run.state(),
            {"config.yaml": dump_config(config)},
            config.checkpoints_total_limit,
        )

    stopped = _stop_on_sigterm()
    started, first_step, saved_step = time.monotonic(), run.step, run.step
    bar = tqdm(
        total=config.max_train_steps, initial=run.step, disable=not accelerator.is_main_process, unit="step"
    )
    for losses in train_steps(run, rows, config, accelerator):
        speed = (run.step - first_step) * config.train_batch_size / (time.monotonic() - started)
        bar.update()
        if run.step % 20 == 0 or run.step == config.max_train_steps:
            bar.set_postfix(loss=f"{losses['loss']:.4f}", samples_per_s=f"{speed:.1f}")
            _log(output, {"step": run.step, "samples_per_s": round(speed, 2), **losses})
        out_of_time = config.max_train_minutes and time.monotonic() - started > 60 * config.max_train_minutes
        if run.step % config.checkpointing_steps == 0 or stopped() or out_of_time:
            save()
            saved_step = run.step
        if config.validation_steps and run.step % config.validation_steps == 0:
            _log(output, {"step": run.step, "held_out": evaluate(run, held_out, config, accelerator.device)})
            save_picture(run, held_out, output, accelerator.device)
        if stopped() or out_of_time:
            break
    bar.close()
    if saved_step != run.step:
        save()
    _log(output, {"step": run.step, "held_out": evaluate(run, held_out, config, accelerator.device)})
    save_picture(run, held_out, output, accelerator.device)
    return export(run, rows, output)


def _stop_on_sigterm() -> Any:
    """A function that tells whether SIGTERM has come since."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    return lambda: bool(received)


def _log(output: Path, record: dict[str, Any]) -> None:
    with open(output / "log.jsonl", "a") as file:
        file.write(json.dumps(_rounded(record)) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) and math.isfinite(value) else value


def export(run: Run, rows: Rows, output: Path) -> Path:
    """Write the EMA weights of the objective's models, fp16 safetensors, into `output/export/<name>`."""
    partial, final = output / ".export", output / "export"
    shutil.rmtree(partial, ignore_errors=True)
    with averaged(run), torch.no_grad():
        if hasattr(run.objective, "finish"):
            run.objective.finish(rows)
        for name, model in run.objective.models.items():
            halved = copy.deepcopy(model)
            for tensor in (*halved.parameters(), *halved.buffers()):
                tensor.data = tensor.data.half() if tensor.is_floating_point() else tensor.data
            halved.save_pretrained(partial / name)
        if hasattr(run.objective, "complete"):
            run.objective.complete(partial)
    for file in partial.rglob("*.json"):
        _forget_path(file)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    return final


def _forget_path(file: Path) -> None:
    """Drop the folder that a model was read from, which diffusers keeps in its config."""
    config = json.loads(file.read_text())
    if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
