"""The scope of a report: the grid of its tasks and methods, and the rules of its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fd.settings.data_settings import DATA, RobotData
from fd.settings.refine_settings import TRAIN, Refine, ResidualPolicy
from fd.settings.report_settings import Report
from fd.settings.settings_file import SettingsFile
from fd.settings.simulation_settings import Evaluate

COLOURED = 7  # methods that can share a panel, each in its own colour


@dataclass(frozen=True)
class GridTask:
    """Facts of one task of the suite, against which its results are checked."""

    name: str
    dataset: str
    source: str  # generate, ogbench, minari or d4rl
    differs: str | None  # how its data or simulator differ from the published ones
    steps: tuple[int, ...]  # training steps at which every method is evaluated
    episodes: int  # of one evaluation of one seed
    final_evaluations: int  # the score is the mean over the last ones

    @property
    def final_steps(self) -> tuple[int, ...]:
        """Training steps whose evaluations make the score."""
        return self.steps[-self.final_evaluations :]


@dataclass(frozen=True)
class Grid:
    """The grid of a report and its statistics; tables and figures keep the order of its tasks and methods."""

    suite: str
    tasks: tuple[GridTask, ...]
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
        """Whether there are more methods than colours; each method then has its own panel in the curves and its own row in tables."""
        return len(self.methods) > COLOURED

    @property
    def protocols(self) -> dict[tuple[int, tuple[int, ...]], list[str]]:
        """Names of the tasks, by the episodes and the training steps of the evaluations that make the score."""
        found: dict[tuple[int, tuple[int, ...]], list[str]] = {}
        for task in self.tasks:
            found.setdefault((task.episodes, task.final_steps), []).append(task.name)
        return found

    def percent(self) -> str:
        """The confidence level in percent, `95`."""
        return f"{100 * self.confidence:g}"


def grid_of(settings: SettingsFile, methods: Sequence[str]) -> Grid:
    """The plan of params.yaml, for these of its methods."""
    trains = {name: settings.part(TRAIN, "methods", name, "train") for name in methods}
    residual = {name: train for name, train in trains.items() if isinstance(train, ResidualPolicy)}
    report = settings.part(Report, "report")
    return Grid(
        suite=settings.suite,
        tasks=tuple(_task(settings, name) for name in settings.tasks),
        methods=tuple(methods),
        constrained=tuple(residual),
        budgets={
            (task, method): settings.section(Refine, "refine", task, method).target_divergence
            for task in settings.tasks
            for method, train in residual.items()
            if train.dual == "learned"
        },
        ablations=tuple(settings.at("ablations")),
        seeds=settings.seeds,
        confidence=report.confidence,
        bootstrap=report.bootstrap,
        bootstrap_seed=report.seed,
    )


def _task(settings: SettingsFile, name: str) -> GridTask:
    data = settings.part(DATA, "tasks", name, "data")
    refine, evaluate = settings.section(Refine, "refine", name), settings.section(Evaluate, "evaluate", name)
    return GridTask(
        name=name,
        dataset=data.dataset,
        source=data.source,
        differs=data.differs if isinstance(data, RobotData) else None,
        steps=tuple(range(refine.evaluate_every, refine.steps + 1, refine.evaluate_every)),
        episodes=evaluate.episodes,
        final_evaluations=evaluate.final_evaluations,
    )
