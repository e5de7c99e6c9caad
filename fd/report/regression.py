"""Tests whether the scores of a suite have dropped below its baseline; the unit of replication is the seed.

The variance of a seed's score is phi m (1 - m), where m is the mean of its cell (task, method): the binomial variance times a dispersion
phi, which accounts for differences between seeds. Scores by return have the variance phi. phi is estimated from the baseline only,
because the seeds of a broken run vary widely and would hide their own drop. It is estimated per task over all of its methods, but never
less than the estimate over all tasks or the phi of independent episodes. The methods of a task share seeds, data and flow, so they count
as one sample: a task has as many degrees of freedom as one method.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from fd.errors import FdError
from fd.report.baseline import Baseline
from fd.report.rendering import render_markdown
from fd.report.table import Table
from fd.results.statistics import Floats
from fd.settings.report_settings import Regress

ALL = "all tasks"  # the mean over them
TEMPLATE = "regression_page.md.jinja"


@dataclass(frozen=True)
class Strata:
    """Facts of each task, [T]: whether it is scored by success, and the episodes of a seed's score."""

    by_success: NDArray[np.bool_]
    episodes: Floats


@dataclass(frozen=True)
class VerdictRow:
    """A method on a task, or on all: scores in percent, p-value for a drop, corrected for the number of rows."""

    task: str
    method: str
    before: float
    after: float
    p: float
    identical: bool
    regression: bool


@dataclass(frozen=True)
class Verdict:
    """Rows in the order of the settings, and all other differences from the baseline."""

    suite: str
    rule: Regress
    rows: list[VerdictRow]
    warnings: list[str]

    @property
    def regressions(self) -> int:
        """How many rows are a regression."""
        return sum(row.regression for row in self.rows)


def compare_with_baseline(before: Baseline, after: Baseline, rule: Regress) -> Verdict:
    """The verdict on the scores `after` against the baseline `before`.

    Raises:
        FdError: their tasks, methods, data or devices differ, or the baseline has a single seed.
    """
    _same_cells(before, after)
    _same_data(before, after)
    if before.device != after.device:
        raise FdError(
            f"device: the baseline was trained on {before.device}, the evaluated runs on {after.device}, and their random"
            " numbers differ (allowed: the same device)"
        )
    before = _ordered(before, after)
    names = [(task, method) for task in after.tasks for method in after.methods]
    same = [_table(before, *name) == _table(after, *name) for name in names]
    if len(after.tasks) > 1:
        names += [(ALL, method) for method in after.methods]
        same += [all(same[i :: len(after.methods)]) for i in range(len(after.methods))]
    shares = before.shares(), after.shares()
    if all(same):
        p, regressed = np.ones(len(names)), np.zeros(len(names), dtype=np.bool_)
    elif shares[0].shape[-1] < 2:
        raise FdError("seeds: the baseline has one and so no spread, allowed: two or more")
    else:
        p, regressed = decide(*shares, strata(before, after), rule)
    columns = zip(names, *(100 * _means(side).reshape(-1) for side in shares), p, same, regressed, strict=True)
    rows = [
        VerdictRow(task, method, float(was), float(now), float(value), equal, bool(bad))
        for (task, method), was, now, value, equal, bad in columns
    ]
    return Verdict(after.suite, rule, rows, [*_differences(before, after)])


def decide(before: Floats, after: Floats, tasks: Strata, rule: Regress) -> tuple[Floats, NDArray[np.bool_]]:
    """Corrected p-value for a drop, and whether it is a regression, for every cell, then for every method's mean over tasks, [..., K].

    `before` [..., T, M, S] and `after` [..., T, M, S'] are shares. For a single task there are no means over tasks.
    """
    drop = _means(before) - _means(after)
    variance, degrees = _variance(before, after, tasks)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(drop == 0, 0.0, drop / np.sqrt(variance))
    flat = (*drop.shape[:-2], -1)
    p = holm(stdtr(degrees, -statistic).reshape(flat))
    drop = drop.reshape(flat)
    return p, np.asarray((p <= rule.level) & (100 * drop > rule.tolerance))


def strata(before: Baseline, after: Baseline) -> Strata:
    """Facts of the tasks of two baselines with the same tasks."""
    pairs = [(before.tasks[name], after.tasks[name]) for name in after.tasks]
    return Strata(
        np.array([one.by_success and other.by_success for one, other in pairs]),
        np.array([min(one.episodes, other.episodes) for one, other in pairs], dtype=np.float64),
    )


def dispersion(shares: Floats, tasks: Strata) -> Floats:
    """phi of every task, [..., T], from shares [..., T, M, S]."""
    squares = shares.var(axis=-1, ddof=1).sum(axis=-1)
    units = _unit(shares.mean(axis=-1), tasks).sum(axis=-1)
    alike = _alike(tasks).astype(np.float64)
    least = np.where(tasks.by_success, 1 / tasks.episodes, 0.0)
    return np.asarray(np.maximum(np.maximum(_ratio(squares, units), _ratio(squares @ alike, units @ alike)), least))


def holm(p: Floats) -> Floats:
    """p-values corrected for their number along the last axis (Holm 1979), [..., K] -> [..., K]."""
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(np.maximum.accumulate(steps, axis=-1), 1.0), axis=-1)
    return corrected


def _unit(mean: Floats, tasks: Strata) -> Floats:
    """Variance of a share for phi = 1, [..., T, M]."""
    return np.where(tasks.by_success[:, None], mean * (1 - mean), 1.0)


def _alike(tasks: Strata) -> NDArray[np.bool_]:
    """Which tasks are scored in the same way, [T, T]."""
    return np.equal.outer(tasks.by_success, tasks.by_success)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotient; 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


def _variance(before: Floats, after: Floats, tasks: Strata) -> tuple[Floats, Floats]:
    """Variance of every drop if nothing has changed, and its degrees of freedom; rows as in `_means`."""
    counts = before.shape[-1], after.shape[-1]
    pooled = np.average([before.mean(axis=-1), after.mean(axis=-1)], axis=0, weights=counts)
    cells = _unit(pooled, tasks) * dispersion(before, tasks)[..., None] * (1 / counts[0] + 1 / counts[1])
    freedom = _alike(tasks).sum(axis=1)[:, None] * np.full_like(cells, counts[0] - 1)
    if len(tasks.episodes) == 1:
        return cells, freedom
    mean = cells.mean(axis=-2, keepdims=True) / len(tasks.episodes)
    return np.concatenate([cells, mean], axis=-2), np.concatenate(
        [freedom, freedom.min(axis=-2, keepdims=True)], axis=-2
    )


def _means(shares: Floats) -> Floats:
    """Means over seeds, [..., T, M], then also over tasks if there are several, [..., T + 1, M]."""
    cells = shares.mean(axis=-1)
    return cells if cells.shape[-2] == 1 else np.concatenate([cells, cells.mean(axis=-2, keepdims=True)], axis=-2)


def _same_cells(before: Baseline, after: Baseline) -> None:
    for name, one, other in (("baseline", before, after), ("evaluations", after, before)):
        for task in other.tasks:
            if task not in one.tasks:
                raise FdError(f"tasks.{task}: missing in the {name}, allowed: the same tasks in both")
        for method in other.methods:
            if method not in one.methods:
                raise FdError(f"methods.{method}: missing in the {name}, allowed: the same methods in both")


def _same_data(before: Baseline, after: Baseline) -> None:
    for name, task in after.tasks.items():
        old = before.tasks[name]
        for array in dict.fromkeys([*task.data_sha256, *old.data_sha256]):
            now, was = (side.data_sha256.get(array, "none") for side in (task, old))
            if now != was:
                raise FdError(
                    f"tasks.{name}: the SHA-256 of the data's {array!r} is {now[:12]}…, the baseline's {was[:12]}…, allowed: the same data"
                )
        if task.by_success != old.by_success:
            raise FdError(
                f"tasks.{name}: scored by success in one and by return in the other, allowed: the same score in both"
            )


def _ordered(before: Baseline, after: Baseline) -> Baseline:
    """`before` with its tasks and methods in the order of `after`."""
    tasks = {}
    for name in after.tasks:
        methods = {method: before.tasks[name].methods[method] for method in after.methods}
        tasks[name] = before.tasks[name].model_copy(update={"methods": methods})
    return before.model_copy(update={"tasks": tasks})


def _table(side: Baseline, task: str, method: str) -> str:
    return side.tasks[task].methods[method].evaluations_sha256


def _differences(before: Baseline, after: Baseline) -> Iterator[str]:
    """One line for each version and setting that differs."""
    packages = sorted({*before.versions, *after.versions})
    for package in packages:
        was, now = (" and ".join(side.versions.get(package, ("none",))) for side in (before, after))
        if was != now:
            yield f"{package}: {was} in the baseline, {now} now"
    was_set, now_set = dict(leaves(before.settings)), dict(leaves(after.settings))
    for key in dict.fromkeys([*was_set, *now_set]):
        was, now = (repr(side.get(key, "none")) for side in (was_set, now_set))
        if was != now:
            yield f"{key}: {was} in the baseline, {now} now"


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf of nested mappings."""
    if not isinstance(value, dict):
        yield place, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{place}.{key}" if place else str(key))


def verdict_page(verdict: Verdict) -> str:
    """The verdict as Markdown, for a comment on a pull request."""
    rows = []
    for row in verdict.rows:
        change = f"{row.after - row.before:+.1f}" if not row.identical else "0"
        word = "**regression**" if row.regression else "identical" if row.identical else ""
        p = "" if row.identical else f"{row.p:.2g}"
        rows.append([row.task, row.method, f"{row.before:.1f}", f"{row.after:.1f}", change, p, word])
    table = Table(["task", "method", "baseline", "now", "change", "p", ""], rows, "llrrrrl")
    return render_markdown(TEMPLATE, {"verdict": verdict, "table": table})
