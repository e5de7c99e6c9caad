"""The part of the report about the pretrained flows: how much a Fisher metric can gain on them, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fd.report.table import Table
from fd.report.text import interval
from fd.results.estimates import Results
from fd.results.flow_shape import CERTAIN, FlowShape, Quantiles, largest_gain
from fd.results.statistics import Summary, summarise
from fd.settings.geometry_settings import Geometry

ISOTROPIC = "deflow"  # the method with an isotropic trust region
METHODS = {  # and those that differ from it in the metric alone, by the matrix that they use
    "state": "fidec",
    "state desmoothed": "fidec-desmooth",
    "local": "fidec-local",
    "local desmoothed": "fidec-local-desmooth",
}
OWN = "within modes"  # of the policy itself: neither smoothed by the path, nor sampled, nor between modes or cut off by a limit


@dataclass(frozen=True)
class BehaviourSection:
    """Values of the template behaviour_section.md.jinja.

    `bounds`: task -> (k, largest gain) at the median and at the 90th percentile, None if no action lies within a mode.
    `gains`: task -> what a method gained. `verdicts`: the tasks whose loss was still falling at the end (True), was not
    (False), or of which this is not known (None). `floors`: the largest share of matrices with an axis at the floor.
    """

    ISOTROPIC: ClassVar = ISOTROPIC
    CERTAIN: ClassVar = CERTAIN

    shapes: Mapping[str, FlowShape]
    sample: Geometry
    bounds: dict[str, list[tuple[float, float]] | None]
    gains: dict[str, dict[str, str]]
    verdicts: dict[bool | None, list[str]]
    table: Table
    floors: float
    paired: bool  # whether there is a difference of scores with an interval


def behaviour_section(results: Results, shapes: Mapping[str, FlowShape]) -> BehaviourSection:
    """Values of the section."""
    gains = {name: {form: _gain(results, name, form) for form in METHODS} for name in shapes}
    told = {
        name: {METHODS[form]: _difference(gain) for form, gain in of_task.items() if gain}
        for name, of_task in gains.items()
    }
    bounds: dict[str, list[tuple[float, float]] | None] = {
        name: [(k, largest_gain(k)) for k in shape.spectra[OWN].condition[1:]] if OWN in shape.spectra else None
        for name, shape in shapes.items()
    }
    verdicts = {
        verdict: [name for name, shape in shapes.items() if shape.improving is verdict]
        for verdict in (True, False, None)
    }
    return BehaviourSection(
        shapes,
        next(iter(shapes.values())).sample,
        bounds,
        told,
        verdicts,
        _table(shapes, told),
        max(spectrum.floor for shape in shapes.values() for spectrum in shape.spectra.values()),
        len(results.plan.seeds) > 1 and any(told.values()),
    )


def _table(shapes: Mapping[str, FlowShape], gains: Mapping[str, Mapping[str, str]]) -> Table:
    head = ["task", "matrix", "narrowest axis", "widest axis", "k", "k by chance", "gain at most", "method"]
    rows = []
    for name, shape in shapes.items():
        for form, spectrum in shape.spectra.items():
            widths = map(_between, (spectrum.narrowest, spectrum.widest, spectrum.condition))
            method = METHODS.get(form, "")
            gain = [method, gains[name][method]] if method in gains[name] else ["", ""]
            largest = f"{largest_gain(spectrum.condition[1]):.2f}"
            rows.append([name, form, *widths, f"{spectrum.chance:.2g}", largest, *gain])
    return Table([*head, f"score minus {ISOTROPIC}"], rows, "llrrrrrlr")


def _gain(results: Results, task: str, form: str) -> Summary | None:
    """Difference of the final scores of the method that uses a matrix and the isotropic one, paired by seed; None without both.

    Where no method has the plain name of the isotropic one, the mean over all pairs whose names go on alike, as in a suite with
    several budgets (`fidec-0003`, `deflow-0003`).
    """
    scores = {method: found for (name, method), found in results.finals.items() if name == task}
    known = [ISOTROPIC] if ISOTROPIC in scores else [method for method in scores if method.startswith(ISOTROPIC)]
    endings = [method.removeprefix(ISOTROPIC) for method in known]
    pairs = [(METHODS[form] + ending, ISOTROPIC + ending) for ending in endings]
    gains = [scores[method] - scores[isotropic] for method, isotropic in pairs if method in scores]
    return summarise(np.mean(gains, axis=0), results.plan.confidence) if gains else None


def _difference(gain: Summary) -> str:
    return f"{gain.mean:+.1f} {interval(gain.low, gain.high)}".strip()


def _between(quantiles: Quantiles) -> str:
    low, middle, high = (f"{value:.2g}" if value < 100 else f"{value:.0f}" for value in quantiles)
    return f"{middle} [{low}, {high}]"
