"""Intervals and tests that span training seeds: arrays in, numbers out.

A method is trained T times and each training draws the same P pairs, K pictures each. Values come as [T, P],
already averaged over the K sampling seeds, NaN where nothing could be measured. Trainings and pairs are
crossed, and both are a sample: the variance of a mean is that of the trainings' means / T plus that of the
pairs' means / P, a little more than there is, and its degrees of freedom are Satterthwaite's (Biometrics
Bulletin 2, 1946). So an interval says what another training *and* other people would give, as wide as few
trainings make it; a bootstrap of three trainings is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from bolid.metrics import Interval, bootstrap

_NOTHING = Interval(math.nan, math.nan, math.nan, 0)


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


@dataclass(frozen=True)
class _Source:
    """What makes a mean vary: its share of the variance, and the degrees of freedom that this is known by."""

    variance: float
    freedom: int

    @staticmethod
    def of(means: np.ndarray, more: float = 0.0) -> _Source:
        """Of the mean of `means` [n]; more: so many further means like them. One alone shows no spread."""
        if len(means) < 2:
            return _Source(0.0, 0)
        return _Source(float(np.var(means, ddof=1)) * (1 / len(means) + more), len(means) - 1)


def interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of values [T, P] with its interval over trainings and pairs; T = 1: the bootstrap of the pairs.

    `count` is the number of measured values. An array without any gives NaN.
    """
    kept = _measured(values)
    if not kept.size:
        return _NOTHING
    if len(kept) == 1:
        return bootstrap(kept[0], level)
    sources = [_Source.of(np.nanmean(kept, axis)) for axis in (1, 0)]
    return _student(float(np.nanmean(kept)), sources, level, int(np.isfinite(kept).sum()))[0]


def compare(
    a: np.ndarray, b: np.ndarray, level: float = 0.95, *, same: bool = False, borrow: bool = False
) -> Test:
    """Paired test of mean a - mean b; a [T, P] and b [T', P], column i of both the same pair.

    same: row t of both is one training (drawn in two ways). Otherwise the trainings of the two are
    independent. borrow: a side trained once is a sample of trainings too, whose spread is taken to be the
    other side's; otherwise it is only itself. Pairs that one of the two never measured are left out.

    Raises:
        ValueError: the two have other numbers of pairs, or with `same` other numbers of trainings.
    """
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"paired values must have one number of pairs, got {a.shape[1]} and {b.shape[1]}")
    if same and len(a) != len(b):
        raise ValueError(f"the same trainings must be as many on both sides, got {len(a)} and {len(b)}")
    both = np.isfinite(a).any(0) & np.isfinite(b).any(0)
    a, b = a[:, both], b[:, both]
    trainings = (len(a), len(b))
    if not a.size:
        return Test(_NOTHING, math.nan, trainings)
    sources = [_Source.of(np.nanmean(a, 0) - np.nanmean(b, 0))]
    means = [_training_means(side) for side in (a, b)]
    if same:
        gaps = means[0] - means[1]
        sources.append(_Source.of(gaps[np.isfinite(gaps)]))
    else:
        for own, other in (means, means[::-1]):
            own = own[np.isfinite(own)]
            lent = borrow and np.isfinite(other).sum() == 1
            sources.append(_Source.of(own, more=1.0 if lent else 0.0))
    mean = float(np.nanmean(a) - np.nanmean(b))
    return Test(*_student(mean, sources, level, a.shape[1]), trainings)


def compare_groups(first: np.ndarray, second: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of [T, P] minus mean of [T, P'] with its interval: the same trainings, other pairs."""
    if not (np.isfinite(first).any() and np.isfinite(second).any()):
        return _NOTHING
    gaps = _training_means(first) - _training_means(second)
    sources = [_Source.of(gaps[np.isfinite(gaps)])]
    sources += [_Source.of(np.nanmean(_measured(side), 0)) for side in (first, second)]
    mean = float(np.nanmean(first) - np.nanmean(second))
    count = int(np.isfinite(first).sum() + np.isfinite(second).sum())
    return _student(mean, sources, level, count)[0]


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


def _training_means(values: np.ndarray) -> np.ndarray:
    """Means [T] of [T, P]; NaN for a training that measured nothing."""
    seen = np.isfinite(values)
    number = seen.sum(1)
    return np.where(number > 0, np.where(seen, values, 0.0).sum(1) / np.maximum(number, 1), np.nan)


def _student(mean: float, sources: Sequence[_Source], level: float, count: int) -> tuple[Interval, float]:
    """The interval of a mean that varies by these sources, and the two-sided p of its being 0."""
    sources = [source for source in sources if source.variance > 0]
    variance = sum(source.variance for source in sources)
    if not variance:
        return Interval(mean, mean, mean, count), float(mean == 0)
    freedom = variance**2 / sum(source.variance**2 / source.freedom for source in sources)
    half = math.sqrt(variance) * float(stdtrit(freedom, (1 + level) / 2))
    p = 2 * float(stdtr(freedom, -abs(mean) / math.sqrt(variance)))
    return Interval(mean, mean - half, mean + half, count), p
