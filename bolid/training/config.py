"""The schema of a training run: dataclasses, read from YAML and `a.b=c` overrides; unknown keys are
errors."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bolid.training.precision import Precision

Tracker = Literal["none", "tensorboard", "wandb"]


@dataclass(frozen=True)
class DataConfig:
    """Which rows are trained on. Avatars are rendered once and kept in `cache_dir`.

    What `source` may be and what a dataset's rows must hold: `bolid.training.sources`.
    """

    source: str = "avatars"  # or a dataset: Hub id, parquet, webdataset tars, pictures, a saved dataset
    split: str = "train"  # of the dataset; slices as train[:90%] work
    validation_split: str | None = None  # of the dataset; None holds rows of `split` out
    column_map: dict[str, str] = field(default_factory=dict)  # our column names -> the dataset's
    streaming: bool = False  # read the dataset in order, shard by shard, without keeping it
    on_error: Literal["raise", "skip"] = "raise"  # a row that can't be read stops the run, or is listed
    workers: int = 4  # threads that read and decode pictures
    views: int = 1  # versions of every row, each with its own reference and changes
    augment: Literal["none", "own", "all"] = "own"  # whose references change: bolid.training.augmentation
    cache_features: bool = True  # keep what frozen networks say on disk; false: compute it in the step
    memory: float = 8.0  # GB up to which cached features are held in RAM
    train_size: int = 24_000  # rows of the training split at most; 0: all of a dataset's
    redressed_size: int = 0  # the first training rows once more, their references in other clothes (avatars)
    validation_size: int = 512  # rows of the validation split, for figures and grids
    height: int = 192  # px, a multiple of 8
    width: int = 128  # px, a multiple of 8
    cache_dir: str = "runs/cache"  # where rendered rows and computed features are kept
    processes: int = 2  # rendering processes


@dataclass(frozen=True)
class TrainConfig:
    """One stage of training. `objective` holds the options of the stage's objective, checked by it."""

    stage: str = "autoencoder"  # which objective: see bolid.training.stages.STAGES
    output_dir: str = "runs/out"  # checkpoints, logs and the exported model go here
    data: DataConfig = field(default_factory=DataConfig)
    objective: dict[str, Any] = field(default_factory=dict)  # options of the objective's own dataclass
    seed: int = 0  # seeds weights, data order and noise
    max_train_steps: int = 1000  # optimiser steps
    train_batch_size: int = 32  # rows a process puts through at once (before accumulation)
    gradient_accumulation_steps: int = 1  # micro-batches whose gradients make one optimiser step
    gradient_checkpointing: bool = False  # recompute activations in the backward pass: slower, less memory
    shard_base: bool = False  # split the frozen UNet's weights over the processes (FSDP): less memory, slower
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: fewer steps to the same loss (bolid.training.muon)
    learning_rate: float = 1e-3  # peak
    lr_scheduler: str = "cosine"  # a name of diffusers.optimization.get_scheduler
    lr_warmup_steps: int = 200  # steps of linear warm-up
    adam_beta1: float = 0.9  # decay of the mean of gradients
    adam_beta2: float = 0.99  # decay of the mean of their squares
    adam_weight_decay: float = 0.01  # decoupled
    adam_epsilon: float = 1e-8  # added to the root of the mean square
    max_grad_norm: float = 1.0  # clipping by total norm; 0 turns it off
    ema_decay: float = 0.999  # of the exported weights; 0 turns the average off
    mixed_precision: Precision = "auto"  # autocast dtype of the forward pass; auto: bf16 where it is native
    checkpointing_steps: int = 500  # steps between checkpoints
    checkpoints_total_limit: int = 2  # older ones are removed; 0 keeps all
    validation_steps: int = 500  # steps between held-out figures; 0: only at the end
    resume_from_checkpoint: str | None = None  # "latest" or a checkpoint's folder
    init_from: str | None = None  # folder of an exported run to start from (weights only, fresh optimiser)
    max_train_minutes: float = 0.0  # stop (with a checkpoint) after so many minutes; 0: no limit
    logging_steps: int = 20  # steps between records of means in log.jsonl and the tracker
    report_to: Tracker = "none"  # losses, speed, figures and grids also go there
    push_to_hub: bool = False  # upload the export when training is done
    hub_model_id: str | None = None  # "user/name" or "name"; None: the name of output_dir
    hub_private_repo: bool = True  # of a repository that the upload makes; people's pictures train it

    def global_batch(self, processes: int) -> int:
        """Rows of one optimiser step, over all processes and accumulated micro-batches."""
        return self.train_batch_size * processes * self.gradient_accumulation_steps


def _convert(value: Any, annotation: Any, name: str) -> Any:
    """Convert a YAML or command-line value to the declared type, or say what is wrong with it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if value is None or value in ("null", "none"):
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), name)
    if origin is Literal:
        value = "no" if value is False else value  # YAML reads a bare `no` as false
        if value not in arguments:
            raise ValueError(f"{name}={value!r}: one of {', '.join(map(repr, arguments))} is needed.")
        return value
    if origin is tuple:
        values = yaml.safe_load(value) if isinstance(value, str) else value
        return tuple(_convert(v, arguments[0], name) for v in values)
    if dataclasses.is_dataclass(annotation):
        return build(typing.cast(type, annotation), value or {}, name)
    if origin is dict or annotation is dict:
        return dict(value or {})
    if annotation is bool and isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name}={value!r}: true or false is needed.")
        return value.lower() == "true"
    try:
        if annotation is int and isinstance(value, (str, float)) and float(value) == int(float(value)):
            return int(float(value))  # PyYAML reads 1e-4 and 1e5 as strings
        return annotation(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={value!r}: a value of type {annotation.__name__} is needed.") from error


def build(schema: type, values: dict[str, Any], name: str = "") -> Any:
    """An instance of the dataclass `schema` from plain values.

    Raises:
        ValueError: an unknown key (the known ones are listed) or a value of the wrong type.
    """
    hints = typing.get_type_hints(schema)
    known = [f.name for f in dataclasses.fields(schema)]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            where = f" in {name}" if name else ""
            raise ValueError(f"unknown key {key!r}{where}.{hint} Known keys: {', '.join(known)}.")
    prefix = f"{name}." if name else ""
    return schema(**{key: _convert(value, hints[key], prefix + key) for key, value in values.items()})


def _override(values: dict[str, Any], assignment: str) -> None:
    key, separator, value = assignment.partition("=")
    if not separator:
        raise ValueError(f"override {assignment!r}: the form is a.b=c, for example objective.text_drop=0.1")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = yaml.safe_load(value) if value else None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file, apply `a.b=c` overrides, check every key and type.

    Raises:
        ValueError: the file is missing or no mapping, or a key or value is wrong.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"config {str(path)!r} is not a file; the shipped ones are in train/configs/.")
    values = yaml.safe_load(file.read_text()) or {}
    if not isinstance(values, dict):
        raise ValueError(f"config {str(path)!r} holds {type(values).__name__}, a mapping of keys is needed.")
    for assignment in overrides:
        _override(values, assignment)
    return build(TrainConfig, values)


def dump_config(config: TrainConfig) -> str:
    """The resolved config as YAML, as it is saved beside every checkpoint."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
