"""Random numbers and means of one optimiser step that don't depend on how its batch is split."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers of one optimiser step, keyed by (seed, step, name, position in the global batch).

    A row of the global batch gets the same numbers whichever process and micro-batch it falls to, on every
    device: each row has a CPU generator of its own, so the cost does not grow with the number of processes.
    Different names are independent; one name asked for twice gives the same numbers twice.
    """

    seed: int
    step: int
    rows: np.ndarray  # [B] positions of this micro-batch's rows in the step's global batch
    total: int  # rows of the step's global batch, over all processes and accumulated micro-batches
    device: torch.device  # where the numbers are put
    processes: int = 1
    rank: int = 0  # of this process

    def __post_init__(self) -> None:
        assert len(self.rows) == 0 or (min(self.rows) >= 0 and max(self.rows) < self.total)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """[B, *shape] in [0, 1), float32."""
        return self._stack(shape, [torch.rand(shape, generator=g) for g in self._generators(name)])

    def normal(self, name: str, *shape: int) -> Tensor:
        """[B, *shape] of a standard normal distribution, float32."""
        return self._stack(shape, [torch.randn(shape, generator=g) for g in self._generators(name)])

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """[B, *shape] in 0 .. high - 1, int64."""
        drawn = [torch.randint(high, shape, generator=g) for g in self._generators(name)]
        return self._stack(shape, drawn, torch.int64)

    def first(self, count: int) -> Tensor:
        """Which rows of this micro-batch are among the first `count` of the global batch: int64 [k]."""
        return torch.from_numpy(np.flatnonzero(self.rows < count)).to(self.device)

    def mean_of_first(self, values: Tensor, count: int) -> Tensor:
        """The mean of values [k], one for each of `first(count)`, over all of these rows: a scalar.

        Every process and micro-batch counts its own: the shares add up to the mean. Call it as `mean`.
        Raises ValueError for a count below 1.
        """
        if count < 1:
            raise ValueError(f"a mean over the first {count} rows: at least 1 is needed.")
        whole = values.new_zeros(len(self.rows)).index_put((self.first(count),), values)
        return self.mean(whole * (self.total / min(count, self.total)))

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """sum(w * v) / sum(w) over this micro-batch of all processes: a scalar, 0 where no weight is left.

        What a process gets is its own rows' share times the number of processes, so that the average over
        processes (what DDP does to gradients, and the loop to the figures it logs) is the global mean. Every
        process must call this equally often, in one order.

        Args:
            values: of any shape, float.
            weights: broadcastable to `values`, without gradient; None weighs all alike.
        """
        weights = torch.ones_like(values) if weights is None else weights.detach().expand_as(values)
        total = weights.sum(dtype=torch.float32)
        if self.processes > 1:
            torch.distributed.all_reduce(total)
        share = (weights * values).sum() * self.processes
        return share / torch.where(total == 0, torch.ones_like(total), total)

    def _generators(self, name: str) -> list[torch.Generator]:
        """One generator a row, seeded by 63 bits of a hash: neighbours have nothing in common."""
        made = []
        for row in self.rows:
            key = f"{self.seed}/{self.step}/{int(row)}/{name}".encode()
            digest = hashlib.blake2b(key, digest_size=8).digest()
            made.append(torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1))
        return made

    def _stack(
        self, shape: tuple[int, ...], drawn: list[Tensor], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return (torch.stack(drawn) if drawn else torch.empty(0, *shape, dtype=dtype)).to(self.device)


def step_draws(
    seed: int,
    step: int,
    batch_size: int,
    *,
    micro_batch: int = 0,
    micro_batches: int = 1,
    rank: int = 0,
    processes: int = 1,
    device: torch.device | str = "cpu",
) -> Draws:
    """The draws of one micro-batch of `batch_size` rows: process r of R has the positions r, r + R, ...

    So the rows of micro-batch m, over all processes, are one stretch of the global batch, whose first k rows
    are the first k / R of every process.
    """
    own = micro_batch * batch_size + np.arange(batch_size)
    return Draws(
        seed=seed,
        step=step,
        rows=rank + processes * own,
        total=batch_size * processes * micro_batches,
        device=torch.device(device),
        processes=processes,
        rank=rank,
    )
