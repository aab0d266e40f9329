"""The rows of the stages on latents: avatars or a dataset's, their features kept on disk or computed in the
step."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bolid.avatars.world import Split
from bolid.training.augmentation import Augment
from bolid.training.avatar_rows import AvatarRows
from bolid.training.bases import FrozenBase
from bolid.training.config import DataConfig, TrainConfig
from bolid.training.data import BatchRows, JoinedRows, batch_indices
from bolid.training.draws import Draws
from bolid.training.feature_store import FeatureRows, RawRows
from bolid.training.features import in_step, raw_tensors
from bolid.training.objectives.conditions import ConditionOptions
from bolid.training.pairs import hold_out, person_key
from bolid.training.redressed_rows import RedressedRows
from bolid.training.sources import AVATARS, Columns, fingerprint_of, open_dataset
from bolid.training.streams import StreamRows
from bolid.training.table import TableRows


def split_sizes(config: TrainConfig) -> dict[Split, int]:
    """Rows of each split of the avatars; never more training rows than the run will see (a trial of five
    steps
    starts at once)."""
    from accelerate import PartialState

    seen = config.max_train_steps * config.global_batch(PartialState().num_processes)
    return {"train": min(config.data.train_size, seen), "validation": config.data.validation_size}


class StepRows:
    """Rows whose features are computed anew whenever they are read, with other changes every epoch.

    Args:
        rows: before the networks; map-style, or a stream (training rows only).
        base: the networks, which the objective moves to its device.
        faded_share: of the rows whose appearance map has parts faded or absent (`ConditionOptions`).
    """

    def __init__(
        self,
        rows: RawRows | StreamRows,
        base: FrozenBase,
        augmentation: Augment,
        estimate: bool,
        faded_share: float = ConditionOptions.faded_share,
    ) -> None:
        self._faded_share = faded_share
        self._rows, self._base = rows, base
        self._augmentation: Augment = augmentation
        self._estimate, self.fingerprint = estimate, rows.fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, draws: Draws) -> dict[str, Tensor]:
        """The features of a step's micro-batch, on the CPU, all drawn from `draws`."""
        if isinstance(self._rows, StreamRows):
            return self._features(self._rows.read(draws), draws)
        order = batch_indices(draws.step, draws.total, len(self), draws.seed)[draws.rows]
        return self._features(self._rows.read(order), draws)

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The features of some rows, the same ones every time."""
        assert not isinstance(self._rows, StreamRows), "a stream has no order of its own"
        draws = Draws(0, 0, np.asarray(indices), len(self), torch.device("cpu"))
        features = self._features(self._rows.read(indices), draws)
        return {name: value.to(device) for name, value in features.items()}

    def _features(self, rows: dict[str, Any], draws: Draws) -> dict[str, Tensor]:
        device = self._base.device
        raw = {name: value.to(device) for name, value in raw_tensors(rows, self._base).items()}
        there = Draws(draws.seed, draws.step, draws.rows, draws.total, device)
        columns = in_step(raw, self._base, there, self._augmentation, self._estimate, self._faded_share)
        return {name: value.cpu() for name, value in columns.items()}


def person_rows(config: TrainConfig, base: FrozenBase) -> tuple[BatchRows, BatchRows]:
    """(training rows, held-out rows) with the columns of `features.condition_columns`.

    The held-out rows' features are always kept. Raises ValueError for whatever `data.*` asks in vain.
    """
    data = config.data
    if data.height % base.fold or data.width % base.fold:
        raise ValueError(
            f"data.height={data.height}, data.width={data.width}: multiples of {base.fold} are needed."
        )
    base.require("image_encoder")
    _require_redressed(data, base)
    if data.source == AVATARS:
        sizes = split_sizes(config)
        train: Any = AvatarRows(data, "train", sizes["train"])
        held_out: Any = AvatarRows(data, "validation", sizes["validation"])
    elif data.streaming:
        train, held_out = _streamed(config)
    else:
        train, held_out = _tables(data)
    # exact key-points of a reference would be more than a user's picture gives
    estimate = data.source == AVATARS
    if data.cache_features:
        kept: Any = _kept(train, base, data, estimate)
        if data.redressed_size:
            kept = JoinedRows([kept, _kept(redressed(config), base, data, estimate)])
        return kept, _kept(held_out, base, data, estimate)
    share = float(config.objective.get("faded_share", ConditionOptions.faded_share))
    return StepRows(train, base, data.augment, estimate, share), _kept(held_out, base, data, estimate)


def _require_redressed(data: DataConfig, base: FrozenBase) -> None:
    """Raises ValueError where `data.redressed_size` cannot be had."""
    if data.redressed_size and (data.source != AVATARS or not data.cache_features):
        raise ValueError(
            f"data.redressed_size={data.redressed_size}: only avatars can be drawn in other clothes, and "
            "with data.cache_features=true; leave it at 0."
        )
    if data.redressed_size and base.look.whole:
        raise ValueError(
            f"data.redressed_size={data.redressed_size}: this method sees the reference as a whole, so it "
            "would see the clothes that are not to be told; leave it at 0."
        )
    _require_so_many(data)


def _require_so_many(data: DataConfig) -> None:
    """Raises ValueError where more rows are to be drawn in other clothes than there are."""
    if not 0 <= data.redressed_size <= data.train_size:
        raise ValueError(
            f"data.redressed_size={data.redressed_size}: 0 to data.train_size={data.train_size} rows can be "
            "drawn again in other clothes."
        )


def redressed(config: TrainConfig) -> RedressedRows:
    """The first training rows, their references in other clothes.

    Raises ValueError for more than there are.
    """
    _require_so_many(config.data)
    size = min(config.data.redressed_size, split_sizes(config)["train"])
    return RedressedRows(AvatarRows(config.data, "train", size))


def _kept(rows: RawRows, base: FrozenBase, data: DataConfig, estimate: bool) -> FeatureRows:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return FeatureRows(
        rows,
        base,
        data.cache_dir,
        device,
        augmentation=data.augment,
        estimate=estimate,
        memory=data.memory,
    )


def _tables(data: DataConfig) -> tuple[TableRows, TableRows]:
    """Rows of a map-style dataset."""
    dataset = open_dataset(data, data.split)
    columns = Columns(data.column_map, dataset[0], data.source)
    people, key = _people(dataset, columns), fingerprint_of(dataset, data, data.split)
    if data.validation_split is not None:
        apart = open_dataset(data, data.validation_split)
        chosen, held = np.arange(len(dataset)), np.arange(min(data.validation_size, len(apart)))
        held_columns = Columns(data.column_map, apart[0], data.source)
        held_people = _people(apart, held_columns)[: len(held)]
        held_key = fingerprint_of(apart, data, data.validation_split)
        held_rows = TableRows(apart, held_columns, data, held, held_people, held_key)
    else:
        chosen, held = hold_out(people, data.validation_size)
        held_rows = TableRows(dataset, columns, data, held, [people[row] for row in held], key)
    if data.train_size:
        chosen = chosen[: data.train_size]
    names = [people[row] for row in chosen]
    return TableRows(dataset, columns, data, chosen, names, key, max(1, data.views)), held_rows


def table_rows(data: DataConfig) -> TableRows:
    """All rows of a map-style dataset, none held out: what an evaluation reads."""
    dataset = open_dataset(data, data.split)
    columns = Columns(data.column_map, dataset[0], data.source)
    key = fingerprint_of(dataset, data, data.split)
    return TableRows(dataset, columns, data, np.arange(len(dataset)), _people(dataset, columns), key)


def _people(dataset: Any, columns: Columns) -> list[str]:
    """A key per row of who it shows; only that column is read."""
    if "identity" not in columns.names:
        return [person_key(None, row) for row in range(len(dataset))]
    theirs = columns.names["identity"]
    column = theirs if theirs in dataset.column_names else theirs.partition(".")[0]
    inner = None if column == theirs else theirs.partition(".")[2]
    cells = dataset.select_columns([column])[column]
    return [person_key(cell if inner is None else cell[inner], row) for row, cell in enumerate(cells)]


def _streamed(config: TrainConfig) -> tuple[StreamRows, TableRows]:
    """Rows of a streaming dataset; its first rows are held out, unless there is a split for that."""
    data = config.data
    if data.cache_features:
        raise ValueError(
            "data.streaming=true reads rows once and keeps nothing: say data.cache_features=false with it, "
            "or data.streaming=false to keep the features."
        )
    dataset = open_dataset(data, data.split)
    apart = data.validation_split is not None
    source = open_dataset(data, data.validation_split or data.split)
    first = source.shard(num_shards=max(1, source.num_shards), index=0)
    held = list(itertools.islice(first, max(1, data.validation_size)))
    if not held:
        raise ValueError(f"data.source={data.source!r}, split {data.split!r} has no rows.")
    columns = Columns(data.column_map, held[0], data.source)
    key = fingerprint_of(dataset, data, data.split)
    people = [person_key(columns.read(row)["identity"], at) for at, row in enumerate(held)]
    rows = TableRows(held, columns, data, np.arange(len(held)), people, f"{key}-held-out")
    size = data.train_size or config.max_train_steps * config.train_batch_size
    stream = StreamRows(
        dataset, columns, data, key, seed=config.seed, leave_out=0 if apart else len(held), size=size
    )
    return stream, rows
