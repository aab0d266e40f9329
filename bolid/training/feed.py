"""Batches, prepared one ahead of the step by a background thread."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor

from bolid.training.config import TrainConfig
from bolid.training.data import take
from bolid.training.draws import Draws, step_draws


class Feed:
    """The micro-batches of one process, in order, from step `first_step` to `config.max_train_steps`.

    Which rows come is a pure function of (seed, step, position in the global batch): `train_batch_size` x
    processes x accumulation rows a step, of which process r of R has every R-th. The thread only reads, and
    uses no random numbers, so the batches are bit for bit those of a loop without it.

    Use it as a context manager: leaving ends the thread.
    """

    def __init__(self, rows: Any, config: TrainConfig, accelerator: Any, first_step: int, objective: Any):
        self._rows, self._config = rows, config
        self._device, self._rank = accelerator.device, accelerator.process_index
        self._processes = accelerator.num_processes
        self._prepare = getattr(objective, "prepare", None)
        self._order = iter(self._micro_batches(first_step))
        # one thread of torch for it too: a second team on the same cores would slow the step down
        self._pool = ThreadPoolExecutor(1, "feed", initializer=torch.set_num_threads, initargs=(1,))
        self._ahead: Future[tuple[dict[str, Tensor], Draws]] | None = None
        self.waited = 0.0  # seconds that steps have waited for data, in all

    def __enter__(self) -> Self:
        self._start_next()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def next(self) -> tuple[dict[str, Tensor], Draws]:
        """The next micro-batch on the device, and its draws. Whatever reading it raised is raised here."""
        assert self._ahead is not None, "asked for more micro-batches than max_train_steps has"
        begun = time.perf_counter()
        batch, draws = self._ahead.result()
        self._start_next()
        batch = {name: value.to(self._device, non_blocking=True) for name, value in batch.items()}
        self.waited += time.perf_counter() - begun
        return batch, draws

    def _micro_batches(self, first_step: int) -> Iterator[tuple[int, int]]:
        for step in range(first_step, self._config.max_train_steps):
            for micro_batch in range(self._config.gradient_accumulation_steps):
                yield step, micro_batch

    def _start_next(self) -> None:
        key = next(self._order, None)
        self._ahead = None if key is None else self._pool.submit(self._read, *key)

    def _read(self, step: int, micro_batch: int) -> tuple[dict[str, Tensor], Draws]:
        config = self._config
        draws = step_draws(
            config.seed,
            step,
            config.train_batch_size,
            micro_batch=micro_batch,
            micro_batches=config.gradient_accumulation_steps,
            rank=self._rank,
            processes=self._processes,
            device=self._device,
        )
        batch = take(self._rows, draws)
        if self._prepare is not None:
            batch = self._prepare(batch)
        if self._device.type == "cuda":
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return batch, draws
