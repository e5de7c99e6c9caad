"""Estimates over seeds and tasks, with their uncertainty.

The unit of replication is the seed: a seed's episodes and evaluations are averaged first, and add no degrees of
freedom. Nothing is clipped to 0..100 here: a t-interval may extend beyond that range, and only figures cut it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Mean over seeds, standard deviation (ddof = 1) and t-interval of the mean.

    All but the mean are nan for a single seed.
    """

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Aggregate:
    """Interquartile mean over tasks and seeds, its bootstrap interval (nan for a single seed), and the mean."""

    iqm: float
    low: float
    high: float
    mean: float


def summarise(values: Floats, confidence: float) -> Summary:
    """Summary of the scores of S seeds, [S]: mean -+ t_{S-1} std / sqrt(S).

    The interval assumes that seeds are independent draws from a normal distribution. If all seeds agree it has
    zero width: this describes the sample, and is no certainty.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count == 1:
        return Summary(mean, np.nan, np.nan, np.nan)
    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, 0.5 + confidence / 2)) * std / np.sqrt(count)
    return Summary(mean, std, mean - half, mean + half)


def iqm(values: Floats) -> Floats:
    """Mean of the middle half of the last axis, [..., N] -> [...]; floor(N / 4) values are dropped at each end.

    Source: Agarwal et al. 2021, arXiv 2108.13264.
    """
    cut = values.shape[-1] // 4
    middle = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    return np.asarray(middle.mean(axis=-1))


def aggregate(scores: Floats, confidence: float, *, repetitions: int, seed: int) -> Aggregate:
    """Aggregate of the scores of S seeds on T tasks, [S, T], with a stratified bootstrap's percentile interval.

    Each of the `repetitions` draws S seeds with replacement within every task on its own, so the tasks are
    fixed: the interval describes new seeds on these tasks, not new tasks. With few seeds it is too narrow,
    by about sqrt((S - 1) / S).

    Source: Agarwal et al. 2021, arXiv 2108.13264.
    """
    seeds, tasks = scores.shape
    estimate, mean = float(iqm(scores.reshape(-1))), float(scores.mean())
    if seeds == 1:
        return Aggregate(estimate, np.nan, np.nan, mean)
    drawn = np.random.default_rng(seed).integers(seeds, size=(repetitions, seeds, tasks))
    resampled = np.take_along_axis(scores[None], drawn, axis=1)  # [repetitions, S, T]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(iqm(resampled.reshape(repetitions, -1)), [tail, 100 - tail])
    return Aggregate(estimate, float(low), float(high), mean)
