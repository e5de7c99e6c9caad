"""Estimates against values worked out by hand, and the intervals' coverage."""

import math

import numpy as np
import pytest

from fd.results.statistics import aggregate, iqm, summarise


def test_summary_by_hand() -> None:
    # Mean 20, squared deviations 100 + 0 + 100, so std 10; t of 2 degrees of freedom at .975 is 4.30265.
    summary = summarise(np.array([10.0, 20.0, 30.0]), 0.95)
    assert (summary.mean, summary.std) == (20.0, 10.0)
    assert summary.high - 20 == pytest.approx(4.302653 * 10 / math.sqrt(3), rel=1e-6)
    assert summary.low == pytest.approx(40 - summary.high)


def test_summary_follows_the_confidence() -> None:
    # t of 1 degree of freedom at .75 is 1: the half-width is std / sqrt(2) = |a - b| / 2.
    summary = summarise(np.array([0.0, 8.0]), 0.5)
    assert (summary.low, summary.high) == (pytest.approx(0.0), pytest.approx(8.0))


def test_summary_is_not_clipped() -> None:
    summary = summarise(np.array([0.0, 100.0]), 0.95)
    assert summary.low < 0 and summary.high > 100


def test_summary_of_one_seed_has_a_mean_only() -> None:
    summary = summarise(np.array([42.0]), 0.95)
    assert summary.mean == 42.0
    assert all(math.isnan(value) for value in (summary.std, summary.low, summary.high))


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(50, 5, size=(4000, 3))
    summaries = [summarise(row, 0.9) for row in draws]
    covered = np.mean([summary.low <= 50 <= summary.high for summary in summaries])
    assert covered == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # floor(3 / 4) = 0: nothing is dropped
        ([100.0, 2.0, 4.0, 0.0], 3.0),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 100.0], 3.5),
        ([0.0, 1.0, 2.0, 3.0, 400.0], 2.0),
    ],
)
def test_iqm_by_hand(values: list[float], expected: float) -> None:
    assert iqm(np.array(values)) == pytest.approx(expected)


def test_iqm_of_rows() -> None:
    assert iqm(np.array([[0.0, 1.0, 3.0, 9.0], [4.0, 4.0, 4.0, 4.0]])).tolist() == [2.0, 4.0]


def test_aggregate_by_hand() -> None:
    total = aggregate(np.array([[0.0, 40.0], [10.0, 60.0]]), 0.95, repetitions=500, seed=0)
    # Sorted 0 10 40 60: the middle half is 10, 40. Resamples of a task stay within the task: the middle
    # half is always the higher draw of the first task and the lower one of the second.
    assert (total.iqm, total.mean) == (25.0, 27.5)
    assert (total.low, total.high) == (20.0, 35.0)  # (0 + 40) / 2 and (10 + 60) / 2, 3 draws in 16 each


def test_bootstrap_resamples_within_tasks() -> None:
    # Seeds agree within each task, so that no resample differs, however far apart the tasks are.
    total = aggregate(np.array([[0.0, 50.0, 100.0]] * 4), 0.95, repetitions=200, seed=0)
    assert (total.low, total.iqm, total.high) == (50.0, 50.0, 50.0)


def test_bootstrap_follows_its_seed() -> None:
    scores = np.random.default_rng(1).uniform(0, 100, size=(5, 4))
    first, again, other = (aggregate(scores, 0.95, repetitions=300, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert first.low < first.iqm < first.high


def test_aggregate_of_one_seed_has_no_interval() -> None:
    total = aggregate(np.array([[10.0, 30.0]]), 0.95, repetitions=100, seed=0)
    assert (total.iqm, total.mean) == (20.0, 20.0)
    assert math.isnan(total.low) and math.isnan(total.high)
