"""What a run says while it trains: progress bar, log.jsonl, tracker; and the facts beside a checkpoint."""

import importlib.util
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bolid.training.config import TrainConfig


def require_tracker(config: TrainConfig) -> None:
    """Raises ValueError when the package that `report_to` needs is not installed."""
    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise ValueError(
            f"report_to={config.report_to!r} needs a package that is not installed: pip install "
            f"{config.report_to}. Without it, --report_to none writes the same figures to log.jsonl."
        )


def run_facts(config: TrainConfig, rows: Any, accelerator: Any) -> dict[str, Any]:
    """What a result can be traced back to: code, data, versions, batch. Saved as `run.json`."""
    import accelerate
    import diffusers
    import transformers

    return {
        "stage": config.stage,
        "git_revision": git_revision(),
        "dataset_fingerprint": getattr(rows, "fingerprint", None),
        "rows": len(rows),
        "global_batch": config.global_batch(accelerator.num_processes),
        "processes": accelerator.num_processes,
        "device": str(accelerator.device),
        "mixed_precision": accelerator.mixed_precision,
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
    }


def git_revision() -> str | None:
    """The commit of this code, with "+changes" where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Means:
    """Running means of named scalars, kept on the device: reading them is what waits for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, accelerator: Any) -> dict[str, float]:
        """The means over steps and processes since the last call; every process must call it."""
        if not self._sums:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in self._sums])
        figures = dict(zip(self._sums, accelerator.reduce(means, "mean").tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return figures


class Journal:
    """Progress bar, `log.jsonl` and tracker of a run; only the main process writes. A context manager.

    `data_wait` is the share of the time that steps waited for data; `samples_per_s` counts all processes.
    Both are of the steps since the last record, without what ran inside `paused()`.
    """

    def __init__(self, config: TrainConfig, accelerator: Any, first_step: int):
        self._config, self._accelerator = config, accelerator
        self._file = Path(config.output_dir) / "log.jsonl"
        self._means = Means()
        self._bar = tqdm(
            total=config.max_train_steps,
            initial=first_step,
            disable=not accelerator.is_main_process,
            unit="step",
        )
        self._since, self._waited = first_step, 0.0  # step and waiting at the last record
        self._begun, self._paused = time.perf_counter(), 0.0

    def __enter__(self) -> Self:
        if self._config.report_to != "none":
            plain = {
                k: v if isinstance(v, (int, float, str)) else str(v) for k, v in asdict(self._config).items()
            }
            self._accelerator.init_trackers("bolid", plain)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for tracker in self._accelerator.trackers:
            tracker.finish()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is no training: validation, a checkpoint."""
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def add(self, losses: dict[str, Tensor]) -> None:
        """One step is done."""
        self._means.add(losses)
        self._bar.update()

    def record(self, step: int, waited: float, lr: float) -> None:
        """Means since the last record go to bar, file and tracker. Every process must call it.

        `waited` are the seconds that steps have waited for data since the start.
        """
        losses = self._means.take(self._accelerator)  # waits for the device: the time is taken after it
        now = time.perf_counter()
        seconds = max(now - self._begun - self._paused, 1e-9)
        rows = (step - self._since) * self._config.global_batch(self._accelerator.num_processes)
        speed = {"lr": lr, "samples_per_s": rows / seconds, "data_wait": (waited - self._waited) / seconds}
        self._bar.set_postfix(
            loss=f"{losses.get('loss', math.nan):.4f}", samples_per_s=f"{speed['samples_per_s']:.1f}"
        )
        self.write(step, losses | speed)
        self._since, self._waited, self._begun, self._paused = step, waited, now, 0.0

    def write(self, step: int, figures: dict[str, float], group: str = "") -> None:
        """Figures of a step to file and tracker, under the name `group` if there is one."""
        if not self._accelerator.is_main_process:
            return
        rounded = {k: float(f"{v:.5g}") if math.isfinite(v) else str(v) for k, v in figures.items()}
        with open(self._file, "a") as file:
            file.write(json.dumps({"step": step, **({group: rounded} if group else rounded)}) + "\n")
        self._accelerator.log({f"{group or 'train'}/{k}": v for k, v in figures.items()}, step=step)

    def picture(self, step: int, grid: np.ndarray) -> None:
        """A validation grid, uint8 [H, W, 3]: `grid-{step}.png` and the tracker."""
        if not self._accelerator.is_main_process:
            return
        from PIL import Image

        Image.fromarray(grid).save(self._file.parent / f"grid-{step}.png")
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"held_out": grid[None]}, step=step, **layout)
