"""What a report covers: the grid of its tasks and methods, and the rules of its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fd.params import Params, ResidualPolicy, RobotData

COLOURED = 7  # methods that share a panel, each in a colour of its own


@dataclass(frozen=True)
class Task:
    """Facts of one task of the suite that its results are held against."""

    name: str
    dataset: str
    source: str  # generate, ogbench, minari or d4rl
    differs: str | None  # in what its data or simulator are others than the published ones
    steps: tuple[int, ...]  # training steps at which every method is evaluated
    episodes: int  # of one evaluation of one seed
    final_evaluations: int  # the score is the mean over the last ones

    @property
    def final_steps(self) -> tuple[int, ...]:
        """Training steps whose evaluations make the score."""
        return self.steps[-self.final_evaluations :]


@dataclass(frozen=True)
class Plan:
    """The grid of a report and its statistics; tables and figures keep the order of its tasks and methods."""

    suite: str
    tasks: tuple[Task, ...]
    methods: tuple[str, ...]
    constrained: tuple[str, ...]  # methods whose displacement has a penalty and a multiplier
    budgets: dict[tuple[str, str], float]  # mean penalty allowed, by (task, method); none where the multiplier is fixed
    ablations: tuple[str, ...]  # names of the pages of the stage `ablate`
    seeds: tuple[int, ...]
    confidence: float
    bootstrap: int
    bootstrap_seed: int

    @property
    def many(self) -> bool:
        """Whether there are more methods than colours: each then has a panel of its own in the curves and a row in tables."""
        return len(self.methods) > COLOURED

    def percent(self) -> str:
        """The confidence level as a reader wants it, `95`."""
        return f"{100 * self.confidence:g}"


def plan_of(values: Params, methods: Sequence[str]) -> Plan:
    """The plan that params.yaml asks for, of these of its methods."""
    tasks = []
    for name, task in values.tasks.items():
        settings = values.settings(name)
        every, last = settings.refine.evaluate_every, settings.refine.steps
        steps = tuple(range(every, last + 1, every))
        differs = task.data.differs if isinstance(task.data, RobotData) else None
        evaluate = settings.evaluate
        tasks.append(
            Task(
                name=name,
                dataset=task.data.dataset,
                source=task.data.source,
                differs=differs,
                steps=steps,
                episodes=evaluate.episodes,
                final_evaluations=evaluate.final_evaluations,
            )
        )
    residual = {name: train for name in methods if isinstance(train := values.method(name).train, ResidualPolicy)}
    return Plan(
        suite=values.suite,
        tasks=tuple(tasks),
        methods=tuple(methods),
        constrained=tuple(residual),
        budgets={
            (task, method): values.settings(task, method).refine.target_divergence
            for task in values.tasks
            for method, train in residual.items()
            if train.dual == "learned"
        },
        ablations=tuple(values.ablations),
        seeds=values.seeds,
        confidence=values.report.confidence,
        bootstrap=values.report.bootstrap,
        bootstrap_seed=values.report.seed,
    )
