"""Measure models, three ways:

    python eval/run.py --models ip_adapter instantid pulid bolid --output DIR   # side by side, with a report
    python eval/run.py --suite mini-quality --output DIR [--model DIR]          # one model and its gates
    python eval/run.py --quick --output DIR                                     # no figure may fall back

Writes results.json (every figure with its interval, command, config, seed, machine, weights), results.md and
grid.jpg into the output folder; a comparison also plots and report.html.  A run that was stopped goes on
where it was: what is drawn is kept there.  Exit codes: 0 done, 1 a guarded figure fell, 2 a mistake in the
call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.evaluation.calls import DrawOptions, identities
from bolid.evaluation.card import update_card
from bolid.evaluation.cost import cost_gates
from bolid.evaluation.drawing import DRAWERS, STRENGTHS
from bolid.evaluation.gates import gates, relative_to_truth
from bolid.evaluation.guard import falls, read_reference, reference_of
from bolid.evaluation.networks import Evaluators
from bolid.evaluation.pairs import Pairs, held_out_pairs, pairs_fingerprint
from bolid.evaluation.provenance import claim, weights_hash
from bolid.evaluation.report import card_figures, fill, grid, report, save_jpeg
from bolid.evaluation.retrieval import OwnEncoders, retrieval_gate
from bolid.evaluation.scores import summarise
from bolid.evaluation.session import Options, compare
from bolid.evaluation.suite import Sources, Suite, measure_rows
from bolid.evaluation.tables import MARKERS, headline

ROOT = Path(__file__).resolve().parents[1]
MAIN = (
    "truth", "reconstruction", "generated", "without_pose", "tokens_alone", "appearance_map",
    "other_reference", "another_pose", "another_pose_as_given",
)  # fmt: skip
SWEEPS = (  # and what no gate asks for: the base takes three times as long as any other row
    "base", "without_details", "pose_from_picture", "own_pose_fitted", "no_scene_word", "image_prompt",
    "clothes_in_prompt", "redressed",
    *(f"strength_{value:g}" for value in STRENGTHS),
)  # fmt: skip
# suite -> its rows of all pairs, and those of the first `--sweep-pairs`; all start from reference pixels
SUITES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mini-quality": (MAIN, SWEEPS),
    "mini-evaluators": (
        ("truth", "blurred", "recoloured", "swapped", "reposed", "reconstruction", "appearance_map"),
        (),
    ),
    "mini-tokens": (("truth", "generated", "without_pose", "tokens_alone", "other_reference"), ()),
    "mini-image-prompt": (
        ("truth", "no_scene_word", "image_prompt", "image_prompt_full", "other_reference"),
        (),
    ),
}
PAIRS, QUICK_PAIRS = (1024, 256), (64, 32)  # of the main rows and of the sweeps
# of --quick: the shipped weights, every row in the two steps that a call with a pose takes
GUARD = {"models": ("bolid",), "samples": 64, "seeds": 2, "runs": "", "steps": 2, "guidance": 1.0,
         "id_strength": None}  # fmt: skip
REFERENCE = ROOT / "eval" / "report" / "quick.json"
SWEEP_KINDS = ("strength", "steps", "head")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=sorted(SUITES), help="one model (default mini-quality)")
    parser.add_argument(
        "--model", default=str(ROOT / "models" / "bolid-mini"), help="folder or Hub repository"
    )
    parser.add_argument(
        "--evaluators",
        default=str(ROOT / "models" / "evaluators"),
        help="folder with pose/, appearance/, and attributes/ and text_image/ where there are any",
    )
    parser.add_argument("--output", required=True, help="folder for results and kept pictures")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_PAIRS[0]} pairs, {QUICK_PAIRS[1]} in the sweeps: a look"
    )
    parser.add_argument("--pairs", type=int, help=f"held-out pairs (default {PAIRS[0]})")
    parser.add_argument("--sweep-pairs", type=int, help=f"of them in the sweeps (default {PAIRS[1]})")
    parser.add_argument("--split", default="test", help="of the avatars, or of --dataset")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's own)")
    parser.add_argument("--id-strength", type=float, help="default: the pipeline's own")
    parser.add_argument("--seed", type=int, default=0, help="pair i is drawn from seed + i")
    parser.add_argument("--rows", nargs="+", choices=sorted(DRAWERS), help="instead of the suite's rows")
    parser.add_argument("--batch-size", type=int, default=16, help="pairs a pipeline call")
    parser.add_argument("--processes", type=int, default=2, help="that render, and on a CPU draw and score")
    parser.add_argument("--update", nargs="*", default=[], help="Markdown files whose figures are replaced")
    add_comparison(parser)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args(arguments)
    if options.suite and options.models:
        parser.error("--suite measures one model, --models compares: give one of the two")
    if options.dataset != Options.dataset and not options.models:
        parser.error(f"--dataset {options.dataset}: a suite measures on avatars; compare with --models there")
    options.guard = options.quick and not options.suite and not options.models
    options.suite = options.suite or "mini-quality"
    main_pairs, sweep_pairs = QUICK_PAIRS if options.quick else PAIRS
    options.pairs = main_pairs if options.pairs is None else options.pairs
    options.sweep_pairs = min(
        sweep_pairs if options.sweep_pairs is None else options.sweep_pairs, options.pairs
    )
    for name in ("pairs", "sweep_pairs"):
        if getattr(options, name) < 16:
            given = f"--{name.replace('_', '-')} {getattr(options, name)}"
            parser.error(f"{given}: at least 16 are needed, for identification among 16")
    return options


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """The flags of a comparison."""
    group, default = parser.add_argument_group("comparison"), Options((), "")
    group.add_argument(
        "--models", nargs="+", metavar="NAME", help="methods by name, folders or Hub ids of BoLID pipelines, "
        "folders of pictures drawn elsewhere",
    )  # fmt: skip
    group.add_argument("--dataset", default=default.dataset, help="avatars, or what data.source may be")
    group.add_argument("--samples", type=int, default=default.samples, help="pictures of a row in all")
    group.add_argument("--seeds", type=int, default=default.seeds, help="sampling seeds of each training")
    group.add_argument("--steps-unposed", type=int, help="of rows without a pose (default: as --steps)")
    group.add_argument("--sweeps", nargs="+", choices=SWEEP_KINDS, default=(), help="rows for plots, beside")
    group.add_argument(
        "--sweep-samples", type=int, default=default.sweep_samples, help="pictures of their rows"
    )
    group.add_argument("--networks", choices=("auto", "mini", "standard"), default=default.networks)
    group.add_argument("--runs", default=default.runs, help="trainings lie in RUNS/METHOD/seed-*/export")
    group.add_argument("--update-card", nargs="*", default=[], help="cards whose eval_results are replaced")
    group.add_argument("--accept", action="store_true", help="with --quick: store this run as the reference")


def comparison_options(options: argparse.Namespace) -> Options:
    """What `session.compare` takes; `--quick` alone has its own sizes."""
    names = ("output", "dataset", "split", "samples", "seeds", "sweep_samples", "networks", "evaluators",
             "runs", "steps", "steps_unposed", "guidance", "id_strength", "seed", "batch_size", "processes",
             "device", "dtype")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    given |= {"models": tuple(options.models or ()), "sweeps": tuple(options.sweeps)}
    given["shipped"] = options.model
    return Options(**(given | (GUARD if options.guard else {})))


def run_comparison(options: argparse.Namespace) -> int:
    """`--models`, or the guard of `--quick`."""

    def say(sentence: str) -> None:
        print(f"eval/run.py: {sentence}", file=sys.stderr)

    results = compare(comparison_options(options), about(options), say)
    if results is None:
        return 0
    for card in options.update_card:
        update_card(Path(card), results)
    for path in options.update:
        fill(Path(path), headline(results), MARKERS)
    print((Path(options.output) / "results.md").read_text())
    if not options.guard:
        return 0
    if options.accept:
        REFERENCE.write_text(json.dumps(reference_of(results), indent=1) + "\n")
        return 0
    fallen = falls(results, read_reference(REFERENCE))
    for sentence in fallen:
        say(f"fell back: {sentence}")
    print(f"{len(fallen)} figures fell back" if fallen else "no figure fell back")
    return 1 if fallen else 0


def sources(options: argparse.Namespace) -> Sources:
    """Of a suite."""
    return Sources(options.model, options.evaluators, options.device, options.dtype)


def draw_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that a kept picture depends on."""
    names = ("steps", "guidance", "id_strength", "seed", "batch_size", "dtype", "split", "pairs",
             "sweep_pairs")  # fmt: skip
    kept = {name: getattr(options, name) for name in names}
    return kept | {"model": weights_hash(options.model), "avatars": pairs_fingerprint()}


def about(options: argparse.Namespace) -> dict[str, Any]:
    """Where the figures were made: command, versions, machine."""
    import diffusers
    import transformers

    cuda = options.device.startswith("cuda")
    return {
        "command": shlex.join(["python", *sys.argv]),
        "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers, np)},
        "machine": {
            "platform": platform.platform(),
            "processor": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def signature(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """What a suite's figures stand on: settings and weights beside `about`."""
    return about(options) | {
        "suite": options.suite,
        "quick": options.quick,
        "settings": settings,
        "evaluators": {
            "folder": os.path.relpath(options.evaluators, ROOT),
            "weights": weights_hash(options.evaluators),
        },
    }


def measure(
    opened: tuple[Any, Evaluators], pairs: Pairs, options: argparse.Namespace
) -> tuple[dict[str, Any], np.ndarray]:
    """Draw and score every row; returns the summary and pictures to show."""
    pipe, evaluators = opened
    drawing = DrawOptions(
        options.steps, options.guidance, options.id_strength, options.seed, options.batch_size
    )
    _, reference = evaluators.read(pairs.reference)
    suite = Suite(pairs, reference, drawing, Path(options.output) / "pictures")
    main_rows, sweeps = (options.rows, ()) if options.rows else SUITES[options.suite]
    rows = [(row, len(pairs)) for row in main_rows] + [(row, options.sweep_pairs) for row in sweeps]
    processes = options.processes if options.device == "cpu" else 1
    found, began = {}, time.perf_counter()
    for row, *measured in measure_rows(rows, suite, sources(options), opened, min(processes, len(rows))):
        found[row] = measured
        minutes = (time.perf_counter() - began) / 60
        print(f"{row}: {len(found)} of {len(rows)} rows, {minutes:.1f} min", file=sys.stderr, flush=True)
    scores = {row: found[row][0] for row, _ in rows}
    told = gates(scores, pairs)
    if options.suite == "mini-quality" and not options.rows:
        encoders = OwnEncoders.find(pipe, options.model)
        if encoders is None:
            print(f"no {options.model}-projections: r@1 of its text-image encoder is not measured")
        else:
            told.insert(0, retrieval_gate(encoders, *pairs.size, options.processes, pairs.avatars))
        told += cost_gates(pipe, options.model, pairs)
    summary = summarise(scores, pairs) | {
        "gates": [gate.as_dict() for gate in told],
        "relative_to_truth": relative_to_truth(scores, pairs),
        "seconds_per_picture": {row: found[row][1] for row, _ in rows if found[row][1] is not None},
    }
    drawn = "generated" in main_rows
    return summary, suite.pictures("generated", len(pairs), pipe) if drawn else pairs.reference


def main(arguments: list[str] | None = None) -> int:
    """Run a suite; the exit code is 2 for a mistake in the call."""
    options = parse(arguments)
    output = Path(options.output)
    try:
        if options.guard or options.models:
            return run_comparison(options)
        opened = sources(options).open()
        pipe = opened[0]
        settings = draw_settings(options)
        claim(output, settings)
        height, width = pipe.picture_size
        pairs = held_out_pairs(options.pairs, height, width, options.processes, split=options.split)
        summary, generated = measure(opened, pairs, options)
        refused = sum(
            identity is None for identity in identities(pipe, pairs.reference[: options.batch_size])
        )
    except ValueError as error:
        print(f"eval/run.py: {error}", file=sys.stderr)
        return 2
    signed = signature(options, settings) | {"refused_of_first_batch": refused}
    write(output, summary, signed)
    save_jpeg(grid(pairs, generated), output / "grid.jpg")
    for path in options.update:
        fill(Path(path), card_figures(signed | summary))
    print((output / "results.md").read_text())
    return 0


def write(output: Path, summary: dict[str, Any], signed: dict[str, Any]) -> None:
    """results.json and results.md."""
    (output / "results.json").write_text(json.dumps(signed | summary, indent=1))
    settings = signed["settings"]
    heading = [
        f"# {signed['suite']}: {settings['pairs']} held-out pairs of the split {settings['split']}",
        "",
        f"`{signed['command']}`",
        "",
        f"Weights {settings['model']}, mini evaluators {signed['evaluators']['weights']}, seed "
        f"{settings['seed']}, torch {signed['versions']['torch']}; mean [95 % bootstrap interval]. "
        "Key-points, attributes, scene and identification are read by the mini networks too.",
    ]  # fmt: skip
    (output / "results.md").write_text(report(summary, heading))


if __name__ == "__main__":
    sys.exit(main())
