"""The check of a whole settings file: every section, and the rules between sections."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import model_validator

from fd.errors import FdError
from fd.method.bounds import Within
from fd.method.spec import Spec
from fd.settings.data_settings import Data, Download
from fd.settings.fields import DISTINCT, Seeds, Slug, Strict
from fd.settings.geometry_settings import Geometry
from fd.settings.machine_settings import Compute
from fd.settings.messages import known, validated
from fd.settings.online_settings import Finetuning
from fd.settings.refine_settings import Refine, Train, spec_of
from fd.settings.report_settings import Ablation, Filmed, Regress, Report
from fd.settings.settings_file import SettingsFile
from fd.settings.simulation_settings import Act, Evaluate
from fd.settings.theory_settings import Theory
from fd.settings.training_settings import Network, Pretrain

SCHEDULE = ("steps", "evaluate_every", "log_every")


class Task(Strict):
    """A task: its data, its overrides of the sections of the same name, and overrides of `refine` for single methods on it."""

    data: Data
    network: dict[str, Any]
    pretrain: dict[str, Any]
    refine: dict[str, Any]
    evaluate: dict[str, Any]
    methods: dict[Slug, dict[str, Any]]

    @model_validator(mode="after")
    def _schedule(self) -> Task:
        for method, overrides in self.methods.items():
            _no_schedule(f"methods.{method}", overrides)
        return self


class Method(Strict):
    """A method: switches of training, its overrides of the section `refine`, and how its policy acts."""

    train: Train
    refine: dict[str, Any]
    act: Act

    @model_validator(mode="after")
    def _schedule(self) -> Method:
        _no_schedule("refine", self.refine)
        return self


class Online(Strict):
    """Tasks and methods to fine-tune online, and the pages that compare its start and its end: name -> tasks."""

    tasks: dict[Slug, Finetuning]
    methods: Annotated[tuple[Slug, ...], DISTINCT]
    pages: dict[Slug, Annotated[tuple[Slug, ...], Within(min_length=1)]]


class WholeFile(Strict):
    """Every section of a file."""

    suite: Slug
    seeds: Seeds
    tasks: Annotated[dict[Slug, Task], Within(min_length=1)]
    methods: Annotated[dict[Slug, Method], Within(min_length=1)]
    ablations: dict[Slug, Ablation]
    online: Online
    film: Filmed
    network: Network
    pretrain: Pretrain
    geometry: Geometry
    refine: Refine
    evaluate: Evaluate
    download: Download
    report: Report
    regress: Regress
    theory: Theory
    compute: Compute


def check_whole_file(settings: SettingsFile) -> None:
    """Check a file; FdError when it breaks a rule."""
    whole = validated(WholeFile, settings.values)
    for name, ablation in whole.ablations.items():
        for label, method in ablation.values.items():
            known(method, whole.methods, f"ablations.{name}.values.{label}")
    for name in whole.film.tasks:
        known(name, whole.tasks, "film.tasks")
    for name in whole.film.methods:
        known(name, whole.methods, "film.methods")
    for name, task in whole.tasks.items():
        settings.section(Network, "network", name)
        settings.section(Pretrain, "pretrain", name)
        refine = settings.section(Refine, "refine", name)
        evaluate = settings.section(Evaluate, "evaluate", name)
        evaluations = refine.steps // refine.evaluate_every
        if evaluations < evaluate.final_evaluations:
            raise FdError(
                f"tasks.{name}.refine: {evaluations} evaluations in {refine.steps} steps, but"
                f" evaluate.final_evaluations needs {evaluate.final_evaluations}"
            )
        for method in task.methods:
            known(method, whole.methods, f"tasks.{name}.methods")
    agents = {cell: _agent(settings, *cell) for cell in itertools.product(whole.tasks, whole.methods)}
    _check_online(settings, whole, agents)


def _no_schedule(place: str, overrides: Collection[str]) -> None:
    """ValueError when a method's overrides of the section `refine` change its schedule."""
    for key in SCHEDULE:
        if key in overrides:
            raise ValueError(f"{place}.{key}: all methods of a task share one schedule, allowed: other keys of refine")


def _agent(settings: SettingsFile, task: str, method: str) -> Spec:
    """The agent of a cell, with placeholder shapes; FdError if it cannot be trained or act as the file says."""
    spec = spec_of(settings, task, method, obs_shape=(1,), act_dim=1)
    act, bank = settings.part(Act, "methods", method, "act"), settings.section(Refine, "refine", task, method).bank
    with _at(f"methods.{method}.act."):
        spec.check_acting(act.best_of, act.refinements)
    with _at(f"tasks.{task} with methods.{method}.refine."):
        spec.check_bank(bank)
    return spec


def _check_online(settings: SettingsFile, whole: WholeFile, agents: Mapping[tuple[str, str], Spec]) -> None:
    online = whole.online
    for task in online.tasks:
        known(task, whole.tasks, "online.tasks")
    for method in online.methods:
        known(method, whole.methods, "online.methods")
    for name, tasks in online.pages.items():
        for task in tasks:
            known(task, online.tasks, f"online.pages.{name}")
    first = next(iter(whole.tasks))
    for method in online.methods:
        with _at(f"online.methods: {method!r} "):
            agents[first, method].check_exploring()
    for task, method in itertools.product(online.tasks, online.methods):
        refine, every = settings.section(Refine, "refine", task, method), online.tasks[task].evaluate_every
        if not refine.keep_state:
            raise FdError(
                f"online.tasks.{task}: fine-tuning starts from a state that refine.keep_state: false drops (allowed: true)"
            )
        if refine.steps % every:
            raise FdError(f"online.tasks.{task}.evaluate_every: {every} does not divide refine.steps: {refine.steps}")


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Within, the message of an FdError begins with a place."""
    try:
        yield
    except FdError as error:
        raise FdError(f"{place}{error}") from None
