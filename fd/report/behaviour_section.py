"""The part of the report about the pretrained flows: how much a Fisher metric can gain on them, and what was gained."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fd.report.markdown import markdown_table
from fd.report.text import interval
from fd.results.estimates import Results
from fd.results.flow_shape import CERTAIN, FlowShape, Quantiles, largest_gain
from fd.results.statistics import Summary, summarise

ISOTROPIC = "deflow"  # the method with an isotropic trust region
METHODS = {  # and those that differ from it in the metric alone, by the matrix that they use
    "state": "fidec",
    "state desmoothed": "fidec-desmooth",
    "local": "fidec-local",
    "local desmoothed": "fidec-local-desmooth",
}
OWN = "within modes"  # of the policy itself: neither smoothed by the path, nor sampled, nor between modes or cut off by a limit
FIGURE = (
    "Above: flow-matching loss of the flows over pretraining, mean over seeds; band: two standard errors of its level to each side. The"
    " fall from one flow to the next is known better, because all are measured on the same states and noise. Middle:"
    " median condition number of the curvature at base actions; band: 10th to 90th percentile within modes. Below: standard"
    " deviations along the narrowest (◂) and the widest axis (▸) of each matrix; symbol: median, bar: 10th to 90th"
    " percentile. Both symbols are at one place if the policy is equally wide along all axes. Dotted: width of the path's"
    " kernel, below which no smoothed width can lie."
)


def behaviour_section(results: Results, shapes: Mapping[str, FlowShape]) -> list[str]:
    """Paragraphs of the page, in Markdown."""
    return [
        "## The behaviour before refinement",
        _introduction(shapes),
        "\n".join(f"- {_bound(results, name, shape)}" for name, shape in shapes.items()),
        _still_improving(shapes),
        _table(results, shapes),
        _caption(results, shapes),
        "\n".join(f"- {_modes(name, shape)}" for name, shape in shapes.items()),
        "![Geometry and loss of the behaviour flows](behaviour.svg)",
        FIGURE,
    ]


def _introduction(shapes: Mapping[str, FlowShape]) -> str:
    states = next(iter(shapes.values())).sample.states
    return (
        f"The pretrained flow, before any policy is trained, at {states} states of the data. The condition number k of a metric is the"
        " ratio of the policy's variances along its widest and its narrowest axis. If k is 1, every Fisher metric is the isotropic one."
        " With a linear Q and equal KL to second order, the displacement of a Fisher metric raises Q at most (k + 1) / (2 √k) times as"
        " much as that of an isotropic metric."
    )


def _bound(results: Results, name: str, shape: FlowShape) -> str:
    """How much a Fisher metric can gain on a task, and what was gained."""
    gains = [
        f"{METHODS[form]} minus {ISOTROPIC} = {_difference(gain)} points"
        for form in METHODS
        if (gain := _gain(results, name, form)) is not None
    ]
    bound = "how much a Fisher metric can gain is not told, because no base action lies within a mode"
    if OWN in shape.spectra:
        _, median, high = shape.spectra[OWN].condition
        bound = (
            f"a Fisher metric can gain at most a factor of {_factor(median)} at the median condition number of the {_percent(shape.within)} of"
            f" the base actions that lie within modes, k = {median:.3g}, and {_factor(high)} at its 90th percentile, k = {high:.3g}"
        )
    measured = ", ".join(gains) or f"none, the suite does not compare {ISOTROPIC} with such a metric"
    return f"**{name}**: {bound}; measured difference of score: {measured}."


def _still_improving(shapes: Mapping[str, FlowShape]) -> str:
    """Names the flows whose loss was still falling when pretraining ended, and those of which this is not known."""
    still, settled, unknown = (
        [name for name, shape in shapes.items() if shape.improving is verdict] for verdict in (True, False, None)
    )
    parts = []
    if still:
        told = ", ".join(f"{name} ({_fall(shapes[name])})" for name in still)
        parts.append(
            f"**Still improving when pretraining ended: {told}.** More `pretrain.steps` would improve these flows."
        )
    if settled:
        parts.append(f"No longer improving: {', '.join(f'{name} ({_fall(shapes[name])})' for name in settled)}.")
    if unknown:
        parts.append(
            f"Not told for {', '.join(unknown)}: the log of pretraining has too few rows (allowed: 4 or more)."
        )
    if still or settled:
        parts.append(
            "In brackets: change of the loss from the third to the last quarter of pretraining and its standard error. A flow counts"
            f" as improving if its loss falls by more than {CERTAIN:g} standard errors."
        )
    return " ".join(parts)


def _table(results: Results, shapes: Mapping[str, FlowShape]) -> str:
    head = ["task", "matrix", "narrowest axis", "widest axis", "k", "k by chance", "gain at most", "method"]
    rows = []
    for name, shape in shapes.items():
        for form, spectrum in shape.spectra.items():
            gain = _gain(results, name, form)
            widths = map(_between, (spectrum.narrowest, spectrum.widest, spectrum.condition))
            told = [METHODS[form], _difference(gain)] if gain else ["", ""]
            rows.append([name, form, *widths, f"{spectrum.chance:.2g}", _factor(spectrum.condition[1]), *told])
    return markdown_table([*head, f"score minus {ISOTROPIC}"], rows, "llrrrrrlr")


def _caption(results: Results, shapes: Mapping[str, FlowShape]) -> str:
    sample, plan = next(iter(shapes.values())).sample, results.plan
    kernel = (1 - sample.time) / sample.time
    floors = max(spectrum.floor for shape in shapes.values() for spectrum in shape.spectra.values())
    text = (
        "Axes: standard deviations in units of an action, whose range is -1 to 1; median over states, base actions and seeds, in"
        f" brackets the 10th to 90th percentile. *state*: Fisher information of a state from {sample.scores} scores at t ="
        f" {sample.time:g}. Where the policy is isotropic, so many scores give it the k by chance; fewer scores, as in training, give"
        f" it a larger one. *local*: curvature of -log p at a base action, {sample.actions} per state. The path adds a kernel of width"
        f" (1 - t) / t = {kernel:.3g} to the policy; *desmoothed* undoes this. *within modes*: the same without the actions at the"
        " limits of the action range, where clipped data pile up, and without those between modes. Gain at most: (k + 1) / (2 √k) at the median k."
    )
    if floors > 0:
        text += f" Up to {_percent(floors)} of the matrices of a row have an axis at the floor of the desmoothed width, 0.01."
    if len(plan.seeds) > 1 and any(_gain(results, name, form) for name in shapes for form in METHODS):
        text += f" Score: difference of final scores, paired by seed, with its {plan.percent()} % t-interval over {len(plan.seeds)} seeds."
        if ISOTROPIC not in plan.methods:
            text += " Methods that share an ending are pairs, such as one pair per budget; the difference is the mean over the pairs."
    return text


def _modes(name: str, shape: FlowShape) -> str:
    """Modes, actions between them and loss of a task's flows."""
    counts = sorted((int(number), share) for number, share in shape.modes.items() if number != "0")
    told = [f"{number} in {_percent(share)} of the states" for number, share in counts]
    if "0" in shape.modes:
        told.append(f"not told in {_percent(shape.modes['0'])}")
    loss, end = shape.loss, sum(shape.loss.means[-1]) / len(shape.loss.means[-1])
    where = "the data"
    if loss.unseen:
        where = f"validation episodes, which no training reads, and {sum(loss.data) / len(loss.data):.3f} on the data"
    return (
        f"{name}: modes of the smoothed policy: {', '.join(told)}; {_percent(shape.bounded)} of the base actions are at the limits of"
        f" the action range, {_percent(shape.saddles)} lie between modes, where -log p curves downwards. Loss after {shape.steps[-1]:,} steps: {end:.3f} ± {loss.errors[-1]:.3f} on {where}."
    )


def _gain(results: Results, task: str, form: str) -> Summary | None:
    """Difference of the final scores of the method that uses a matrix and the isotropic one, paired by seed; None without both.

    If their names go on alike, as in a suite with several budgets (`fidec-0003`, `deflow-0003`), the mean over all such pairs.
    """
    scores = {method: found for (name, method), found in results.finals.items() if name == task}
    endings = [method.removeprefix(ISOTROPIC) for method in scores if method.startswith(ISOTROPIC)]
    pairs = [(METHODS.get(form, "") + ending, ISOTROPIC + ending) for ending in endings]
    gains = [scores[method] - scores[isotropic] for method, isotropic in pairs if method in scores]
    return summarise(np.mean(gains, axis=0), results.plan.confidence) if gains else None


def _difference(gain: Summary) -> str:
    return f"{gain.mean:+.1f} {interval(gain.low, gain.high)}".strip()


def _factor(condition: float) -> str:
    return f"{largest_gain(condition):.2f}"


def _fall(shape: FlowShape) -> str:
    fall, error = shape.loss.fall or (math.nan, math.nan)
    return f"{-100 * fall:+.2f} ± {100 * error:.2f} %"


def _between(quantiles: Quantiles) -> str:
    low, middle, high = (f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in quantiles)
    return f"{middle} [{low}, {high}]"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.005 else "under 1 %"
