"""Power of the regression test by simulation: its false alarms, and the smallest drop that it detects.

A seed's true success rate is drawn from a beta distribution around the rate of its cell (task, method) in the baseline; its successes
are binomial. The width of the beta distribution is the spread of the baseline's seeds that their episodes do not explain, estimated as
in the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from fd.errors import FdError
from fd.report.baseline import Baseline
from fd.report.csv_text import csv_text
from fd.report.regression import ALL, Strata, decide, dispersion, strata
from fd.report.rendering import render_markdown
from fd.report.table import Table
from fd.results.statistics import Floats
from fd.settings.report_settings import Regress

POWER = 0.8  # share of runs in which a drop must be detected
GROUP = 20  # runs that are counted together
LEAST = 1e-6  # least distance of rates and spreads from 0 and 1, where the beta distribution is not defined


@dataclass(frozen=True)
class Suite:
    """Cells to simulate: success rates [T, M], intraclass correlation of the seeds [T], facts of the tasks."""

    rates: Floats
    spread: Floats
    tasks: Strata


@dataclass(frozen=True)
class Alarms:
    """False alarms for a number of seeds, drawn in one way: their rate, and the share of groups of runs with more than the level allows."""

    seeds: int
    drawn: str
    rate: float
    groups: float


@dataclass(frozen=True)
class Detectable:
    """Smallest drop of one method, in whole points, on a task or on all, that is detected with probability POWER; None if none is."""

    seeds: int
    episodes: int
    task: str
    method: str
    score: float
    drop: int | None


@dataclass(frozen=True)
class Power:
    """All numbers of the page."""

    names: list[str]
    method: str
    suite: Suite
    alarms: list[Alarms]
    detectable: list[Detectable]


def suite_of(baseline: Baseline) -> Suite:
    """The cells of a baseline.

    Raises:
        FdError: a task is scored by return, or the baseline has only one seed.
    """
    shares, tasks = baseline.shares(), strata(baseline, baseline)
    if not tasks.by_success.all():
        raise FdError(
            f"tasks.{list(baseline.tasks)[int(tasks.by_success.argmin())]}: scored by return, allowed: success"
        )
    if shares.shape[-1] < 2:
        raise FdError("seeds: the baseline has one and so no spread, allowed: two or more")
    least = 1 / tasks.episodes  # dispersion of seeds that do not differ
    return Suite(shares.mean(axis=-1), (dispersion(shares, tasks) - least) / (1 - least), tasks)


def draw(suite: Suite, seeds: int, runs: int, rng: np.random.Generator, *, shared: bool = False) -> Floats:
    """Shares of successes of `runs` drawn runs, [runs, T, M, seeds].

    `shared`: a seed is equally good or bad with all methods of a task, instead of independently with each.
    """
    rates = np.clip(suite.rates, LEAST, 1 - LEAST)[..., None]
    spread = np.clip(suite.spread, LEAST, 1 - LEAST)[:, None, None]
    weight = (1 - spread) / spread
    shape = (runs, *suite.rates.shape, seeds)
    if shared:
        quantiles = rng.random((runs, len(suite.rates), 1, seeds))
        true = betaincinv(rates * weight, (1 - rates) * weight, quantiles)
    else:
        true = rng.beta(rates * weight, (1 - rates) * weight, shape)
    episodes = suite.tasks.episodes[:, None, None]
    return np.asarray(rng.binomial(episodes.astype(np.int64), true, shape) / episodes)


def simulate_power(baseline: Baseline, rule: Regress, seed: int) -> Power:
    """Power of the test against a baseline; equal arguments give equal numbers.

    Raises:
        FdError: a task is scored by return, or the baseline has only one seed.
    """
    suite, rng = suite_of(baseline), np.random.default_rng(seed)
    best = int(suite.rates.mean(axis=0).argmax())
    names = [*baseline.tasks, *([ALL] if len(baseline.tasks) > 1 else [])]
    alarms = [found for seeds in rule.seeds for found in _alarms(suite, rule, seeds, rng)]
    detectable = []
    for seeds in rule.seeds:
        for episodes in rule.episodes:
            sized = replace(suite, tasks=replace(suite.tasks, episodes=np.full(len(suite.rates), float(episodes))))
            for row, name in enumerate(names):
                score = 100 * float(suite.rates[row, best] if row < len(suite.rates) else suite.rates[:, best].mean())
                drop = _detectable(sized, rule, seeds=seeds, cell=(row, best), rng=rng)
                detectable.append(Detectable(seeds, episodes, name, baseline.methods[best], score, drop))
    return Power(list(baseline.tasks), baseline.methods[best], suite, alarms, detectable)


def _alarms(suite: Suite, rule: Regress, seeds: int, rng: np.random.Generator) -> list[Alarms]:
    """False alarms where nothing has changed."""
    wide = replace(suite, spread=np.minimum(2 * suite.spread, 0.5))
    ways = {
        "independent in every cell": (suite, False),
        "shared by all methods": (suite, True),
        "shared, twice the spread": (wide, True),
    }
    found = []
    for words, (drawn, shared) in ways.items():
        before, after = (draw(drawn, seeds, rule.simulations, rng, shared=shared) for _ in range(2))
        alarm = _alarmed(before, after, suite, rule)
        groups = alarm[: len(alarm) // GROUP * GROUP].reshape(-1, GROUP).sum(axis=1) > rule.level * GROUP
        found.append(Alarms(seeds, words, float(alarm.mean()), float(groups.mean())))
    return found


def _alarmed(before: Floats, after: Floats, suite: Suite, rule: Regress) -> NDArray[np.bool_]:
    """Whether a run has any regression, [runs]."""
    return np.asarray(decide(before, after, suite.tasks, rule)[1].any(axis=-1))


def _detectable(
    suite: Suite, rule: Regress, *, seeds: int, cell: tuple[int, int], rng: np.random.Generator
) -> int | None:
    """Smallest drop of a cell (row, method), in whole points, that raises an alarm in any row with probability POWER."""
    row, method = cell
    changed = slice(None) if row == len(suite.rates) else slice(row, row + 1)
    before = draw(suite, seeds, rule.simulations, rng)

    def seen(drop: int) -> bool:
        rates = suite.rates.copy()
        rates[changed, method] = np.maximum(rates[changed, method] - drop / 100, 0)
        after = draw(replace(suite, rates=rates), seeds, rule.simulations, rng)
        return float(_alarmed(before, after, suite, rule).mean()) >= POWER

    return _smallest(seen, int(100 * suite.rates[changed, method].max()))


def _smallest(seen: Callable[[int], bool], most: int) -> int | None:
    """Smallest whole number up to `most` that meets a condition, if all larger ones meet it too; None if `most` does not."""
    if most < 1 or not seen(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def power_csv(found: Power) -> str:
    """One row for each number of seeds and episodes and each task."""
    return csv_text((vars(row) | {"drop": _drop(row, "")} for row in found.detectable), "%.1f")


def power_page(found: Power, baseline: Baseline, rule: Regress) -> str:
    """The page as Markdown."""
    values = {"baseline": baseline, "seeds": baseline.shares().shape[2], "rule": rule, "method": found.method}
    tables = {"spreads": _spreads(found, baseline), "alarms": _alarm_table(found, rule), "drops": _drop_table(found)}
    return render_markdown("power_page.md.jinja", values | tables | {"power": POWER})


def _spreads(found: Power, baseline: Baseline) -> Table:
    deviation = "standard deviation of a seed's true rate of 50 %"
    rows = [
        [name, str(baseline.tasks[name].episodes), f"{spread:.3f}", f"{50 * np.sqrt(spread):.1f}"]
        for name, spread in zip(found.names, found.suite.spread, strict=True)
    ]
    return Table(["task", "episodes of a seed", "intraclass correlation", deviation], rows, "lr")


def _alarm_table(found: Power, rule: Regress) -> Table:
    groups = f"groups of {GROUP} runs with more than {rule.level * GROUP:g}"
    rows = [[str(row.seeds), row.drawn, f"{row.rate:.4f}", f"{row.groups:.2f}"] for row in found.alarms]
    return Table(["seeds", "drawn", f"rate in {rule.simulations} runs", groups], rows, "rlr")


def _drop_table(found: Power) -> Table:
    columns = list(dict.fromkeys((row.task, row.score) for row in found.detectable))
    heads = [f"{task} (score {score:.0f})" for task, score in columns]
    rows = dict[tuple[int, int], list[str]]()
    for row in found.detectable:
        rows.setdefault((row.seeds, row.episodes), []).append(_drop(row, "—"))
    return Table(["seeds", "episodes", *heads], [[*map(str, size), *drops] for size, drops in rows.items()], "r")


def _drop(row: Detectable, none: str) -> str:
    return none if row.drop is None else str(row.drop)
