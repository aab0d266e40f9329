"""Rows of a streaming dataset: read in order, shard by shard, never kept.

The shards of every epoch are put in an order of their own, keyed by (seed, epoch), and process r of R reads
every R-th of them; inside a shard rows are shuffled in a buffer keyed by (seed, epoch, shard). What a
process sees is so a pure function of (seed, R, r, rows consumed), and nothing has to be saved to go on: a
run that is resumed at a step skips the shards that were consumed before without reading them and reads on
inside of the next. For that the number of rows of every shard that was read to its end is kept in
`cache_dir/stream-FINGERPRINT.json`; where that file is missing (another machine) the shards are read
through once more, which is slow and ends at the same row. With fewer shards than processes every process
takes every R-th row of all shards.

Batches of two processes are not those of one: rows are keyed by process, not by place in the global batch.
References are the rows' own columns, or the picture itself, changed: other rows of a person are not at hand.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bolid.training.config import DataConfig
from bolid.training.decoding import RowError
from bolid.training.draws import Draws
from bolid.training.sources import Columns
from bolid.training.table import Skipped, decoded_row, stacked

BUFFER = 256  # undecoded rows that are shuffled among each other


class StreamRows:
    """The rows of a streaming dataset, decoded, for `data.take`.

    Args:
        dataset: streaming, pictures undecoded.
        leave_out: rows at the beginning of the dataset's first shard that are held out.
        size: rows of an epoch, as far as known: only written down, never relied upon.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Columns,
        data: DataConfig,
        fingerprint: str,
        *,
        seed: int,
        leave_out: int = 0,
        size: int = 0,
    ) -> None:
        self._dataset, self._columns, self._data = dataset, columns, data
        self._seed, self._leave_out, self._size = seed, leave_out, size
        self.fingerprint = f"stream-{fingerprint}"
        self.skipped = Skipped(data, fingerprint)
        self._counts_file = Path(data.cache_dir) / f"stream-{fingerprint}.json"
        self._counts: dict[str, int] = {}
        if self._counts_file.is_file():
            self._counts = json.loads(self._counts_file.read_text())
        self._cells: Iterator[tuple[int, dict[str, Any]]] | None = None
        self._next = -1  # position, in this process's rows, of the next one
        self._pool = ThreadPoolExecutor(
            max(1, data.workers), "decode", initializer=lambda: cv2.setNumThreads(1)
        )

    def __len__(self) -> int:
        return self._size

    @property
    def shards(self) -> int:
        """Files of the dataset, or of what else it is made."""
        return max(1, int(self._dataset.num_shards))

    def read(self, draws: Draws) -> dict[str, Any]:
        """The columns (`TableRows.read`) of a micro-batch.

        The first call after a start may be for any step: it finds its place; after that they come in order.
        """
        count = len(draws.rows)
        # this process's rows before: whole steps, and micro-batches of this one
        before = (
            draws.step * (draws.total // draws.processes)
            + (int(draws.rows[0]) - draws.rank) // draws.processes
        )
        if self._cells is None or before != self._next:
            self._cells = self._rows_from(before, draws.rank, draws.processes)
        self._next = before + count
        items = list(itertools.islice(self._cells, count))
        decoded = list(self._pool.map(lambda item: self._decode(*item), items))
        whole = [row for row in decoded if row is not None]
        if not whole:
            raise RowError(f"none of {count} rows in a row can be read; see {self.skipped.file}.")
        # in the place of a row that cannot be read stands another of its batch
        return stacked([row if row is not None else whole[at % len(whole)] for at, row in enumerate(decoded)])

    def _decode(self, number: int, cells: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return decoded_row(cells, number, self._data, lambda: None)
        except RowError as error:
            self.skipped.note(number, error)
            return None

    def _rows_from(self, position: int, rank: int, processes: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """This process's rows, epoch after epoch, from its `position`-th on."""
        apart = self.shards >= processes
        wanted = position if apart else position * processes + rank
        for epoch in itertools.count():
            order = np.random.default_rng([self._seed, epoch]).permutation(self.shards)
            seen = 0
            for shard in order[rank::processes] if apart else order:
                known = self._counts.get(str(shard))
                if known is not None and wanted >= known:
                    wanted, seen = wanted - known, seen + known
                    continue
                for number, cells in self._shuffled(int(shard), epoch):
                    seen += 1
                    if wanted:
                        wanted -= 1
                        continue
                    yield number, cells
                    wanted = 0 if apart else processes - 1
            if not seen:
                raise ValueError(
                    f"data.source={self._data.source!r} gives process {rank} of {processes} no rows; give "
                    "more rows or shards."
                )

    def _shuffled(self, shard: int, epoch: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of a shard, through a buffer in which they change places."""
        rng = np.random.default_rng([self._seed, epoch, shard])
        held: list[tuple[int, dict[str, Any]]] = []
        count = 0
        part = self._dataset.shard(num_shards=self.shards, index=shard)
        first = self._leave_out if shard == 0 else 0
        for number, row in enumerate(part.skip(first) if first else part):
            count += 1
            cells = self._columns.read(row)
            item = (number + first, cells | {"file": cells["file"] or f"of shard {shard}"})
            if len(held) < BUFFER:
                held.append(item)
                continue
            at = int(rng.integers(BUFFER))
            yield held[at]
            held[at] = item
        self._learn(shard, count)
        for at in rng.permutation(len(held)):
            yield held[at]

    def _learn(self, shard: int, count: int) -> None:
        """Keep how many rows a shard has; written whole or not at all."""
        if self._counts.get(str(shard)) == count:
            return
        if self._counts_file.is_file():  # what other processes have learned
            self._counts = json.loads(self._counts_file.read_text()) | self._counts
        self._counts[str(shard)] = count
        self._counts_file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._counts_file.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(self._counts))
        os.replace(partial, self._counts_file)
