"""Intervals over training seeds: they cover, and widen with the trainings' spread; tests are paired."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bolid.intervals import compare, compare_groups, holm, interval

RNG = np.random.default_rng(0)


def trained(effect: float, trainings: int = 3, pairs: int = 100, spread: float = 0.0, seed: int = 0):
    """Values [T, P] of one true mean, with a part of each pair's own and one of each training's own."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(99).normal(0, 1, pairs)  # the pairs are the same for every method
    return effect + own + spread * rng.normal(size=(trainings, 1)) + rng.normal(0, 0.1, (trainings, pairs))


def test_one_training_is_the_bootstrap_of_its_pairs() -> None:
    values = RNG.normal(5, 1, (1, 400))
    found = interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert found == interval(values)


@pytest.mark.parametrize("spread", [0.02, 0.2, 2.0])  # of trainings, against the pairs' 1
def test_intervals_cover_the_truth_over_trainings_and_pairs(spread: float) -> None:
    hits = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        found = interval(rng.normal(0, spread, (3, 1)) + rng.normal(0, 1, 60) + rng.normal(0, 0.3, (3, 60)))
        hits += found.low < 0 < found.high
    assert 0.93 * 600 <= hits <= 0.98 * 600


def shares(spread: float, trainings: tuple[int, int], **given: bool) -> float:
    """How often two methods that do not differ are said to."""
    wrong = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        pairs = rng.normal(0, 1, 60)
        a, b = (rng.normal(0, spread, (t, 1)) + pairs + rng.normal(0, 0.3, (t, 60)) for t in trainings)
        found = compare(a, b, **given)
        assert (found.p < 0.05) == (found.ahead or found.behind)
        wrong += found.ahead or found.behind
    return wrong / 600


def test_few_trainings_are_not_taken_for_many() -> None:
    for spread in (0.02, 0.2, 2.0):
        assert shares(spread, (3, 3)) <= 0.06
    assert shares(2.0, (3, 1), borrow=True) <= 0.07
    assert shares(2.0, (3, 1)) > 0.1  # where the one training stands for itself alone


def test_one_training_drawn_in_two_ways_differs_by_what_it_does_alone() -> None:
    values, rng = trained(0.0, spread=1.0), np.random.default_rng(1)
    changed = values + 0.05 + rng.normal(0, 0.1, values.shape)
    assert compare(changed, values, same=True).ahead
    assert not compare(changed, values).ahead
    with pytest.raises(ValueError, match="as many on both sides"):
        compare(changed, values[:1], same=True)
    apart = np.full((2, 2, 4), np.nan)  # each training measured on one side alone
    apart[0, 0], apart[1, 1] = np.arange(4.0), np.arange(4.0) + 1
    assert compare(*apart, same=True).difference.mean == pytest.approx(-1)


def test_groups_of_the_same_trainings() -> None:
    values = trained(0.0, spread=1.0, pairs=200)
    values[:, 100:] += 1.0
    found = compare_groups(values[:, :100], values[:, 100:])
    assert found.low < -1 < found.high < 0
    assert found.count == 600
    assert math.isnan(compare_groups(values, np.full((3, 4), np.nan)).mean)


def test_trainings_that_disagree_widen_the_interval() -> None:
    alike, apart = interval(trained(0, spread=0)), interval(trained(0, spread=1.0))
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)


def test_what_was_not_measured_is_left_out() -> None:
    values = trained(3.0)
    values[:, 4] = np.nan
    values[1, 7] = np.nan
    assert interval(values).count == 3 * 99 - 1
    nothing = interval(np.full((2, 5), np.nan))
    assert nothing.count == 0
    assert math.isnan(nothing.mean)


def test_pairs_show_a_difference_that_their_spread_would_hide() -> None:
    found = compare(trained(0.2, seed=1), trained(0.0, seed=2))
    assert found.ahead
    assert not found.behind
    assert found.p < 0.01
    assert found.difference.mean == pytest.approx(0.2, abs=0.05)
    back = compare(trained(0.0, seed=2), trained(0.2, seed=1))
    assert back.behind
    assert back.difference.mean == pytest.approx(-found.difference.mean)


def test_a_lucky_training_is_no_difference() -> None:
    a, b = trained(0.0, spread=0.5, seed=5), trained(0.0, spread=0.5, seed=6)
    assert compare(a[:1], b[:1]).p < 0.05  # one training each: whichever drew better "wins"
    found = compare(a, b)
    assert not found.ahead
    assert not found.behind
    assert found.trainings == (3, 3)


def test_sides_may_have_other_numbers_of_trainings_but_not_of_pairs() -> None:
    assert compare(trained(1.0), trained(0.0, trainings=1)).trainings == (3, 1)
    with pytest.raises(ValueError, match="one number of pairs"):
        compare(trained(1.0), trained(0.0, pairs=5))
    assert math.isnan(compare(np.full((1, 3), np.nan), np.ones((1, 3))).p)


def test_holm_is_bonferroni_for_the_smallest_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    found = holm([0.5, math.nan, 0.001])
    assert found[0] == pytest.approx(0.5)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.002)
