"""A comparison from its options to its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bolid.evaluation.analysis import Comparison, complete, summarise
from bolid.evaluation.comparison import Setting, Size, load_rows, measure_rows, truth_features
from bolid.evaluation.contestants import (
    Contestant,
    PictureFolder,
    Row,
    find_contestants,
    sweep_rows,
    table_rows,
)
from bolid.evaluation.dataset import AVATARS, dataset_fingerprint, open_pairs
from bolid.evaluation.kept import Measured
from bolid.evaluation.networks import Networks
from bolid.evaluation.page import page, picture_grid, plots
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.provenance import claim, weights_hash
from bolid.evaluation.questions import BASELINES, answers
from bolid.evaluation.report import save_jpeg
from bolid.evaluation.standard import Choice, open_networks
from bolid.evaluation.tables import report_markdown

KEPT = ("samples", "seeds", "steps", "steps_unposed", "guidance", "id_strength", "seed",
        "dtype")  # fmt: skip  # options of every picture
SIZE = (192, 128)  # pixels where no pipeline says it


@dataclass(frozen=True)
class Options:
    """What a comparison is asked for; the defaults are the command line's."""

    models: tuple[str, ...]
    output: str
    dataset: str = AVATARS
    split: str = "test"
    samples: int = 2000
    seeds: int = 3
    sweeps: tuple[str, ...] = ()
    sweep_samples: int = 200
    networks: Choice = "auto"
    evaluators: str = "models/evaluators"
    runs: str = "runs/comparison"
    shipped: str = "models/bolid-mini"
    steps: int | None = None
    steps_unposed: int | None = None
    guidance: float | None = None
    id_strength: float | None = None
    seed: int = 0
    batch_size: int = 16
    processes: int = 2
    device: str = "cpu"
    dtype: str = "float32"


def compare(options: Options, about: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any] | None:
    """Draw, measure, analyse and write; the results, or None in a process that is not the main one.

    about: command, versions and machine, for results.json; say: gets sentences that a user must not miss.

    Raises ValueError for whatever cannot be done, before anything is drawn where it can be known then.
    """
    from accelerate import PartialState

    state = PartialState(cpu=options.device == "cpu")
    contestants = find_contestants(options.models, options.runs, options.shipped)
    for contestant in contestants:
        require_adapters(contestant)
    remarks: list[str] = []

    def note(sentence: str) -> None:
        remarks.append(sentence[0].upper() + sentence[1:])
        say(sentence)

    networks = open_networks(
        options.networks, options.evaluators, options.device, options.dataset == AVATARS, note
    )
    rows, sweeps = table_rows(contestants), sweep_rows(contestants, options.sweeps)
    size = Size(
        options.samples,
        options.seeds,
        max(len(contestant.folders) for contestant in contestants),
        options.sweep_samples,
    )
    with state.main_process_first():  # what it renders, the others read
        setting, settings = prepare(options, contestants, networks, size)
    if options.dataset != AVATARS:
        rows = [row for row in rows if row.name != "another"]  # only avatars can be drawn as somebody else
    measure_rows([*rows, *sweeps], size, setting, state.process_index, state.num_processes)
    state.wait_for_everyone()
    if not state.is_main_process:
        return None
    results, measured = analyse(contestants, rows, sweeps, size, setting, settings, options)
    results |= about | {"remarks": [*remarks, *_remarks(contestants, results)]}
    write(Path(options.output), results, measured, setting.pairs)
    return results


def prepare(
    options: Options, contestants: Sequence[Contestant], networks: Networks, size: Size
) -> tuple[Setting, dict[str, Any]]:
    """The output folder claimed, and the pairs rendered or read."""
    output = Path(options.output)
    opener = _Opener(options)
    height, width = opener.size(contestants)
    cache = output / "cache"
    settings = {
        "dataset": options.dataset,
        "split": options.split,
        "rows": dataset_fingerprint(options.dataset, options.split, (height, width), cache),
        "size": [height, width],
        "networks": [networks.kind, networks.signatures()],
        **{name: getattr(options, name) for name in KEPT},
        "batch_size": options.batch_size,
        "pairs": size.pairs,
    }
    claim(output, settings)
    pairs = open_pairs(options.dataset, options.split, size.pairs, (height, width), options.processes, cache)
    if len(pairs) < size.pairs:
        raise ValueError(
            f"{options.dataset} has {len(pairs)} rows in the split {options.split!r}, {size.pairs} pairs are "
            f"needed: --samples {len(pairs) * size.seeds * size.trainings}"
        )
    setting = Setting(
        output,
        pairs,
        networks,
        opener,
        steps=options.steps,
        steps_unposed=options.steps_unposed,
        guidance=options.guidance,
        id_strength=options.id_strength,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    return setting, settings


class _Opener:
    """Opens pipelines as the options say."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __call__(self, folder: str) -> Any:
        from bolid import BoLIDPipeline

        pipe = BoLIDPipeline.from_pretrained(folder, dtype=getattr(torch, self._options.dtype))
        if pipe.adapter is None:
            raise ValueError(_PLAIN.format(folder))
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self._options.device)

    def size(self, contestants: Sequence[Contestant]) -> tuple[int, int]:
        """(height, width) that the first model draws."""
        models = [contestant for contestant in contestants if not contestant.pictures]
        return self(models[0].folders[0]).picture_size if models else SIZE


_PLAIN = (
    "{} is no BoLID: it has no adapter, so it can draw nobody's reference. Give a folder of train/run.py or "
    "assemble; the base alone is measured anyway, as the row `base`"
)


def require_adapters(contestant: Contestant) -> None:
    """Raises ValueError for a local folder whose pipeline has no adapter, or for pictures that do not fit."""
    for folder in contestant.folders:
        index = Path(folder) / "model_index.json"
        if contestant.pictures:
            PictureFolder(folder)
        elif index.is_file():
            entry = json.loads(index.read_text()).get("adapter")
            if not entry or entry[0] is None:
                raise ValueError(_PLAIN.format(folder))


def analyse(
    contestants: Sequence[Contestant],
    rows: Sequence[Row],
    sweeps: Sequence[Row],
    size: Size,
    setting: Setting,
    settings: dict[str, Any],
    options: Options,
) -> tuple[dict[str, Any], dict[str, Measured]]:
    """Everything of results.json but where it was made."""
    measured = load_rows([*rows, *sweeps], size, setting)

    def more() -> Pairs:
        if options.dataset != AVATARS:
            return setting.pairs
        height, width = setting.pairs.size
        count = max(options.samples, size.pairs)
        cache = setting.folder / "cache"
        return open_pairs(AVATARS, options.split, count, (height, width), options.processes, cache)

    truth = truth_features(setting, more)
    _, references = setting.networks.read(setting.pairs.reference)
    complete(measured, setting.pairs, truth, references)
    comparison = Comparison([*rows, *sweeps], measured, setting.pairs, truth, references, unlike(contestants))
    table = [
        {"name": row.name, "title": row.title, "group": row.group, "training": training_of(row)}
        for row in rows
    ]
    networks = {"kind": setting.networks.kind, "signatures": setting.networks.signatures()}
    found = {
        "settings": settings,
        "networks": networks,
        "table": table,
        "weights": {row.name: row.contestant.hashes for row in rows if row.contestant is not None},
        "answers": [answer.as_dict() for answer in answers(comparison)],
        **summarise(comparison),
    }
    return found, measured


def training_of(row: Row) -> str:
    """How much training the row's weights saw: `3 x 600 steps of 16 rows`; unknown for other people's."""
    if row.contestant is None or row.contestant.pictures or row.name == "base":
        return "-"  # the base alone is not what was trained
    told = [_trained(Path(folder)) for folder in row.contestant.folders]
    several = f"{len(told)} x " if len(told) > 1 else ""
    return several + (told[0] if len(set(told)) == 1 else ", ".join(told))


def _trained(folder: Path) -> str:
    """From the run's folder around an export: the last step and the global batch."""
    from bolid.training.checkpoint import list_checkpoints

    checkpoints = list_checkpoints(folder.parent) if folder.name == "export" else []
    if not checkpoints:
        return "see its card"
    facts = json.loads((checkpoints[-1] / "run.json").read_text())
    return f"{facts['step']} steps of {facts['global_batch']} rows"


def unlike(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """What the compared methods should share and do not: the frozen base, and the amount of training."""
    methods = [each for each in contestants if each.name in (*BASELINES, "bolid")]
    trained = {(each.title, _trained(Path(folder))) for each in methods for folder in each.folders}
    found = []
    for what, told in (("not one base", _bases(methods)), ("not one amount of training", trained)):
        if len({value for _, value in told}) > 1:
            found.append(f"{what} ({_listed(told)})")
    return tuple(found)


def _bases(contestants: Sequence[Contestant]) -> set[tuple[str, str]]:
    """(title, hash of the UNet) of every folder that has one."""
    return {
        (contestant.title, weights_hash(str(Path(folder) / "unet")))
        for contestant in contestants
        for folder in contestant.folders
        if not contestant.pictures and (Path(folder) / "unet").is_dir()
    }


def _listed(told: set[tuple[str, str]]) -> str:
    return ", ".join(f"{title} {value}" for title, value in sorted(told))


def _remarks(contestants: Sequence[Contestant], results: dict[str, Any]) -> list[str]:
    """Sentences on what does not compare or was not measured."""
    found, bases = [], _bases(contestants)
    if len({value for _, value in bases}) > 1:
        found.append(f"Not all methods stand on one base ({_listed(bases)}): their rows do not compare.")
    refused: dict[str, list[str]] = {}
    for row in results["table"]:
        why = results["distribution"][row["name"]].get("why", "")
        if "too few" in why:
            refused.setdefault(why, []).append(row["title"])
    found += [f"No FID of {', '.join(titles)}: {why}." for why, titles in refused.items()]
    if not any(rows["all"]["clip"]["count"] for rows in results["rows"].values()):
        found.append(
            "No CLIP score: the mini networks have no CLIP of their own. Train one with a seed that nothing "
            "else has: python train/run.py --config train/configs/mini-clip.yaml --seed 2 --output_dir "
            "runs/eval-clip, and copy its export/clip and tokenizer to models/evaluators/text_image."
        )
    return found


def write(output: Path, results: dict[str, Any], measured: dict[str, Measured], pairs: Pairs) -> None:
    """results.json, results.md, the plots, grid.jpg and report.html."""
    drawings, grid = plots(results), picture_grid(results, measured, pairs)
    (output / "results.json").write_text(json.dumps(results, indent=1, default=list))
    (output / "results.md").write_text(report_markdown(results))
    for name, svg in drawings.items():
        (output / name).write_text(svg)
    save_jpeg(grid, output / "grid.jpg", limit=600_000)
    (output / "report.html").write_text(page(results, drawings, grid))
