"""Training throughput: ours against the straightforward recipe, in one run, in turns.

`python train/bench.py` trains bolid-mini's adapter and UNet on avatars, batch 16, in three ways:

- recipe: the loop of IP-Adapter's tutorial. Every step loads its rows, encodes pictures and appearance
  maps (VAE), references (vision encoder) and prompts (text encoder), draws skeletons, goes forward and back
  through stock attention, and steps a plain AdamW.
- uncached: `train/run.py`'s loop on the same rows with `data.cache_features=false`, encoded a step ahead.
- cached: the same loop with latents, patches and appearance maps from the cache.

All three have the same networks, L_rec, autocast dtype, memory layout, augmentation and batches. Every round
times each of them in a new order, so that whatever else the machine does hits all alike; what is reported is
the median over rounds of samples/s and of the ratio within a round, with a bootstrap 95 % interval.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as train/run.py does

import numpy as np
import torch
from torch import Tensor

from bolid.training.avatar_rows import AvatarRows
from bolid.training.bases import FrozenBase, open_base
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.data import Rows, batch_indices
from bolid.training.draws import Draws, step_draws
from bolid.training.features import PICTURES, compute_features, condition_columns, raw_tensors
from bolid.training.feed import Feed
from bolid.training.loop import make_accelerator, train_steps
from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions
from bolid.training.person_rows import StepRows
from bolid.training.state import build_run


class Straight(DiffusionObjective):
    """The objective on raw rows: it computes their features, one appearance map each, in its forward pass."""

    def prepare(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        pictures = {name: batch[name].permute(0, 3, 1, 2).float() / 127.5 - 1 for name in PICTURES}
        strengths = torch.ones(len(draws.rows), 1, 4, device=draws.device)
        columns = condition_columns(batch | pictures, self.base, strengths, estimate=False)
        return super().forward(columns, draws)


def recipe(objective: Any, rows: AvatarRows, config: TrainConfig, accelerator: Any) -> Generator[None]:
    """The straightforward loop; one optimiser step at every `next`."""
    objective.to(device=accelerator.device, memory_format=torch.channels_last).train()
    objective.adapter.attach(objective.unet, matmul=False)  # stock attention
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    model, optimizer = accelerator.prepare(objective, optimizer)
    for step in range(config.max_train_steps):
        draws = step_draws(config.seed, step, config.train_batch_size, device=accelerator.device)
        order = batch_indices(step, draws.total, len(rows), config.seed)
        raw = raw_tensors(rows.read(order), objective.base)
        batch = {name: value.to(accelerator.device) for name, value in raw.items()}
        loss = model(batch, draws)["loss"]
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        yield


def ours(
    objective: Any, rows: Any, config: TrainConfig, accelerator: Any, waits: list[float]
) -> Generator[None]:
    """The loop of train/run.py: prefetching feed, clipping, fused AdamW, average. Adds its waits (s)."""
    objective.to(device=accelerator.device, memory_format=torch.channels_last).train()
    run = build_run(objective, config, accelerator)
    with Feed(rows, config, accelerator, 0, objective) as feed:
        for losses in train_steps(run, feed, config):
            losses["loss"].item()
            waits.append(feed.waited - sum(waits))
            yield


def measure(sides: dict[str, Generator[None]], rounds: int, steps: int) -> dict[str, np.ndarray]:
    """Seconds per step, passed and of CPU [rounds, 2], of each side; a warm-up step first, then rounds in
    changing order."""
    rng = np.random.default_rng(0)
    for side in sides.values():
        next(side)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name in rng.permutation(list(sides)):
            begun = np.array((time.perf_counter(), time.process_time()))
            for _ in range(steps):
                next(sides[name])
            spent = np.array((time.perf_counter(), time.process_time())) - begun
            times[name].append(tuple(spent / steps))
    return {name: np.array(values) for name, values in times.items()}


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Median and bootstrap 95 % interval of it."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975)).tolist()
    return float(np.median(values)), low, high


def report(times: dict[str, np.ndarray], batch: int, waits: dict[str, list[float]]) -> None:
    """A line a side: samples/s, ratio to the recipe, the same by CPU time (what other programs on the machine
    do not change), share of the step's time waiting for data."""
    for name, both in times.items():
        seconds, work = both[:, 0], interval(times["recipe"][:, 1] / both[:, 1])
        speed, ratio = interval(batch / seconds), interval(times["recipe"][:, 0] / seconds)
        line = f"{name:10} {speed[0]:7.2f} samples/s [{speed[1]:.2f}, {speed[2]:.2f}]"
        line += f"   {ratio[0]:5.2f} x recipe [{ratio[1]:.2f}, {ratio[2]:.2f}]"
        line += f"   by CPU time {work[0]:.2f} [{work[1]:.2f}, {work[2]:.2f}]"
        if name in waits:
            timed = waits[name][1:]  # the first step had nothing to prepare its batch behind
            share = sum(timed) / (seconds.sum() * len(timed) / len(seconds))
            line += f"   waiting for data {share:.2%}"
        print(line, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--components", default="models/bolid-mini", help="folder of the frozen networks")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="steps of each side in a round")
    parser.add_argument("--precision", default="auto", choices=("auto", "no", "bf16", "fp16"))
    parser.add_argument("--cache_dir", default="runs/cache", help="where rendered rows are kept")
    return parser.parse_args(arguments)


def objective_of(kind: Callable[..., Any], base: FrozenBase, components: str) -> Any:
    torch.manual_seed(0)
    return kind(DiffusionOptions(components=components), base)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if not (Path(options.components) / "vae").is_dir():
        print(f"train/bench.py: {options.components} holds no vae; see --components", file=sys.stderr)
        return 2
    config = TrainConfig(
        train_batch_size=options.batch,
        mixed_precision=options.precision,
        max_train_steps=options.rounds * options.steps + 1,
        ema_decay=0.998,
    )
    accelerator = make_accelerator(config)
    base = open_base(options.components).to(accelerator.device)
    rows = AvatarRows(DataConfig(cache_dir=options.cache_dir), "train", 4 * options.batch)
    in_step = StepRows(rows, base, "own", estimate=False)
    features = compute_features(rows.read(np.arange(len(rows))), base, 0, accelerator.device, estimate=False)
    waits: dict[str, list[float]] = {"uncached": [], "cached": []}
    makers = {"recipe": Straight, "uncached": DiffusionObjective, "cached": DiffusionObjective}
    made = {name: objective_of(kind, base, options.components) for name, kind in makers.items()}
    sides = {
        "recipe": recipe(made["recipe"], rows, config, accelerator),
        "uncached": ours(made["uncached"], in_step, config, accelerator, waits["uncached"]),
        "cached": ours(made["cached"], Rows(features), config, accelerator, waits["cached"]),
    }
    where = f"{accelerator.device}, {torch.get_num_threads()} threads"
    print(f"{options.batch} rows a step, mixed precision {accelerator.mixed_precision}, {where}", flush=True)
    report(measure(sides, options.rounds, options.steps), options.batch, waits)
    for side in sides.values():
        side.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
