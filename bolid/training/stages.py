"""The table of stages: which objective a config names, and which rows it sees."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.avatars.dataset import render_arrays, source_fingerprint
from bolid.avatars.scene import SCENES
from bolid.avatars.skeleton import POSE_FAMILIES, VIEWS
from bolid.training.config import DataConfig, TrainConfig, build
from bolid.training.data import Rows

CHUNK = 2000
"""Rows per cached chunk: stages of different sizes share them."""

Columns = Mapping[str, np.ndarray]
Built = tuple[Any, Rows, Rows]


def avatar_chunks(data: DataConfig, split: str, size: int) -> Iterator[dict[str, Any]]:
    """Rendered rows of a split, a chunk at a time, from the cache when they are there."""
    for start in range(0, size, CHUNK):
        arrays = render_arrays(
            split,  # pyright: ignore[reportArgumentType]
            start,
            min(CHUNK, size - start) if size < CHUNK else CHUNK,
            processes=data.processes,
            height=data.height,
            width=data.width,
            cache_dir=data.cache_dir,
        )
        yield {name: values[: size - start] for name, values in arrays.items()}


def avatar_rows(data: DataConfig, split: str, size: int, names: tuple[str, ...]) -> dict[str, Any]:
    """The named columns of `size` rows; lists of captions stay lists."""
    chunks = [{name: chunk[name] for name in names} for chunk in avatar_chunks(data, split, size)]
    return {
        name: [text for chunk in chunks for text in chunk[name]]
        if isinstance(chunks[0][name], list)
        else np.concatenate([chunk[name] for chunk in chunks])
        for name in names
    }


def split_sizes(config: TrainConfig) -> dict[str, int]:
    """Rows of each split; never more training rows than the run will see (a trial of five steps starts at
    once)."""
    seen = config.max_train_steps * config.train_batch_size
    return {"train": min(config.data.train_size, seen), "validation": config.data.validation_size}


def _simple(
    objective: Callable[[Any], Any], options: type, columns: tuple[str, ...]
) -> Callable[[TrainConfig], Built]:
    """A stage whose objective needs its options alone and whose rows are plain columns."""

    def build_it(config: TrainConfig) -> Built:
        made = objective(build(options, config.objective, "objective"))
        train, held_out = (
            Rows(avatar_rows(config.data, split, size, columns))
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


def _clip(config: TrainConfig) -> Built:
    """Learns the tokenizer from the training captions first, unless `objective.tokenizer` names one."""
    from bolid.training.features import token_ids
    from bolid.training.objectives.clip import ClipObjective, ClipOptions
    from bolid.training.tokenizer import train_tokenizer

    names = ("image", "reference", "masks", "reference_masks", *_WORDS, "caption")
    arrays = {
        split: avatar_rows(config.data, split, size, names) for split, size in split_sizes(config).items()
    }
    given = dict(config.objective)
    if "tokenizer" not in given:
        given["tokenizer"] = str(Path(config.output_dir) / "tokenizer")
        if not Path(given["tokenizer"]).is_dir():
            train_tokenizer(arrays["train"]["caption"], given["tokenizer"])
    options = build(ClipOptions, given, "objective")
    objective = ClipObjective(options, len(SCENES), len(POSE_FAMILIES), len(VIEWS))
    rows = []
    for columns in arrays.values():
        ids = token_ids(objective.tokenizer, columns.pop("caption"))
        # the padding is end tokens: what counts is all up to the first of them
        ends = ids == objective.tokenizer.eos_token_id
        mask = (np.cumsum(ends, axis=1) - ends) == 0
        rows.append(Rows(columns | {"input_ids": ids, "attention_mask": mask.astype(np.int64)}))
    return objective, rows[0], rows[1]


def _diffusion(config: TrainConfig) -> Built:
    from bolid.training.components import load_components
    from bolid.training.features import cached_features, token_ids
    from bolid.training.objectives.diffusion import DiffusionObjective, DiffusionOptions

    options = build(DiffusionOptions, config.objective, "objective")
    frozen = load_components(options.components)
    empty = torch.from_numpy(token_ids(frozen.tokenizer, [""]))[0]
    vision_dim = frozen.image_encoder.config.hidden_size
    torch.manual_seed(config.seed)
    objective = DiffusionObjective(options, frozen.vae, frozen.text_encoder, empty, vision_dim)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for split, size in split_sizes(config).items():
        key = json.dumps([split, size, dataclasses.astuple(config.data)[2:4], source_fingerprint()])
        rows.append(
            Rows(
                cached_features(
                    lambda split=split, size=size: avatar_chunks(config.data, split, size),
                    frozen,
                    key,
                    config.data.cache_dir,
                    device,
                )
            )
        )
    return objective, rows[0], rows[1]


STAGES: dict[str, Callable[[TrainConfig], Built]] = {
    "autoencoder": _autoencoder,
    "estimator": _estimator,
    "clip": _clip,
    "pose_evaluator": _pose_evaluator,
    "appearance_evaluator": _appearance_evaluator,
    "diffusion": _diffusion,
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
