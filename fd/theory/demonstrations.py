"""All demonstrations with one set of learned flows."""

from __future__ import annotations

from dataclasses import dataclass

from fd.networks.mlp import StackedMLP
from fd.settings.theory_settings import Theory
from fd.theory import bandit, gap, score_error, second_order
from fd.theory.distributions import Mixture, planar
from fd.theory.fit import members_of, train_flow

SAMPLES = (8, 64, 512, 4096, 32768)  # K at which the cost of estimating F is shown
SAMPLING_DRAWS = 100
SHOWN_TIME = 0.8  # t at which it is shown


@dataclass(frozen=True)
class TheoryFindings:
    """Results of the demonstrations."""

    settings: Theory
    formulas: dict[tuple[str, str], list[float]]
    curves: list[score_error.Curve]
    cases: list[second_order.Case]
    refined: list[gap.Refined]
    sampling: dict[str, list[float]]
    outcomes: list[bandit.BanditOutcome]

    @property
    def at_common_budget(self) -> list[bandit.BanditOutcome]:
        """Outcomes of every method on the bandit, the refinements with the common budget."""
        return [outcome for outcome in self.outcomes if outcome.budget in (None, self.settings.budget)]

    @property
    def over_budgets(self) -> list[bandit.BanditOutcome]:
        """Outcomes of the refinements under a quadratic penalty with each of the budgets, for value against KL."""
        return [o for o in self.outcomes if o.method in bandit.QUADRATIC and o.budget in self.settings.budgets]


def elongated() -> Mixture:
    """The centred Gaussian with standard deviations 0.5 and 0.05, condition number 100, turned by 30 degrees."""
    return planar([(0, 0)], deviations=[(0.5, 0.05)], degrees=[30])


def run_demonstrations(settings: Theory) -> TheoryFindings:
    """Trains the flows of the Gaussian and of both bandits as one stack, then runs every demonstration."""
    targets = {"Gaussian": elongated()} | {name: layout.target for name, layout in bandit.layouts().items()}
    flow = train_flow(targets, settings.seeds, settings.flow)
    count = len(settings.seeds)
    return TheoryFindings(
        settings=settings,
        formulas=score_error.formula_errors(second_order.targets()),
        curves=[
            score_error.curve(name, target, flow, place * count, settings.seeds)
            for place, (name, target) in enumerate(targets.items())
        ],
        cases=second_order.cases(),
        refined=refinements(settings, members_of(flow, range(count))),
        sampling=gap.sampling(elongated().covariances[0], SHOWN_TIME, SAMPLES, draws=SAMPLING_DRAWS),
        outcomes=bandit.play(members_of(flow, range(count, len(targets) * count)), settings),
    )


def refinements(settings: Theory, flow: StackedMLP) -> list[gap.Refined]:
    """The trained refinements of the optimality gap, on flows of `elongated`, one per seed."""
    stacks = gap.train_gap(
        elongated(),
        flow,
        times=settings.times,
        seeds=settings.seeds,
        samples=settings.fisher_samples,
        flow_steps=settings.flow_steps,
        schedule=settings.refine,
    )
    return [run for stack in stacks for run in gap.measure(elongated(), stack)]
