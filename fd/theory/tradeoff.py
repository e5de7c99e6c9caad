"""Value against true KL on the bandit: what displacements gain under each metric of the penalty, at equal KL and at equal gain.

Under one budget, two metrics give displacements of different value and different KL. Curves over several budgets can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fd.theory.bandit import BanditOutcome

ISOTROPIC = "deflow"
PLACES = 20  # gains, evenly spaced in logarithms, at which two curves are compared


@dataclass(frozen=True)
class TradeoffCurve:
    """One method on one layout and seed, over budgets; without displacements that fold the plane, which have no KL, or gain nothing.

    Attributes:
        kl: true KL of each displacement, nats, rising.
        gain: mean reward of its actions minus that of the base actions.
    """

    layout: str
    method: str
    seed: int
    kl: list[float]
    gain: list[float]

    def gain_at(self, kl: float) -> float | None:
        """Gain at this KL, between its neighbours on the curve by a power law; None beyond the ends of the curve."""
        return _between(kl, self.kl, self.gain)

    def kl_at(self, gain: float) -> float | None:
        """KL at this gain, likewise."""
        order = np.argsort(self.gain)
        return _between(gain, [self.gain[i] for i in order], [self.kl[i] for i in order])

    def kl_ratios(self, other: TradeoffCurve) -> list[float]:
        """KL of this curve / KL of the other, at PLACES gains that both reach; empty if there are none."""
        if not self.gain or not other.gain:
            return []
        low, high = max(min(self.gain), min(other.gain)), min(max(self.gain), max(other.gain))
        if low >= high:
            return []
        gains = np.geomspace(low, high, PLACES)[1:-1]  # the ends lie on a curve's end only up to rounding
        pairs = [(self.kl_at(gain), other.kl_at(gain)) for gain in gains.tolist()]
        return [own / its for own, its in pairs if own is not None and its is not None]


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float | None:
    if not xs or not xs[0] <= x <= xs[-1]:
        return None
    return float(np.exp(np.interp(np.log(x), np.log(xs), np.log(ys))))


def tradeoff_curves(outcomes: Iterable[BanditOutcome]) -> list[TradeoffCurve]:
    """The curves of these outcomes of refinements, in their order."""
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for outcome in outcomes:
        points = found.setdefault((outcome.layout, outcome.method, outcome.seed), [])
        if outcome.kl is not None and outcome.kl > 0 and outcome.gain > 0:
            points.append((outcome.kl, outcome.gain))
    return [
        TradeoffCurve(*names, kl=[kl for kl, _ in sorted(points)], gain=[gain for _, gain in sorted(points)])
        for names, points in found.items()
    ]
