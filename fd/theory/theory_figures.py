"""The figures of the demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fd.report.style import COLOURS, DARK, WIDTH
from fd.theory import bandit, gap, score_error, second_order
from fd.theory.bandit import BanditLayout, BanditOutcome
from fd.theory.demonstrations import elongated
from fd.theory.gap import Refined

GREY, GREEN, BLUE, RED, PINK = COLOURS[:5]
FORMS: dict[str, dict[str, Any]] = {
    "identity": {"color": GREY, "marker": "o"},
    "state": {"color": BLUE, "marker": "s"},
    "score": {"color": RED, "marker": "^"},
    "curvature": {"color": PINK, "marker": "v"},
    "stein": {"color": GREEN, "marker": "D"},
}
METRICS: dict[str, dict[str, Any]] = {
    "identity": {"color": GREY, "marker": "o"},
    "state": {"color": BLUE, "marker": "s"},
    "desmooth": {"color": RED, "marker": "D"},
}
DASHED: dict[str, Any] = {"markerfacecolor": "white", "linestyle": (0, (4, 1.5)), "markersize": 3.5}
REFINEMENTS: dict[str, dict[str, Any]] = {  # markers of curves that coincide stay visible one inside the other
    "deflow": {"color": GREY, "marker": "o", "markersize": 6.5, "linewidth": 2.4, "alpha": 0.6},
    "fidec": {"color": BLUE, "marker": "s", "markersize": 4.5},
    "fidec-desmooth": {"color": BLUE, "marker": "s", **DASHED},
    "fidec-local": {"color": RED, "marker": "D", "markersize": 4},
    "fidec-local-desmooth": {"color": RED, "marker": "D", **DASHED},
}
TICKS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # labels of an axis of KL
MARKED = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)  # labels of the axis of t
DOTS = 800  # actions drawn of one policy


def score_errors(curves: Sequence[score_error.Curve]) -> Figure:
    """Error of the learned score against t and its two parts, one panel per target."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    left = 1 - np.array(score_error.TIMES)
    for panel, curve in zip(panels, curves, strict=True):
        panel.plot(left, curve.smoothing, color=BLUE, linestyle=(0, (4, 1.5)))
        for values, colour, dashes in ((curve.noise, RED, (0, (1, 1))), (curve.total, DARK, "-")):
            panel.fill_between(left, np.min(values, axis=0), np.max(values, axis=0), color=colour, alpha=0.2, lw=0)
            panel.plot(left, np.mean(values, axis=0), color=colour, linestyle=dashes)
        panel.plot(1 - curve.best, np.mean(curve.total, axis=0).min(), "v", color=DARK, markersize=5)
        panel.set(title=f"{curve.target}: least at t = {curve.best:g}", xlabel="time t at which the score is read")
        panel.set(xscale="log", xlim=(0.75, 0.0045), yscale="log", ylim=(3e-3, 10))
        panel.set_xticks([1 - t for t in MARKED], [f"{t:g}" for t in MARKED])
        panel.set_xticks([], minor=True)
    panels[0].set_ylabel("relative RMS error of the score")
    lines = [
        Line2D([], [], color=DARK, label="learned score against that of the policy"),
        Line2D([], [], color=BLUE, linestyle=(0, (4, 1.5)), label="smoothing (exact velocity)"),
        Line2D([], [], color=RED, linestyle=(0, (1, 1)), label="error of the learned velocity"),
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=3)
    return figure


def orders(cases: Sequence[second_order.Case]) -> Figure:
    """|KL - form| against the root mean square of the displacement, one row per target and one column per field."""
    names = [list(dict.fromkeys(getattr(case, kind) for case in cases)) for kind in ("target", "field")]
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(len(names[0]), len(names[1]), sharex=True, sharey=True, squeeze=False)
    for case in cases:
        panel = panels[names[0].index(case.target), names[1].index(case.field)]
        for form, look in FORMS.items():
            if case.slope(form) is not None:
                panel.plot(case.lengths, case.errors(form), **look, markersize=3.2, markeredgewidth=0)
        exact = [form for form in FORMS if case.slope(form) is None]
        if exact:
            panel.text(0.04, 0.97, fill("exact: " + ", ".join(exact), 21), transform=panel.transAxes, va="top")
        panel.set(xscale="log", yscale="log")
        panel.set_title(f"{case.target}, {case.field} field")
    for panel in panels[-1]:
        panel.set_xlabel("RMS displacement |δ|")
    for panel in panels[:, 0]:
        panel.set_ylabel("|KL - form| (nats)")
    for panel in panels.flat:
        _guides(panel)
    lines = [Line2D([], [], **look, markersize=4, markeredgewidth=0, label=form) for form, look in FORMS.items()]
    guides = [
        Line2D([], [], color="#999999", linewidth=0.8, linestyle="--", label="slope 2"),
        Line2D([], [], color="#999999", linewidth=0.8, linestyle=":", label="slope 3"),
    ]
    figure.legend(handles=[*lines, *guides], loc="outside upper center", ncols=7)
    return figure


def _guides(panel: Axes) -> None:
    """Reference lines of slope 2 and 3 that meet at their right ends, below the curves."""
    x = np.array([0.004, 0.03])
    for order, dashes in ((2, "--"), (3, ":")):
        panel.plot(x, 3e-7 * (x / x[-1]) ** order, color="#999999", linewidth=0.8, linestyle=dashes)


def optimality_gap(refined: Sequence[Refined]) -> Figure:
    """Value at equal KL, as a share of the optimum, against t: closed forms as lines, trained runs as points."""
    figure = Figure(figsize=(4.6, 2.9), layout="constrained")
    panel = figure.subplots()
    sigma = elongated().covariances[0]
    times = np.linspace(0.45, 0.995, 110)
    theory = {
        "identity": [gap.worst_share(sigma, None)] * len(times),
        "state": [gap.worst_share(sigma, float(t)) for t in times],
        "desmooth": [1.0] * len(times),
    }
    for metric, look in METRICS.items():
        panel.plot(times, theory[metric], color=look["color"], linewidth=1.2)
        runs = [run for run in refined if run.metric == metric]
        informed = sorted({run.t for run in runs if run.t is not None})
        place = {t: t for t in informed} | {None: 0.46}
        spots = [place[run.t] for run in runs]
        panel.plot(
            spots, [run.share for run in runs], linestyle="", **look, markersize=4, markeredgewidth=0, alpha=0.75
        )
    panel.set(xlabel="time t at which the score is read", ylabel="value / optimum at equal KL", ylim=(0, 1.05))
    panel.set_xlim(0.44, 1.0)
    labels = {"identity": "isotropic (deflow); no t", "state": "state (fidec)", "desmooth": "state, desmoothed"}
    lines = [
        Line2D([], [], **look, markersize=4, markeredgewidth=0, label=labels[metric])
        for metric, look in METRICS.items()
    ]
    figure.legend(handles=lines, loc="outside upper center", ncols=3)
    return figure


def bandits(outcomes: Sequence[BanditOutcome]) -> Figure:
    """Actions of the first seed of every method (columns) on both layouts (rows), over density and value."""
    plan = bandit.layouts()
    seed = outcomes[0].seed
    figure = Figure(figsize=(1.25 * WIDTH, 2.9), dpi=150, layout="constrained")
    panels = figure.subplots(len(plan), len(bandit.METHODS), sharex=True, sharey=True)
    for outcome in outcomes:
        if outcome.seed == seed:
            row, column = list(plan).index(outcome.layout), bandit.METHODS.index(outcome.method)
            panel = panels[row, column]
            _scene(panel, plan[outcome.layout])
            x, y = outcome.actions[:DOTS].T.numpy()
            panel.plot(x, y, ".", color=RED, markersize=2, markeredgewidth=0, alpha=0.6, rasterized=True)
            if row == 0:
                panel.set_title(outcome.method.replace("-", "-\n"))
            if column == 0:
                panel.set_ylabel(f"{outcome.layout}\naction 2")
    for panel in panels[-1]:
        panel.set_xlabel("action 1")
    return figure


def _scene(panel: Axes, layout: BanditLayout) -> None:
    """Density of the behaviour as shading, reward as contours, its peak as a cross."""
    ticks = torch.linspace(-1, 1, 81, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)
    density = layout.target.log_density(points).exp().numpy()
    panel.imshow(density, origin="lower", extent=(-1, 1, -1, 1), cmap="Blues", interpolation="none")
    panel.contour(ticks, ticks, layout.value(points), levels=np.arange(0.1, 1, 0.2), colors="#666666", linewidths=0.5)
    panel.plot(*layout.peak, "+", color=DARK, markersize=6)
    panel.set(aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1), xlim=(-1, 1), ylim=(-1, 1))
    panel.grid(False)


def tradeoff(outcomes: Sequence[BanditOutcome]) -> Figure:
    """Gain in value against true KL: seeds as points, and curves of their means over budgets; one panel per layout."""
    plan = bandit.layouts()
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    panels = figure.subplots(1, len(plan), sharex=True, sharey=True)
    for panel, layout in zip(panels, plan, strict=True):
        for method, look in REFINEMENTS.items():
            runs = [o for o in outcomes if (o.layout, o.method) == (layout, method)]
            _budget_curve(panel, [(o.budget, o.kl, o.gain) for o in runs if o.kl is not None and o.kl > 0], look)
        panel.set(title=f"{layout} modes", xlabel="true KL (nats)", xscale="log")
    low, high = panels[0].get_xlim()
    ticks = [kl for kl in TICKS if low < kl < high]
    panels[0].set_xticks(ticks, [f"{kl:g}" for kl in ticks])
    panels[0].set_ylabel("gain in value over the behaviour")
    lines = [
        Line2D([], [], **{"linewidth": 1.1} | look, label=f"{bandit.metric_name(method)} ({method})")
        for method, look in REFINEMENTS.items()
    ]
    lines.insert(1, Line2D([], [], linestyle="", label=" "))  # the legend fills its columns from top to bottom
    figure.legend(handles=lines, loc="outside upper center", ncols=3, columnspacing=1.2)
    return figure


def _budget_curve(panel: Axes, points: Sequence[tuple[float | None, float, float]], look: dict[str, Any]) -> None:
    """Points (budget, KL, gain) of all seeds, and a curve through the means at each budget."""
    table = np.array([(budget, np.log(kl), gain) for budget, kl, gain in points]).reshape(-1, 3)
    middle = np.array([table[table[:, 0] == budget, 1:].mean(axis=0) for budget in np.unique(table[:, 0])]).reshape(
        -1, 2
    )
    panel.plot(np.exp(middle[:, 0]), middle[:, 1], **{"linewidth": 1.1} | look | {"marker": ""})
    panel.plot(np.exp(table[:, 1]), table[:, 2], **look | {"linestyle": ""}, markeredgewidth=0.8)
