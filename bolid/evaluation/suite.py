"""The rows of a suite, drawn and scored in several processes at once: each row is the work of one."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolid.evaluation.calls import DrawOptions
from bolid.evaluation.drawing import draw_row, same_pictures
from bolid.evaluation.networks import Evaluators
from bolid.evaluation.pairs import Pairs
from bolid.evaluation.provenance import load_evaluators
from bolid.evaluation.scores import Scores, score
from bolid.evaluators import Reading


@dataclass(frozen=True)
class Sources:
    """What draws and what measures; every process opens its own."""

    model: str  # folder or Hub id of a pipeline
    evaluators: str  # folder
    device: str
    dtype: str  # of the pipeline: float32, bfloat16, float16

    def open(self) -> tuple[Any, Evaluators]:
        """The pipeline, quiet, on its device, and the evaluators. Raises ValueError where one is missing."""
        from bolid.pipeline import BoLIDPipeline

        evaluators = load_evaluators(self.evaluators, self.device)
        pipe = BoLIDPipeline.from_pretrained(self.model, dtype=getattr(torch, self.dtype)).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe, evaluators


@dataclass(frozen=True)
class Suite:
    """What all rows share. reference: what the evaluators read in the references of `pairs`; folder: keeps
    the pictures, RUN/pictures/ROW/*.npy."""

    pairs: Pairs
    reference: Reading
    drawing: DrawOptions
    folder: Path

    def pictures(self, row: str, count: int, pipe: Any) -> np.ndarray:
        """uint8 [count, H, W, 3] of the first `count` pairs; drawn where they are not kept from before."""
        row = same_pictures(row, self.drawing)
        pieces = draw_row(row, pipe, self.pairs.first(count), self.drawing, self.folder / row)
        return np.concatenate([pictures for _, pictures in pieces])

    def measure(self, row: str, count: int, pipe: Any, evaluators: Evaluators) -> tuple[Scores, float | None]:
        """Scores of a row, and the seconds that a picture of it took; None where some were kept."""
        kept = self.folder / same_pictures(row, self.drawing)
        fresh, began = not kept.exists(), time.perf_counter()
        pictures = self.pictures(row, count, pipe)
        seconds = (time.perf_counter() - began) / count
        scores = score(pictures, self.pairs.first(count), evaluators, _first(self.reference, count))
        return scores, seconds if fresh else None


def measure_rows(
    rows: Sequence[tuple[str, int]], suite: Suite, sources: Sources, opened: tuple[Any, Evaluators],
    processes: int,
) -> Iterator[tuple[str, Scores, float | None]]:  # fmt: skip
    """Yield (row, scores, seconds a picture) of each (row, number of pairs), in the order they are ready.

    opened: what `sources` opens, for one process, which is this one. Several share the CPU's cores.
    """
    if processes == 1:
        for row, count in rows:
            yield row, *suite.measure(row, count, *opened)
        return
    threads = max(1, (os.cpu_count() or 1) // processes)
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(processes, context, _open, (suite, sources, threads)) as pool:
        began = {pool.submit(_measure, row, count): row for row, count in rows}
        try:
            for ready in as_completed(began):
                yield began[ready], *ready.result()
        finally:
            pool.shutdown(cancel_futures=True)


_own: list[Any] = []  # of a process of the pool: suite, pipeline, evaluators


def _open(suite: Suite, sources: Sources, threads: int) -> None:
    torch.set_num_threads(threads)
    _own[:] = [suite, *sources.open()]


def _measure(row: str, count: int) -> tuple[Scores, float | None]:
    suite, *opened = _own
    return suite.measure(row, count, *opened)


def _first(reading: Reading, count: int) -> Reading:
    """The reading of the first `count` pictures."""
    values = {each.name: getattr(reading, each.name) for each in fields(reading)}
    return replace(reading, **{name: value[:count] for name, value in values.items() if value is not None})
