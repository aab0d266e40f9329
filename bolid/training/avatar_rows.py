"""Avatars as training rows: rendered once, a chunk at a time, kept in the cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bolid.avatars.dataset import render_arrays, source_fingerprint
from bolid.avatars.world import Split
from bolid.training.config import DataConfig

CHUNK = 2000
"""Rows per cached chunk: stages of different sizes share them."""


class AvatarRows:
    """Rows 0 ... size - 1 of a split of the avatar world, rendered when they are first read.

    The columns are those of `bolid.avatars.dataset.render_arrays`. One chunk is held at a time. The
    fingerprint leaves the number of rows out: a row is what its number says, so that sets of different
    sizes share features. `size`: height and width of the pictures.
    """

    def __init__(self, data: DataConfig, split: Split, size: int) -> None:
        self._data, self._rows = data, size
        self.split: Split = split
        self.size = (data.height, data.width)
        self._chunk: tuple[int, dict[str, Any]] | None = None
        key = [split, data.height, data.width, source_fingerprint()]
        self.fingerprint = "avatars-" + hashlib.sha256(repr(key).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return self._rows

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Columns of some rows, in the order asked for."""
        picked: list[dict[str, Any]] = []
        for index in indices.tolist():
            arrays, at = self._chunk_of(index), index % CHUNK
            picked.append({name: values[at] for name, values in arrays.items()})
        return {
            name: [row[name] for row in picked]
            if isinstance(picked[0][name], str)
            else np.stack([row[name] for row in picked])
            for name in picked[0]
        }

    def chunks(self) -> Iterator[dict[str, Any]]:
        """All rows, a chunk at a time."""
        for start in range(0, self._rows, CHUNK):
            yield {name: values[: self._rows - start] for name, values in self._chunk_of(start).items()}

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """The named columns of all rows; captions stay lists."""
        chunks = [{name: chunk[name] for name in names} for chunk in self.chunks()]
        return {
            name: [text for chunk in chunks for text in chunk[name]]
            if isinstance(chunks[0][name], list)
            else np.concatenate([chunk[name] for chunk in chunks])
            for name in names
        }

    def _chunk_of(self, index: int) -> dict[str, Any]:
        number = index // CHUNK
        if self._chunk is None or self._chunk[0] != number:
            arrays = render_arrays(
                self.split,
                number * CHUNK,
                min(CHUNK, self._rows),
                processes=self._data.processes,
                height=self._data.height,
                width=self._data.width,
                cache_dir=self._data.cache_dir,
            )
            self._chunk = (number, arrays)
        return self._chunk[1]
