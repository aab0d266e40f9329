"""The table of stages: which objective a config names, and which rows it sees."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.avatars.dataset import render_arrays, source_fingerprint
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


def _simple(objective: Callable[[Any], Any], options: type, columns: tuple[str, ...]) -> Callable[[TrainConfig], Built]:
    """A stage whose objective needs its options alone and whose rows are plain columns."""

    def build_it(config: TrainConfig) -> Built:
        made = objective(build(options, config.objective, "objective"))
        train = avatar_rows(config.data, "train", config.data.train_size, columns)
        held_out = avatar_rows(config.data, "validation", config.data.validation_size, columns)
        return made, Rows(train), Rows(held_out)

    return build_it


def _autoencoder(config: TrainConfig) -> Built:
    from bolid.training.objectives.autoencoder import AutoencoderObjective, AutoencoderOptions

    return _simple(AutoencoderObjective, AutoencoderOptions, ("image", "masks"))(config)


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
    for split, size in (("train", config.data.train_size), ("validation", config.data.validation_size)):
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
            raise ValueError(f"init_from={str(folder)!r}: no {name!r} there; give the export folder of an earlier run.")
        loaded = type(model).from_pretrained(source, torch_dtype=torch.float32)
        try:
            model.load_state_dict(loaded.state_dict())
        except RuntimeError as error:
            raise ValueError(f"{source} is of another architecture: {str(error).splitlines()[-1].strip()}") from error
