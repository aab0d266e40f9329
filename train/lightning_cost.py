"""What the lightning branch costs.

    python train/lightning_cost.py --base models/bolid-mini
    python train/lightning_cost.py --random sdxl --size 512 --rows 1 --repeats 1

Time and memory of one run of the branch, forward and backward, for every gradient mode, beside L_rec of the
same rows alone. Without --loss_networks these are made anew with random weights: they cost the same. --random
takes a public base's UNet and VAE at full size, random weights, and the adapter of its config. Computed in
bfloat16, on a processor without it in float32.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

CONFIGS = Path(__file__).resolve().parent / "configs"
MODES: dict[str, dict[str, Any]] = {
    "one_step": {"mode": "one_step"},
    "last_k, K = 1": {"mode": "last_k", "last": 1},
    "last_k, K = 2": {"mode": "last_k", "last": 2},
    "full, checkpointing": {"mode": "full"},
    "full, all kept": {"mode": "full", "checkpoint": False},
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default="models/bolid-mini", help="pipeline folder or Hub id")
    parser.add_argument("--random", choices=("sd15", "sdxl"), help="instead of --base")
    parser.add_argument("--size", type=int, help="pixels a side with --random (default: the base's own)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), metavar="MODE",
                        help=f"of {', '.join(map(repr, MODES))}")  # fmt: skip
    parser.add_argument("--loss_networks", help="folder with pose and text_image (default: random ones)")
    parser.add_argument("--image_encoder", help="CLIP vision model, for a base that has none")
    parser.add_argument("--rows", type=int, default=4, help="rows of the sub-batch")
    parser.add_argument("--steps", type=int, default=4, help="of the roll-out")
    parser.add_argument("--repeats", type=int, default=3, help="the least time of so many is given")
    parser.add_argument("--alignment", action="store_true", help="with PuLID's alignment losses")
    return parser.parse_args(arguments)


def random_loss_networks(folder: str) -> str:
    """Networks of the mini size with random weights, saved as trained ones would be."""
    import torch

    from bolid.estimator import PersonEstimator
    from bolid.training.objectives.clip import ClipOptions, clip_model
    from bolid.training.random_bases import small_tokenizer

    torch.manual_seed(1)
    PersonEstimator().save_pretrained(f"{folder}/pose")
    tokenizer = small_tokenizer(64)
    clip_model(ClipOptions(text_layers=2), tokenizer).save_pretrained(f"{folder}/text_image")
    tokenizer.save_pretrained(f"{folder}/text_image")
    return folder


def random_rows(objective: Any, count: int) -> dict[str, Any]:
    """A batch of the right shapes: what is in it costs nothing."""
    import torch

    from bolid.pose import Pose

    base = objective.base
    height, width = (side // base.fold for side in base.picture_size())
    channels, vision = base.vae.config.latent_channels, base.require("image_encoder").config
    patches = (vision.image_size // vision.patch_size) ** 2
    points = torch.tensor(Pose.named("standing").keypoints)
    ids = torch.from_numpy(base.token_ids(["a person in a park"] * count))
    return {
        "latents": torch.randn(count, channels, height, width),
        "appearance": torch.randn(count, 2, channels + 1, height, width),
        "strengths": torch.ones(count, 2, 4),
        "part_share": torch.zeros(count, 4, height, width, dtype=torch.uint8),
        "patches": torch.randn(count, 4, patches, vision.hidden_size),
        "present": torch.ones(count, 4, dtype=torch.bool),
        "prompt_patches": torch.randn(count, patches, vision.hidden_size),
        "keypoints": points[None].repeat(count, 1, 1),
        "caption_ids": ids,
        "plain_ids": ids,
    }


def measured(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(least seconds, MiB at the peak above the start) of a call that is repeated.

    On a CPU seconds of work, which other processes do not stretch. On a GPU allocated memory;
    on Linux the process's resident memory, whose mark /proc lets one reset.
    """
    import torch

    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    run()  # first calls allocate and choose kernels
    seconds, peaks = [], []
    for _ in range(repeats):
        gc.collect()
        before = _start_of_peak()
        begun = clock()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(clock() - begun)
        peaks.append(_peak() - before)
    return min(seconds), min(peaks)


def _start_of_peak() -> float:
    """MiB in use now; the peak counts from here."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if sys.platform != "linux":
        return float("nan")
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that is kept would hide what is needed again
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM") if sys.platform == "linux" else float("nan")


def _status(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def table(options: argparse.Namespace, networks: str) -> list[tuple[str, float, float]]:
    """(what, seconds, MiB) of L_rec alone and of the branch in every mode, with L_id and L_CLIP."""
    import torch

    from bolid.losses import LossWeights
    from bolid.training.bases import open_base
    from bolid.training.draws import step_draws
    from bolid.training.objectives.conditions import draw_conditions
    from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions
    from bolid.training.objectives.lightning_losses import BranchOptions, LightningBranch
    from bolid.training.precision import fast, matrix_dtype
    from bolid.training.random_bases import adapter_shape, random_base

    aligned = {"semantic": 0.6, "layout": 0.1} if options.alignment else {}
    given = DiffusionOptions(
        base=options.base,
        adapter=options.base if (Path(options.base) / "adapter").is_dir() else None,
        weights=LossWeights(id=1, clip=1, **aligned),
        loss_networks=networks,
        lightning=BranchOptions(steps=options.steps, rows=options.rows),
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.random:
        base = random_base(options.random, options.size, matrix_dtype(device))
        shape = adapter_shape(CONFIGS / f"{options.random}.yaml")
        given = dataclasses.replace(given, adapter=None, **shape)
    else:
        base = open_base(options.base, image_encoder=options.image_encoder)
    objective = DiffusionObjective(given, base)
    objective.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    batch = {name: value.to(device) for name, value in random_rows(objective, options.rows).items()}
    draws = step_draws(0, 0, options.rows, device=device)

    def backward(losses: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with fast(device):
                total = losses()
            total.backward()
            objective.zero_grad(set_to_none=True)

        return run

    def reconstruction() -> torch.Tensor:
        conditions = draw_conditions(objective.adapter, batch, objective.options, draws, objective.base.fold)
        return objective.reconstruction(batch, conditions, draws)[0]["rec"]

    rec = measured(backward(reconstruction), options.repeats)
    lines = [(f"L_rec alone, {options.rows} rows", *rec)]
    assert objective.branch is not None
    frozen = dict(objective.branch.networks)
    for name in options.modes:
        branch = dataclasses.replace(given.lightning, **MODES[name])
        objective.branch = LightningBranch(branch, given.weights, frozen)
        cost = measured(backward(lambda: sum(objective.on_pictures(batch, draws).values())), options.repeats)
        lines.append((name, *cost))
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            lines = table(options, options.loss_networks or random_loss_networks(folder))
    except (ValueError, OSError) as error:
        print(f"train/lightning_cost.py: {error}", file=sys.stderr)
        return 2
    import torch

    from bolid.training.precision import matrix_dtype

    on_gpu = torch.cuda.is_available()
    precision = str(matrix_dtype("cuda" if on_gpu else "cpu")).removeprefix("torch.")
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} thread(s)"
    named = f"{options.random} at random, {options.size or 'its own'} px" if options.random else options.base
    print(f"{named}, {options.rows} rows, {options.steps} steps, {precision}, {where}\n")
    print(f"| Gradient mode | {'seconds' if on_gpu else 'CPU seconds'} | MiB at the peak |\n|---|---|---|")
    for name, seconds, peak in lines:
        print(f"| {name} | {seconds:.2f} | {peak:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
