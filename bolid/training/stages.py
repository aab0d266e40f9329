"""The table of stages: which objective a config names, and which rows it sees."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.avatars.scene import SCENES
from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS
from bolid.training.avatar_rows import AvatarRows
from bolid.training.config import TrainConfig, build
from bolid.training.data import JoinedRows, Rows
from bolid.training.evaluator_rows import CombinationRows, OtherClothesRows
from bolid.training.person_rows import person_rows, redressed, split_sizes
from bolid.training.sources import AVATARS

Built = tuple[Any, Any, Any]


def _in_memory(rows: AvatarRows | CombinationRows | OtherClothesRows, names: Sequence[str]) -> Rows:
    return Rows(rows.columns(names), f"{rows.fingerprint}-{len(rows)}")


def _require_avatars(config: TrainConfig) -> None:
    """Raises ValueError for a dataset: these stages learn attributes that only avatars have exactly."""
    if config.data.source != AVATARS:
        raise ValueError(
            f"stage {config.stage!r} is trained on avatars only; data.source={config.data.source!r} is for "
            "the stages diffusion, distill and critic."
        )


def _simple(
    objective: Callable[[Any], Any], options: type, columns: tuple[str, ...]
) -> Callable[[TrainConfig], Built]:
    """A stage whose objective needs its options alone and whose rows are plain columns."""

    def build_it(config: TrainConfig) -> Built:
        _require_avatars(config)
        made = objective(build(options, config.objective, "objective"))
        train, held_out = (
            _in_memory(AvatarRows(config.data, split, size), columns)
            for split, size in split_sizes(config).items()
        )
        return made, train, held_out

    return build_it


def _autoencoder(config: TrainConfig) -> Built:
    from bolid.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions

    return _simple(AutoencoderObjective, AutoencoderOptions, ("image", "masks"))(config)


_PEOPLE = ("image", "reference", "masks", "reference_masks", "keypoints", "reference_keypoints")
_WORDS = ("labels", "visible", "reference_visible", "scene", "pose_family", "view")


def _estimator(config: TrainConfig) -> Built:
    from bolid.training.objectives.estimator import EstimatorObjective, EstimatorOptions

    return _simple(EstimatorObjective, EstimatorOptions, _PEOPLE)(config)


def _pose_evaluator(config: TrainConfig) -> Built:
    from bolid.training.objectives.evaluators import PoseEvaluatorObjective, PoseEvaluatorOptions

    return _simple(PoseEvaluatorObjective, PoseEvaluatorOptions, (*_PEOPLE, *_WORDS))(config)


def _appearance_evaluator(config: TrainConfig) -> Built:
    from bolid.training.objectives.evaluators import AppearanceEvaluatorObjective, AppearanceEvaluatorOptions

    return _simple(AppearanceEvaluatorObjective, AppearanceEvaluatorOptions, (*_PEOPLE, *_WORDS))(config)


def _attribute_evaluator(config: TrainConfig) -> Built:
    """Its training rows show every combination of attributes: see `evaluator_rows`."""
    from bolid.training.objectives.attribute_evaluator import (
        AttributeEvaluatorObjective,
        AttributeEvaluatorOptions,
    )

    _require_avatars(config)
    options, data = build(AttributeEvaluatorOptions, config.objective, "objective"), config.data
    sizes, names = split_sizes(config), (*_PEOPLE, *_WORDS)
    rows = AvatarRows(data, "train", sizes["train"])
    train = CombinationRows(rows, options.combinations)
    held_out = _in_memory(AvatarRows(data, "validation", sizes["validation"]), names)
    return AttributeEvaluatorObjective(options), _in_memory(train, names), held_out


def _head_evaluator(config: TrainConfig) -> Built:
    """Rows of both splits show people in two sets of clothes: see `evaluator_rows`."""
    from bolid.training.objectives.head_evaluator import HeadEvaluatorObjective, HeadEvaluatorOptions

    _require_avatars(config)
    options = build(HeadEvaluatorOptions, config.objective, "objective")
    train, held_out = (
        _in_memory(
            OtherClothesRows(AvatarRows(config.data, split, size), options.other_clothes), (*_PEOPLE, *_WORDS)
        )
        for split, size in split_sizes(config).items()
    )
    return HeadEvaluatorObjective(options), train, held_out


def _clip(config: TrainConfig) -> Built:
    """Learns the tokenizer from the training captions first, unless `objective.tokenizer` names one."""
    from bolid.training.features import token_ids
    from bolid.training.objectives.clip import ClipObjective, ClipOptions
    from bolid.training.tokenizer import train_tokenizer

    _require_avatars(config)
    names = ("image", "reference", "masks", "reference_masks", *_WORDS, "caption")
    sources = {split: AvatarRows(config.data, split, size) for split, size in split_sizes(config).items()}
    arrays = {split: source.columns(names) for split, source in sources.items()}
    given = dict(config.objective)
    if "tokenizer" not in given:
        given["tokenizer"] = str(Path(config.output_dir) / "tokenizer")
        if not Path(given["tokenizer"]).is_dir():
            train_tokenizer(arrays["train"]["caption"], given["tokenizer"])
    options = build(ClipOptions, given, "objective")
    objective = ClipObjective(options, len(SCENES), len(POSE_FAMILIES), len(VIEWS))
    rows = []
    for split, columns in arrays.items():
        ids = token_ids(objective.tokenizer, columns.pop("caption"))
        # the padding is end tokens: what counts is all up to the first of them
        ends = ids == objective.tokenizer.eos_token_id
        mask = (np.cumsum(ends, axis=1) - ends) == 0
        words = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        rows.append(Rows(columns | words, f"{sources[split].fingerprint}-{len(ids)}"))
    return objective, rows[0], rows[1]


def _diffusion(config: TrainConfig) -> Built:
    from bolid.training.bases import open_base
    from bolid.training.objectives.critic_stage import CriticObjective, CriticOptions
    from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions
    from bolid.training.objectives.distillation import DistillationObjective, DistillationOptions

    kinds: dict[str, tuple[Any, type]] = {
        "diffusion": (DiffusionObjective, DiffusionOptions),
        "distill": (DistillationObjective, DistillationOptions),
        "critic": (CriticObjective, CriticOptions),
    }
    make, schema = kinds[config.stage]
    options: Any = build(schema, config.objective, "objective")
    base = open_base(options.base or options.components, image_encoder=options.image_encoder)
    torch.manual_seed(config.seed)
    objective = make(options, base)
    base.look = objective.adapter.look
    train, held_out = person_rows(config, base)
    return objective, train, held_out


def _detail(config: TrainConfig) -> Built:
    """Rows are drawn by the pipeline itself, once: see `drawn_rows`."""
    from bolid.training.drawn_rows import DrawnRows, pipeline_fingerprint
    from bolid.training.objectives.detail import DetailObjective, DetailOptions

    _require_avatars(config)
    options: Any = build(DetailOptions, config.objective, "objective")
    sources: dict[str, Any] = {
        split: AvatarRows(config.data, split, size) for split, size in split_sizes(config).items()
    }
    key = pipeline_fingerprint(options.pipeline)
    train: Any = DrawnRows(sources["train"], options.pipeline, key, config.data)
    torch.manual_seed(config.seed)  # whether or not the rows had to be drawn
    objective = DetailObjective(options, train.batch(np.zeros(1, np.int64))["words"].shape[-1])
    if config.data.redressed_size:
        again = DrawnRows(redressed(config), options.pipeline, key, config.data)
        train = JoinedRows([train, again])
    return objective, train, DrawnRows(sources["validation"], options.pipeline, key, config.data)


def _made_once(
    config: TrainConfig,
    names: Sequence[str],
    make: Callable[[dict[str, Any]], dict[str, np.ndarray]],
    key: str,
) -> list[Rows]:
    """Training and held-out rows in memory: what `make` makes of the avatars' columns; key: of it."""
    sources = [AvatarRows(config.data, split, size) for split, size in split_sizes(config).items()]
    return [Rows(make(each.columns(names)), f"{each.fingerprint}-{len(each)}{key}") for each in sources]


def _layout(config: TrainConfig) -> Built:
    """Prompts are read once by the pipeline's text encoder; poses are judged by the training rows' own."""
    from bolid.training.bases import open_base
    from bolid.training.objectives.layout import COLUMNS, LayoutObjective, LayoutOptions, layout_rows

    _require_avatars(config)
    options: Any = build(LayoutOptions, config.objective, "objective")
    base = open_base(options.pipeline)
    train, held_out = _made_once(config, COLUMNS, lambda columns: layout_rows(columns, base), "")
    torch.manual_seed(config.seed)
    return LayoutObjective(options, base.empty_text(1).states[0], train.columns), train, held_out


def _garments(config: TrainConfig) -> Built:
    """Maps and prompts of all rows are made once."""
    from bolid.training.bases import open_base
    from bolid.training.objectives.garments import COLUMNS, GarmentObjective, GarmentOptions, garment_rows

    _require_avatars(config)
    options: Any = build(GarmentOptions, config.objective, "objective")
    base, seed = open_base(options.pipeline), config.seed
    train, held_out = _made_once(
        config, COLUMNS, lambda columns: garment_rows(columns, base, seed), f"-{seed}"
    )
    torch.manual_seed(seed)
    return GarmentObjective(options, train.columns["words"].shape[-1]), train, held_out


STAGES: dict[str, Callable[[TrainConfig], Built]] = {
    "autoencoder": _autoencoder,
    "estimator": _estimator,
    "clip": _clip,
    "pose_evaluator": _pose_evaluator,
    "appearance_evaluator": _appearance_evaluator,
    "attribute_evaluator": _attribute_evaluator,
    "head_evaluator": _head_evaluator,
    "diffusion": _diffusion,
    "distill": _diffusion,
    "critic": _diffusion,
    "detail": _detail,
    "layout": _layout,
    "garments": _garments,
}


def build_stage(config: TrainConfig) -> Built:
    """Objective, training rows and held-out rows of a config; `init_from` is applied here.

    Raises:
        ValueError: an unknown stage, options, or a folder that does not fit.
    """
    if config.stage not in STAGES:
        raise ValueError(f"stage={config.stage!r}: one of {', '.join(STAGES)} is needed.")
    torch.manual_seed(config.seed)
    objective, rows, held_out = STAGES[config.stage](config)
    if config.init_from is not None:
        load_weights(objective, config.init_from)
    return objective, rows, held_out


def load_weights(objective: Any, folder: str | Path) -> None:
    """Start from exported weights: every model of the objective is read from `folder/<name>`.

    Raises:
        ValueError: a model is missing there or is of another architecture.
    """
    for name, model in objective.models.items():
        source = Path(folder) / name
        if not source.is_dir():
            raise ValueError(
                f"init_from={str(folder)!r}: no {name!r} there; give the export folder of an earlier run."
            )
        loaded = type(model).from_pretrained(source, torch_dtype=torch.float32)
        try:
            model.load_state_dict(loaded.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{source} is of another architecture: {str(error).splitlines()[-1].strip()}"
            ) from error
