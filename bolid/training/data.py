"""What a run reads its batches from, rows held in memory, and the order in which training sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bolid.training.draws import Draws


class BatchRows(Protocol):
    """Rows that can be read in any order: in memory, from files of features, or from a dataset."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the rows do; written beside checkpoints."""
        ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The rows at `indices` [B] as tensors on `device`."""
        ...


class Rows:
    """Columns of equal length in RAM (random reads from a memory map were slow).

    Args:
        columns: name -> array [N, ...]. uint8 arrays [N, H, W, 3] are pictures: batches hold them as float
            [B, 3, H, W] in [-1, 1]. Every other array comes out as a tensor of its own dtype (float16 as
            float32).
        fingerprint: of where the columns come from.

    Raises:
        ValueError: no rows, or columns of different lengths.
    """

    def __init__(self, columns: Mapping[str, np.ndarray], fingerprint: str = ""):
        lengths = {name: len(array) for name, array in columns.items()}
        if not lengths or len(set(lengths.values())) != 1 or not next(iter(lengths.values())):
            raise ValueError(f"training rows need columns of one length of at least 1; found {lengths}.")
        self.columns, self.fingerprint = dict(columns), fingerprint

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The rows at `indices` [B] as tensors on `device`."""
        return {name: as_tensor(array[indices]).to(device) for name, array in self.columns.items()}


class JoinedRows:
    """Rows of several sources with the same columns, one after the other."""

    def __init__(self, sources: Sequence[BatchRows]) -> None:
        self._sources = sources
        self._ends = np.cumsum([len(source) for source in sources])
        self.fingerprint = "+".join(f"{source.fingerprint}-{len(source)}" for source in sources)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The rows at `indices` [B] as tensors on `device`."""
        where = np.searchsorted(self._ends, indices, side="right")
        order = np.argsort(where, kind="stable")
        parts = []
        for number in np.unique(where):
            source = self._sources[number]
            parts.append(source.batch(indices[where == number] - self._ends[number] + len(source), device))
        back = torch.from_numpy(np.argsort(order)).to(device)
        return {name: torch.cat([part[name] for part in parts])[back] for name in parts[0]}


def as_tensor(array: np.ndarray) -> Tensor:
    """A stack of rows as a tensor: pictures uint8 [B, H, W, 3] as float [B, 3, H, W] in [-1, 1], float16 as
    float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3:
        return tensor.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)  # permute keeps it channels_last
    return tensor.float() if array.dtype == np.float16 else tensor


def take(rows: Any, draws: Draws) -> dict[str, Tensor]:
    """The micro-batch that `draws` is for, on the CPU.

    A stream gives what comes next (`bolid.training.streams`); other rows come in the order of
    `batch_indices` over the step's global batch.
    """
    if hasattr(rows, "take"):
        return rows.take(draws)
    return rows.batch(batch_indices(draws.step, draws.total, len(rows), draws.seed)[draws.rows])


def batch_indices(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """Row numbers [batch_size] of one step: every epoch is a permutation of its own, keyed by (seed, epoch).

    A pure function of its arguments, so a resumed run sees what an uninterrupted one would have seen.
    """
    positions = step * batch_size + np.arange(batch_size)
    epochs = positions // rows
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, int(epoch)]).permutation(rows)
        here = epochs == epoch
        indices[here] = order[positions[here] % rows]
    return indices
