"""The part of the report about the pretrained flows: how much a Fisher metric can gain on them, and what was gained."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fd.report.markdown import markdown_table
from fd.report.text import interval
from fd.results.estimates import Results
from fd.results.flow_shape import CERTAIN, FlowShape, Quantiles, largest_gain
from fd.results.grid import GridTask
from fd.results.statistics import Summary, summarise

ISOTROPIC = "deflow"  # the method with an isotropic trust region
METHODS = {  # and those that differ from it in the metric alone, by the matrix that they use
    "state": "fidec",
    "state desmoothed": "fidec-desmooth",
    "local": "fidec-local",
    "local desmoothed": "fidec-local-desmooth",
}
FIGURE = (
    "Above: flow-matching loss of the flows over pretraining, mean over seeds; band: two standard errors to each side. Middle:"
    " condition number of the curvature at base actions; line: median, band: 10th to 90th percentile. Below: standard"
    " deviations along the narrowest (left) and the widest axis (right) of each matrix; symbol: median, bar: 10th to 90th"
    " percentile. A policy that is equally wide along all axes has both at the same place; the dotted line is the width of the"
    " path's kernel, below which nothing smoothed can lie."
)


def behaviour_section(results: Results, shapes: Mapping[str, FlowShape]) -> list[str]:
    """Paragraphs of the page, in Markdown."""
    tasks = results.plan.tasks
    return [
        "## The behaviour before refinement",
        _introduction(next(iter(shapes.values()))),
        *("\n".join(f"- {_bound(results, task, shapes[task.name])}" for task in tasks),),
        _still_improving(tasks, shapes),
        _table(results, shapes),
        _caption(results, shapes),
        "\n".join(f"- {_modes(task.name, shapes[task.name])}" for task in tasks),
        "![Geometry and loss of the behaviour flows](behaviour.svg)",
        FIGURE,
    ]


def _introduction(shape: FlowShape) -> str:
    sample = shape.sample
    return (
        "The pretrained flow, before any policy is trained, at"
        f" {sample.states} states of the data. The condition number k of a metric is the ratio of the policy's variances along its widest and"
        " its narrowest axis. If k is 1, every Fisher metric is the isotropic one. With a linear Q and equal KL to second order, the"
        " displacement of a Fisher metric raises Q at most (k + 1) / (2 √k) times as much as that of an isotropic metric."
    )


def _bound(results: Results, task: GridTask, shape: FlowShape) -> str:
    """How much a Fisher metric can gain on a task, and what was gained."""
    form = max(METHODS, key=lambda form: shape.spectra[form].condition[1])
    k = shape.spectra[form].condition
    gains = [
        f"{METHODS[form]} minus {ISOTROPIC} = {_difference(gain)} points"
        for form in METHODS
        if (gain := _gain(results, task.name, form)) is not None
    ]
    return (
        f"**{task.name}**: a Fisher metric can gain at most a factor of {_factor(k[1])} here at the median condition number, k ="
        f" {k[1]:.3g} ({form}), and {_factor(k[2])} at its 90th percentile, {k[2]:.3g}; measured difference of score:"
        f" {', '.join(gains) or f'none, the suite does not compare {ISOTROPIC} with such a metric'}."
    )


def _still_improving(tasks: tuple[GridTask, ...], shapes: Mapping[str, FlowShape]) -> str:
    """Names the flows whose loss was still falling when pretraining ended, and those of which this is not known."""
    named = {
        verdict: [task.name for task in tasks if shapes[task.name].improving is verdict]
        for verdict in (True, False, None)
    }
    change = {name: f"{name} ({_fall(shapes[name])})" for verdict in (True, False) for name in named[verdict]}
    parts = []
    if named[True]:
        parts.append(
            f"**Still improving when pretraining ended: {', '.join(change[name] for name in named[True])}.** More"
            " `pretrain.steps` would give a better flow there."
        )
    if named[False]:
        parts.append(f"No longer improving: {', '.join(change[name] for name in named[False])}.")
    if named[None]:
        parts.append(
            f"Not told for {', '.join(named[None])}: the log of pretraining has too few rows (allowed: 4 or more)."
        )
    if named[True] or named[False]:
        parts.append(
            "In brackets: change of the loss from the third to the last quarter of pretraining and its standard error; a flow counts as"
            f" improving if its loss falls by more than {CERTAIN:g} of them."
        )
    return " ".join(parts)


def _table(results: Results, shapes: Mapping[str, FlowShape]) -> str:
    head = [
        "task",
        "matrix",
        "narrowest axis",
        "widest axis",
        "k",
        "gain at most",
        "method",
        f"score minus {ISOTROPIC}",
    ]
    rows = []
    for task in results.plan.tasks:
        for form, spectrum in shapes[task.name].spectra.items():
            gain = _gain(results, task.name, form)
            rows.append(
                [
                    task.name,
                    form,
                    _between(spectrum.narrowest),
                    _between(spectrum.widest),
                    _between(spectrum.condition),
                    _factor(spectrum.condition[1]),
                    METHODS[form] if gain else "",
                    _difference(gain) if gain else "",
                ]
            )
    return markdown_table(head, rows, "llrrrrlr")


def _caption(results: Results, shapes: Mapping[str, FlowShape]) -> str:
    first = next(iter(shapes.values()))
    sample, plan = first.sample, results.plan
    chances = [shape.isotropic for shape in shapes.values()]
    chance = " to ".join(dict.fromkeys(f"{value:.3g}" for value in (min(chances), max(chances))))
    floors = max(spectrum.floor for shape in shapes.values() for spectrum in shape.spectra.values())
    text = (
        "Axes: standard deviations in units of an action, whose range is -1 to 1; median over states, base actions and seeds, in brackets the"
        f" 10th to 90th percentile. *state*: Fisher information of a state from {sample.scores} scores at t = {sample.time:g}; chance alone"
        f" gives it a k of {chance} if the policy is isotropic, and more with the few scores of training."
        f" *local*: curvature of -log p at a base action, {sample.actions} a state. The smoothed matrices are those of the policy after the"
        f" path has added a kernel of width (1 - t) / t = {(1 - sample.time) / sample.time:.3g}; *desmoothed* undoes this."
        " Gain at most: (k + 1) / (2 √k) at the median k."
    )
    if floors > 0:
        text += f" Up to {_percent(floors)} of the matrices of a row have an axis at the floor of 0.01 of the desmoothed width."
    if len(plan.seeds) > 1 and any(_gain(results, task.name, form) for task in plan.tasks for form in METHODS):
        text += f" Score: difference of final scores, paired by seed, with its {plan.percent()} % t-interval over {len(plan.seeds)} seeds."
    return text


def _modes(name: str, shape: FlowShape) -> str:
    """Modes, saddles and loss of a task's flows."""
    known = {int(number): share for number, share in shape.modes.items() if number != "0"}
    words = [f"{number} in {_percent(share)} of the states" for number, share in sorted(known.items())]
    if "0" in shape.modes:
        words.append(f"not told in {_percent(shape.modes['0'])}")
    loss, end = shape.loss, sum(shape.loss.means[-1]) / len(shape.loss.means[-1])
    on = "validation episodes, which no training reads" if loss.unseen else "the data"
    here = f", and {sum(loss.data) / len(loss.data):.3f} on the data" if loss.unseen else ""
    return (
        f"{name}: modes of the smoothed policy: {', '.join(words)}; {_percent(shape.saddles)} of the actions lie between modes, where -log p"
        f" curves downwards. Loss after {shape.steps[-1]:,} steps: {end:.3f} ± {loss.errors[-1]:.3f} on {on}{here}."
    )


def _gain(results: Results, task: str, form: str) -> Summary | None:
    """Difference of the final scores of the method that uses a matrix and the isotropic one, paired by seed; None without both."""
    pair = [results.finals.get((task, method)) for method in (METHODS[form], ISOTROPIC)]
    return None if pair[0] is None or pair[1] is None else summarise(pair[0] - pair[1], results.plan.confidence)


def _difference(gain: Summary) -> str:
    return f"{gain.mean:+.1f} {interval(gain.low, gain.high)}".strip()


def _factor(condition: float) -> str:
    return f"{largest_gain(condition):.2f}"


def _fall(shape: FlowShape) -> str:
    fall, error = shape.loss.fall or (math.nan, math.nan)
    return f"{-100 * fall:+.2f} ± {100 * error:.2f} %"


def _between(quantiles: Quantiles) -> str:
    low, middle, high = (f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in quantiles)
    return f"{middle} [{low}, {high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
