"""One loop for every stage: an objective, rows, a config; on one process or many; resumable at any step."""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from bolid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from bolid.training.config import TrainConfig, dump_config
from bolid.training.export import EXPORT, export
from bolid.training.feed import Feed
from bolid.training.precision import resolved
from bolid.training.sharding import is_split
from bolid.training.state import Run, averaged, build_run
from bolid.training.tracking import Journal, require_tracker, run_facts

_log = logging.getLogger(__name__)


def make_accelerator(config: TrainConfig) -> Any:
    """accelerate's `Accelerator`: one process, or those that torchrun or `accelerate launch` started.

    Raises:
        ValueError: fp16 without a GPU, a tracker whose package is missing, or weights split over processes.
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

    require_tracker(config)
    on_gpu = torch.cuda.is_available()
    accelerator = Accelerator(
        mixed_precision=resolved(config.mixed_precision, "cuda" if on_gpu else "cpu"),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=config.output_dir,
        cpu=not on_gpu,
        kwargs_handlers=[
            # a step in which every row of a process has lost a condition leaves weights without a gradient
            DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True),
            # the others wait while the main process computes features or figures
            InitProcessGroupKwargs(timeout=timedelta(hours=12)),
        ],
    )
    require_whole_weights(str(accelerator.distributed_type.value))
    return accelerator


def require_whole_weights(kind: str) -> None:
    """Raises ValueError for accelerate's distributed types that give a process but a part of the weights."""
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"):
        raise ValueError(
            f"accelerate is configured for {kind}, which splits the weights that learn; checkpoints and "
            "averages here are of whole weights. Choose multi-GPU (DDP) in `accelerate config`; "
            "shard_base=true then splits the frozen base over the GPUs. If memory is still short, use "
            "--gradient_checkpointing, a smaller --train_batch_size and more --gradient_accumulation_steps."
        )


class Health:
    """Notices the first step whose loss or gradient is not finite, without waiting for the device."""

    def __init__(self, run: Run, output_dir: str):
        self._run, self._output_dir = run, output_dir
        self._bad = torch.full((), -1, dtype=torch.int64, device=run.accelerator.device)

    def note(self, loss: Tensor, norm: Tensor) -> None:
        """An infinite gradient norm is part of fp16's search for a scale: only the loss counts then."""
        finite = torch.isfinite(loss.detach())
        if self._run.accelerator.scaler is None:
            finite = finite & torch.isfinite(norm)
        self._bad = torch.where((self._bad < 0) & ~finite, self._run.step, self._bad)

    def check(self) -> None:
        """Raises ValueError, in every process at once, when a step was not healthy. Call before saving."""
        worst = int(self._run.accelerator.gather(self._bad.reshape(1)).max())
        if worst >= 0:
            kept = [str(folder) for folder in list_checkpoints(self._output_dir)]
            cure = "Lower learning_rate or max_grad_norm and "
            if kept:
                cure += "resume with --resume_from_checkpoint latest"
                cure += f"; if it comes back at once, from {kept[-2]}." if kept[1:] else "."
            else:
                cure += "start again; there was no checkpoint yet."
            raise ValueError(f"the loss or its gradient was not finite at step {worst}. {cure}")


def train_steps(run: Run, feed: Feed, config: TrainConfig) -> Iterator[dict[str, Tensor]]:
    """Yield the losses (on the device, of this process's rows) of one optimiser step after another, from
    `run.step` to `config.max_train_steps`.

    Every number drawn is keyed by (seed, step), so any step can be repeated alone.

    Raises:
        ValueError: a loss is not finite; noticed at the next record or checkpoint, before that is written.
    """
    while run.step < config.max_train_steps:
        losses = _optimiser_step(run, feed, config)
        skipped = run.optimizer.step_was_skipped  # fp16: the loss scale was too high
        if not skipped:
            run.schedule.step()
            if run.ema is not None:
                run.ema.step(run.parameters)
        yield losses


def _optimiser_step(run: Run, feed: Feed, config: TrainConfig) -> dict[str, Tensor]:
    """All micro-batches of a step and the update; returns the means of their losses and the gradient norm."""
    accelerator, parameters = run.accelerator, run.parameters
    sums: dict[str, Tensor] = {}
    norm = torch.zeros(())
    for micro_batch in range(config.gradient_accumulation_steps):
        batch, draws = feed.next()
        torch.manual_seed(_mix(config.seed, draws.step, draws.rank, micro_batch))
        with accelerator.accumulate(run.model):
            losses = run.model(batch, draws)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(parameters, config.max_grad_norm or float("inf"))
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in losses.items():
            share = value.detach() / config.gradient_accumulation_steps
            sums[name] = sums[name] + share if name in sums else share
    run.step += 1
    return sums | {"grad_norm": norm}


def _mix(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def evaluate(run: Run, rows: Any, config: TrainConfig) -> dict[str, float]:
    """Means of the objective's held-out figures with EMA weights, over all rows of `rows`."""
    device = run.accelerator.device
    run.objective.eval()
    sums: dict[str, float] = {}
    count = 0
    with averaged(run):
        for start in range(0, len(rows), config.train_batch_size):
            indices = np.arange(start, min(start + config.train_batch_size, len(rows)))
            torch.manual_seed(_mix(config.seed + 1, start))
            for name, value in run.objective.evaluate(rows.batch(indices, device)).items():
                sums[name] = sums.get(name, 0.0) + value * len(indices)
            count += len(indices)
    run.objective.train()
    return {name: value / count for name, value in sums.items()}


@torch.no_grad()
def draw_grid(run: Run, rows: Any, count: int = 12) -> np.ndarray | None:
    """The objective's picture of the first held-out rows, with EMA weights: uint8 [H, W, 3], or None."""
    if not hasattr(run.objective, "picture"):
        return None
    torch.manual_seed(0)
    run.objective.eval()
    with averaged(run):
        grid = run.objective.picture(rows.batch(np.arange(min(count, len(rows))), run.accelerator.device))
    run.objective.train()
    return grid


class Stop:
    """Whether to stop, agreed by all processes: SIGTERM came (to any of them), or the time is over."""

    def __init__(self, config: TrainConfig, accelerator: Any):
        self.terminated = False
        self._received = False
        self._limit_s = 60 * config.max_train_minutes or float("inf")
        self._begun = time.monotonic()
        # flags travel over the CPU, so that asking does not wait for the device
        many = accelerator.num_processes > 1
        self._group: Any = torch.distributed.new_group(backend="gloo") if many else None
        self._previous: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, _number: int, _frame: Any) -> None:
        self._received = True

    def now(self) -> bool:
        """True when the run must end after this step. Every process must call it after every step."""
        flags = torch.tensor(
            [self._received, time.monotonic() - self._begun > self._limit_s], dtype=torch.int32
        )
        if self._group is not None:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX, group=self._group)
        self.terminated = bool(flags[0])
        return bool(flags.any())


def _save(run: Run, config: TrainConfig, facts: dict[str, Any], last: bool) -> None:
    """A checkpoint. A full disk ends the run only when this was the last chance."""
    if not run.accelerator.is_main_process:
        return
    texts = {
        "config.yaml": dump_config(config),
        "run.json": json.dumps({"step": run.step, **facts}, indent=2) + "\n",
    }
    state = {**run.state(), "facts": facts}
    try:
        save_checkpoint(config.output_dir, run.step, state, texts, config.checkpoints_total_limit)
    except OSError as error:
        if last:
            raise
        _log.warning("%s Training goes on; the next try is in %d steps.", error, config.checkpointing_steps)


def _resume(run: Run, config: TrainConfig, facts: dict[str, Any]) -> None:
    """Go on from the checkpoint that the config names; says what is not as it was when that was made."""
    if not config.resume_from_checkpoint:
        return
    state = load_checkpoint(config.output_dir, config.resume_from_checkpoint)
    if state is None:
        _log.warning("no checkpoint in %s yet: training starts at step 0.", config.output_dir)
        return
    run.restore(state)
    then = state.get("facts", {})
    for name in ("global_batch", "dataset_fingerprint", "rows"):
        if name in then and then[name] != facts[name]:
            _log.warning(
                "%s is %s, it was %s up to step %d: rows repeat or are left out, unlike in a straight run.",
                name,
                facts[name],
                then[name],
                run.step,
            )


def train(
    config: TrainConfig, objective: Any, rows: Any, held_out: Any, accelerator: Any = None
) -> Path | None:
    """Train, checkpoint, resume, export; returns the folder of the exported models.

    After SIGTERM (a pre-emption) the state is saved first and nothing else is done: returns None.
    `--resume_from_checkpoint latest` goes on from there.

    Raises:
        ValueError: a loss is not finite, or the checkpoint to resume from does not fit.
        OSError: the last state could not be written.
    """
    accelerator = accelerator or make_accelerator(config)
    if accelerator.is_main_process:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(config.output_dir) / "config.yaml").write_text(dump_config(config))
    torch.manual_seed(config.seed)
    objective.to(device=accelerator.device, memory_format=torch.channels_last).train()
    run = build_run(objective, config, accelerator)
    facts = run_facts(config, rows, accelerator)
    _resume(run, config, facts)
    with Journal(config, accelerator, run.step) as journal:
        with Stop(config, accelerator) as stop, Feed(rows, config, accelerator, run.step, objective) as feed:
            _train(run, feed, held_out, config, facts, journal, stop)
        if stop.terminated:
            return None
        _show(run, held_out, config, journal)
        if accelerator.is_main_process:
            export(run, rows, Path(config.output_dir))
    accelerator.wait_for_everyone()
    return Path(config.output_dir) / EXPORT


def _train(
    run: Run,
    feed: Feed,
    held_out: Any,
    config: TrainConfig,
    facts: dict[str, Any],
    journal: Journal,
    stop: Stop,
) -> None:
    """All steps, with records, checkpoints and figures when they are due; ends with a checkpoint."""
    health = Health(run, config.output_dir)
    for losses in train_steps(run, feed, config):
        health.note(losses["loss"], losses["grad_norm"])
        journal.add(losses)
        stopping = stop.now()
        last = stopping or run.step == config.max_train_steps
        if last or run.step % config.logging_steps == 0:
            health.check()
            journal.record(run.step, feed.waited, run.schedule.get_last_lr()[0])
        if last or run.step % config.checkpointing_steps == 0:
            health.check()
            with journal.paused():
                _save(run, config, facts, last)
        if config.validation_steps and run.step % config.validation_steps == 0 and not last:
            with journal.paused():
                _show(run, held_out, config, journal)
        if stopping:
            break


def _show(run: Run, held_out: Any, config: TrainConfig, journal: Journal) -> None:
    """Held-out figures and a grid of pictures into the journal, by the main process; by all together where
    the base is split."""
    if not run.accelerator.is_main_process and not is_split(run.objective):
        return
    journal.write(run.step, evaluate(run, held_out, config), "held_out")
    grid = draw_grid(run, held_out)
    if grid is not None:
        journal.picture(run.step, grid)
