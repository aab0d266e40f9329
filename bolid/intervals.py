"""Intervals and tests that span training seeds: arrays in, numbers out.

A method is trained T times and each training draws the same P pairs, K pictures each. Values come as [T, P],
already averaged over the K sampling seeds, NaN where nothing could be measured. Trainings and pairs are both
drawn again in the bootstrap (a crossed design: one draw of pairs for all trainings), so an interval says what
another training *and* other people would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bolid.metrics import Interval


@dataclass(frozen=True)
class Test:
    """A difference with its interval and the two-sided p of "there is none"; `trainings`: of both sides."""

    difference: Interval
    p: float
    trainings: tuple[int, int]

    @property
    def ahead(self) -> bool:
        """The whole interval lies above 0."""
        return self.difference.low > 0

    @property
    def behind(self) -> bool:
        """The whole interval lies below 0."""
        return self.difference.high < 0


def interval(values: np.ndarray, level: float = 0.95, rounds: int = 1000, seed: int = 0) -> Interval:
    """Mean of values [T, P] with its percentile interval over trainings and pairs; T = 1: over pairs alone.

    `count` is the number of measured values. An array without any gives NaN.
    """
    kept = _measured(values)
    if not kept.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    means = _means(kept, np.random.default_rng(seed), rounds)
    return _interval(float(np.nanmean(kept)), means, level, int(np.isfinite(kept).sum()))


def bootstrap_means(values: np.ndarray, rounds: int = 1000, seed: int = 0) -> np.ndarray | None:
    """Means [rounds] of trainings and pairs drawn again from [T, P]; None where nothing was measured."""
    kept = _measured(values)
    return _means(kept, np.random.default_rng(seed), rounds) if kept.size else None


def compare(a: np.ndarray, b: np.ndarray, level: float = 0.95, rounds: int = 2000, seed: int = 0) -> Test:
    """Paired test of mean a - mean b; a [T, P] and b [T', P], column i of both the same pair.

    The trainings of the two are independent and drawn apart; pairs are drawn together. Pairs that one of the
    two never measured are left out. p = twice the smaller share of bootstrap differences beyond 0, at least
    2 / (rounds + 1): with several tests under Holm, `rounds` has to be large enough for any to be small.

    Raises:
        ValueError: the two have other numbers of pairs.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"paired values must have one number of pairs, got {a.shape[1]} and {b.shape[1]}")
    both = np.isfinite(a).any(0) & np.isfinite(b).any(0)
    a, b = a[:, both], b[:, both]
    if not a.size:
        nothing = Interval(math.nan, math.nan, math.nan, 0)
        return Test(nothing, math.nan, (len(a), len(b)))
    rng = np.random.default_rng(seed)
    pairs = _drawn(rng, rounds, a.shape[1])
    gaps = _means(a, rng, rounds, pairs) - _means(b, rng, rounds, pairs)
    beyond = min((gaps <= 0).sum(), (gaps >= 0).sum())
    p = min(1.0, 2 * (beyond + 1) / (rounds + 1))
    mean = float(np.nanmean(a) - np.nanmean(b))
    return Test(_interval(mean, gaps, level, a.shape[1]), float(p), (len(a), len(b)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's p-values for several tests at once, in the given order; NaN stays NaN and does not count."""
    order = sorted((value, i) for i, value in enumerate(p) if math.isfinite(value))
    found, running = [math.nan] * len(p), 0.0
    for rank, (value, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * value))
        found[i] = running
    return found


def _measured(values: np.ndarray) -> np.ndarray:
    """Values [T, P] without the pairs and trainings that measured nothing."""
    seen = np.isfinite(values)
    return np.asarray(values, np.float64)[seen.any(1)][:, seen.any(0)]


def _means(
    values: np.ndarray, rng: np.random.Generator, rounds: int, pairs: np.ndarray | None = None
) -> np.ndarray:
    """Bootstrap means [rounds] of [T, P]: T trainings and P pairs, drawn fresh or as `pairs` [rounds, P] says
    (how often each).

    Of T trainings drawn with replacement the mean varies by (T - 1) / T too little, which for three is a
    third: each training's own deviation is first stretched by sqrt(T / (T - 1)).
    """
    trainings, count = values.shape
    if trainings > 1:
        centre = np.nanmean(values, 0)
        values = centre + (values - centre) * math.sqrt(trainings / (trainings - 1))
    pairs = _drawn(rng, rounds, count) if pairs is None else pairs
    chosen = _drawn(rng, rounds, trainings)
    seen = np.isfinite(values)
    total = ((chosen @ np.where(seen, values, 0.0)) * pairs).sum(1)
    number = ((chosen @ seen.astype(np.float64)) * pairs).sum(1)
    return total / np.where(number > 0, number, np.nan)


def _drawn(rng: np.random.Generator, rounds: int, count: int) -> np.ndarray:
    """How often each of `count` is drawn in `count` draws with replacement: [rounds, count]."""
    return rng.multinomial(count, np.full(count, 1 / count), rounds).astype(np.float64)


def _interval(mean: float, means: np.ndarray, level: float, count: int) -> Interval:
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), count)
