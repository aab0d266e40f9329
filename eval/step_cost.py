"""What conditions cost: `python eval/step_cost.py FOLDER [FOLDER ...]` of BoLID pipelines, one picture each.

Milliseconds of processor time (one thread, medians over turns in which all pipelines alternate) and FLOPs of
the conditions of skeleton and appearance map, made once a picture, and of one UNet step with them; and how
many of the adapter's weights take part. Exit codes: 0 done, 2 refused.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bolid import BoLIDPipeline
from bolid.adapter import AdapterInputs


def calls(pipe: Any) -> tuple[Callable[[], Any], Callable[[Any], torch.Tensor]]:
    """Making the conditions of one picture, and one UNet step with them; inputs from seed 0."""
    generator, adapter = torch.Generator().manual_seed(0), pipe.adapter
    height, width = pipe.picture_size
    config, fold = adapter.config, pipe.vae_scale_factor
    size = (height // fold, width // fold)
    given = AdapterInputs(
        skeleton=torch.rand(1, 3, height, width, generator=generator),
        appearance=torch.rand(1, config.latent_channels + 1, *size, generator=generator),
    )
    x = torch.randn(1, config.latent_channels, *size, generator=generator)
    text = torch.randn(1, 16, pipe.unet.config.cross_attention_dim, generator=generator)

    def step(conditions: Any) -> torch.Tensor:
        return pipe.unet(x, 500, text, cross_attention_kwargs=conditions.kwargs()).sample

    return lambda: adapter.conditions(given), step


def weights_used(pipe: Any) -> int:
    """Adapter's weights that a step's result depends on."""
    make, step = calls(pipe)
    step(make()).sum().backward()
    used = sum(p.numel() for p in pipe.adapter.parameters() if p.grad is not None)
    pipe.adapter.zero_grad(set_to_none=True)
    pipe.unet.zero_grad(set_to_none=True)
    return used


def flops(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args(arguments)
    if missing := [each for each in options.folders if not (Path(each) / "model_index.json").is_file()]:
        print(f"eval/step_cost.py: {missing[0]} holds no pipeline (model_index.json)", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    pipes: dict[str, Any] = {each: BoLIDPipeline.from_pretrained(each) for each in options.folders}
    used = {name: weights_used(pipe) for name, pipe in pipes.items()}
    made = {name: calls(pipe) for name, pipe in pipes.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
    with torch.no_grad():
        for _ in range(1 + options.turns):
            for name, (make, step) in made.items():
                begun = time.process_time()
                conditions = make()
                middle = time.process_time()
                step(conditions)
                times[name].append((middle - begun, time.process_time() - middle))
        print("| Pipeline | weights | once, ms | once, GFLOP | a step, ms | a step, GFLOP |")
        print("|---|---|---|---|---|---|")
        for name, (make, step) in made.items():
            once, each = np.median(times[name][1:], axis=0) * 1000  # the first turn warms up
            conditions = make()
            figures = (once, flops(make) / 1e9, each, flops(lambda s=step, c=conditions: s(c)) / 1e9)
            print(f"| {name} | {used[name]:,} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
