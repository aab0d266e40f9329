"""Which loss buys what: `python train/ablation.py --base models/bolid-mini --loss_networks
runs/loss-networks --clip runs/clip-evaluator --output runs/ablation`.

On one frozen few-step base the adapter is trained for the same number of steps by every variant of Eq. 1 and
with several seeds, then held-out pairs are drawn in few steps and read by the mini evaluators. Every variant
and seed has its folder; what is finished is not done again, what was stopped goes on at its checkpoint.
Writes results.json and results.md into the output folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parents[1]
BOTH = ("objective.weights.id=1", "objective.weights.clip=1")
VARIANTS: dict[str, tuple[str, ...]] = {  # over the config, whose own weights are set to L_rec alone first
    "rec": (),
    "rec+id": ("objective.weights.id=1",),
    "rec+clip": ("objective.weights.clip=1",),
    "rec+id+clip": BOTH,  # the config's gradient mode: last_k with K = 1
    "alignment": (*BOTH, "objective.weights.semantic=0.6", "objective.weights.layout=0.1"),
    "one_step": (*BOTH, "objective.lightning.mode=one_step"),
    "full": (*BOTH, "objective.lightning.mode=full"),
}
ON_PICTURES = ("id", "clip", "heatmap", "appearance", "semantic", "layout")
OFF = tuple(f"objective.weights.{name}=0" for name in ON_PICTURES)
START = "before"  # the adapter as it was, measured beside the others
REFERENCE = "rec"  # what the others are compared with


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "train" / "configs" / "mini-lightning.yaml"))
    parser.add_argument("--base", required=True, help="folder of a few-step pipeline: its base is frozen")
    parser.add_argument("--from_scratch", action="store_true", help="a new adapter, not the folder's own")
    parser.add_argument("--loss_networks", help="folder with pose and text_image")
    parser.add_argument("--evaluators", default=str(ROOT / "models" / "evaluators"))
    parser.add_argument("--clip", required=True, help="folder with the text_image that gives the CLIP score: "
                        "a third training of train/configs/mini-clip.yaml")  # fmt: skip
    parser.add_argument("--output", required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", default="0,1,2", help="training seeds")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: the config's)")
    parser.add_argument("--pairs", type=int, default=256, help="held-out pairs that are drawn")
    parser.add_argument("--draw_steps", type=int, default=2, help="denoising steps of a measured picture")
    parser.add_argument("--guidance", type=float, default=1.0, help="1: none, as a distilled base wants")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="any key of the config, all variants")
    options = parser.parse_intermixed_args(arguments)
    options.variants = options.variants.split(",")
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        parser.error(f"--variants: {unknown[0]!r} is none of {', '.join(VARIANTS)}")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    return options


def run_config(options: argparse.Namespace, variant: str, seed: int, output: Path) -> Any:
    """The resolved config of one training run."""
    from bolid.training.config import load_config

    given = [*OFF, f"objective.base={options.base}", *options.overrides, *VARIANTS[variant]]
    given.append(f"objective.adapter={'null' if options.from_scratch else options.base}")
    if options.loss_networks:
        given.append(f"objective.loss_networks={options.loss_networks}")
    if options.steps:
        given.append(f"max_train_steps={options.steps}")
    given += [f"seed={seed}", f"output_dir={output}", "resume_from_checkpoint=latest", "validation_steps=0"]
    return load_config(options.config, given)


def train_run(config: Any) -> Path:
    """Train one variant with one seed, or go on with it; its export."""
    from bolid.training.loop import train
    from bolid.training.stages import build_stage

    objective, rows, held_out = build_stage(config)
    exported = train(config, objective, rows, held_out)
    del objective, rows, held_out
    gc.collect()
    if exported is None:
        raise KeyboardInterrupt  # a SIGTERM: the checkpoint is written
    return exported


def measure(options: argparse.Namespace, folder: Path, model: Path) -> dict[str, Any]:
    """Every figure's values per pair [N] of a pipeline's pictures, kept in `folder/figures.npz`."""
    import numpy as np

    from bolid import BoLIDPipeline
    from bolid.evaluation.calls import DrawOptions
    from bolid.evaluation.drawing import draw_row
    from bolid.evaluation.pairs import held_out_pairs
    from bolid.evaluation.provenance import load_evaluators
    from bolid.evaluation.scores import score

    kept = folder / "figures.npz"
    if kept.exists():
        with np.load(kept) as stored:
            return dict(stored)
    pipe = BoLIDPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    evaluators = load_evaluators(options.evaluators, "cpu")
    pairs = held_out_pairs(options.pairs, *pipe.picture_size, cache_dir=Path(options.output) / "pairs")
    drawing = DrawOptions(steps=options.draw_steps, guidance=options.guidance)
    drawn = [pictures for _, pictures in draw_row("generated", pipe, pairs, drawing, folder / "pictures")]
    _, reference = evaluators.read(pairs.reference)
    pictures = np.concatenate(drawn)
    values = score(pictures, pairs, evaluators, reference).values
    values["clip_score_mini"] = clip_scores(options.clip, pictures, pairs.prompt)
    with open(folder / ".figures", "wb") as file:
        np.savez(file, **values)  # pyright: ignore[reportArgumentType]
    os.replace(folder / ".figures", kept)
    return values


def clip_scores(folder: str, pictures: Any, prompts: Sequence[str]) -> Any:
    """cos(CLIP(picture), CLIP(prompt)) [N] of pictures uint8 [N, H, W, 3], by the CLIP in `folder`."""
    import torch

    from bolid.evaluators import to_tensor
    from bolid.metrics import clip_score
    from bolid.training.objectives.loss_networks import load_loss_networks

    network: Any = load_loss_networks(folder, ["text_image"])["text_image"]
    pixels = to_tensor(pictures, pictures.shape[1:3], torch.device("cpu"))
    with torch.no_grad():
        seen = torch.cat([network.pictures(chunk) for chunk in pixels.split(64)])
    return clip_score(seen.numpy(), network.texts(list(prompts)).numpy())


def run_all(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Figures of every variant, a dictionary a seed; `START` has one."""
    output = Path(options.output)
    (output / START).mkdir(parents=True, exist_ok=True)
    found = {} if options.from_scratch else {START: [measure(options, output / START, Path(options.base))]}
    for seed in options.seeds:  # seed by seed: an early look has every variant
        for variant in options.variants:
            folder = output / variant / f"seed-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            export = folder / "export"
            if not (folder / "figures.npz").exists():
                print(f"{variant}, seed {seed}", flush=True)
                done = (folder / "trained").exists()
                export = export if done else train_run(run_config(options, variant, seed, folder))
                (folder / "trained").touch()
            found.setdefault(variant, []).append(measure(options, folder, export))
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)  # only after the figures are kept
    return found


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that a kept figure depends on."""
    from bolid.evaluation.pairs import pairs_fingerprint
    from bolid.evaluation.provenance import weights_hash

    config = dataclasses.asdict(run_config(options, "rec", 0, Path("-")))
    names = ("pairs", "draw_steps", "guidance", "from_scratch")
    kept = {name: getattr(options, name) for name in names}
    networks = options.loss_networks and weights_hash(options.loss_networks)
    folders = {name: weights_hash(getattr(options, name)) for name in ("base", "evaluators", "clip")}
    return kept | folders | {"loss_networks": networks, "avatars": pairs_fingerprint(), "config": config}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        from bolid.evaluation.ablation import markdown, summarise_runs
        from bolid.evaluation.provenance import claim
        from bolid.training.objectives.loss_networks import refuse_shared

        settings = settings_of(options)
        if options.loss_networks:
            refuse_shared(options.loss_networks, options.evaluators, options.base, options.clip)
        claim(Path(options.output), settings)
        summary = summarise_runs(run_all(options), REFERENCE)
    except (ValueError, OSError) as error:
        print(f"train/ablation.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train/ablation.py: stopped; the same command goes on from here.", file=sys.stderr)
        return 3
    command = shlex.join(["python", "train/ablation.py", *(sys.argv[1:] if arguments is None else arguments)])
    results = {"command": command, "seeds": options.seeds, "settings": settings, **summary}
    Path(options.output, "results.json").write_text(json.dumps(results, indent=1))
    text = markdown(summary, command, settings)
    Path(options.output, "results.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
