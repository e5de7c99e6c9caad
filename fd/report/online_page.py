"""Online fine-tuning: scores at its start and at its end, as a page, a CSV table and a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from fd.reference.published import REGENERATED, SCORE_COLUMNS
from fd.reference.tasks import BenchmarkTask, benchmark, find_task, read_table
from fd.report.csv_text import csv_text
from fd.report.figures import STEP, appearance, cut
from fd.report.rendering import render_block, render_markdown
from fd.report.style import DARK, WIDTH, style, svg
from fd.report.table import Table
from fd.report.text import interval, plus_minus
from fd.report.web_page import render_web_page
from fd.results import grid as plans
from fd.results.episode_scores import EvaluatedCell, read_episodes
from fd.results.grid import Grid, grid_of
from fd.results.origins import Record, merged, mixed, one_device, read_stage_record
from fd.results.statistics import Floats, Summary, summarise
from fd.settings.online_settings import Finetuning
from fd.settings.settings_file import SettingsFile

PROTOCOLS = {"o2o_start_1M": 1_000_000, "o2o_end_2M": 2_000_000}  # in scores.csv: steps at start and end
PER_ROW = 3  # panels
MEAN = "mean over tasks"
TEMPLATE = "online_page.md.jinja"


@dataclass(frozen=True)
class Going:
    """Fine-tuning of a task: its steps offline and in all, and the evaluated steps of the online part."""

    task: plans.GridTask
    start: int
    end: int
    steps: tuple[int, ...]  # evaluated online


@dataclass(frozen=True)
class Published:
    """A published pair of scores of a task, as printed."""

    method: str
    start: str
    end: str
    source: str


@dataclass(frozen=True)
class OnlineFindings:
    """Results of a page: scores by (task, method), [S, T] over the steps evaluated offline and online; published scores and
    the reasons why they are not comparable.
    """

    name: str
    plan: Grid
    goings: tuple[Going, ...]
    methods: tuple[str, ...]
    curves: dict[tuple[str, str], Floats]
    published: dict[str, tuple[Published, ...]]
    reasons: dict[str, str]
    versions: dict[str, list[str]]

    def ends(self, going: Going, method: str) -> tuple[Floats, Floats]:
        """Scores of every seed at the start and at the end, [S] each."""
        curve = self.curves[going.task.name, method]
        return curve[:, len(going.task.steps) - 1], curve[:, -1]

    def means(self, method: str) -> tuple[Floats, Floats]:
        """The same for the mean over the tasks of the page."""
        starts, ends = zip(*(self.ends(going, method) for going in self.goings), strict=True)
        return np.asarray(np.mean(starts, axis=0)), np.asarray(np.mean(ends, axis=0))


@dataclass(frozen=True)
class EvaluatedRuns:
    """Folders of runs and of their evaluations."""

    runs: Path
    evals: Path


def gather_online(
    values: SettingsFile, name: str, *, start: EvaluatedRuns, end: EvaluatedRuns, reference: Path
) -> OnlineFindings:
    """Results of a page of params.yaml.

    Args:
        values: the settings.
        name: name of the page.
        start, end: the offline runs and the fine-tuned runs.
        reference: folder of the published scores.

    Raises:
        FdError: there is no such page; a file, seed, evaluation or episode is missing; start and end were trained on
            different data or devices; or the evaluated weights are not those of the run.
    """
    page, methods = values.at("online", "pages", name), tuple(values.at("online", "methods"))
    plan = grid_of(values, values.methods)
    tasks = {task.name: task for task in plan.tasks}
    goings = tuple(_going(values, tasks[task]) for task in page)
    curves, records, runs = {}, list[Record](), dict[Path, Record]()
    for going in goings:
        task = going.task
        for method in methods:
            file, wanted = Path(task.name, f"{method}.json"), {"task": task.name, "method": method}
            for part in (start, end):
                trained = runs[part.runs / file] = read_stage_record(part.runs / file, wanted)
                wanted["data_sha256"] = trained.data_sha256
                records.append(read_stage_record(part.evals / file, wanted | {"weights": trained.weights()}))
            parts = [
                read_episodes(folder, EvaluatedCell(task.name, method, plan.seeds, steps, task.episodes)).curve()
                for folder, steps in ((start.evals, task.steps), (end.evals, going.steps))
            ]
            curves[task.name, method] = np.concatenate(parts, axis=1)
    one_device(runs)
    printed, known = _printed(reference), benchmark(reference)
    published = {going.task.name: _pairs(printed, known, going) for going in goings}
    reasons = {going.task.name: _reason(going) for going in goings}
    versions = merged(record.versions for record in records)
    return OnlineFindings(name, plan, goings, methods, curves, published, reasons, versions)


def render_online(found: OnlineFindings) -> dict[str, str]:
    """Text of every file of the page, by name; equal inputs give equal bytes."""
    with style():
        drawing = {f"{found.name}.svg": svg(_figure(found))}
    values = _values(found)
    web = values | {block: render_block(TEMPLATE, block, values) for block in ("scores", "published")}
    return drawing | {
        f"{found.name}.md": render_markdown(TEMPLATE, values),
        f"{found.name}.html": render_web_page("online_page.html.jinja", web, drawing),
        f"{found.name}.csv": _csv(found),
    }


def _going(values: SettingsFile, task: plans.GridTask) -> Going:
    settings, start = values.part(Finetuning, "online", "tasks", task.name), task.steps[-1]
    steps = range(settings.evaluate_every, settings.steps + 1, settings.evaluate_every)
    return Going(task, start, start + settings.steps, tuple(start + step for step in steps))


def _printed(reference: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Published scores as printed: (dataset, method, source) -> protocol -> score."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for _, row in read_table(reference / "scores.csv", SCORE_COLUMNS):
        if row["scope"] == "task" and row["protocol"] in PROTOCOLS:
            figure = f"{row['mean']} ± {row['spread']}" if row["spread"] else row["mean"]
            marked = figure + (" (secondary source)" if row["status"] == "secondary" else "")
            found.setdefault((row["name"], row["method"], row["source"]), {})[row["protocol"]] = marked
    return found


def _pairs(
    printed: dict[tuple[str, str, str], dict[str, str]], known: Sequence[BenchmarkTask], going: Going
) -> tuple[Published, ...]:
    """Published scores of a task's data set, under any of its names."""
    same, dataset = find_task(known, going.task.dataset), going.task.dataset
    names = {dataset} | ({same.published_o2o} if same else set())
    start, end = PROTOCOLS
    return tuple(
        Published(method, figures.get(start, "-"), figures.get(end, "-"), source)
        for (name, method, source), figures in printed.items()
        if name in names
    )


def _reason(going: Going) -> str:
    """Why published scores are not comparable with ours; "" if they are."""
    if going.task.source == "generate":
        return REGENERATED
    if going.task.differs:
        return going.task.differs
    if going.task.source == "d4rl":
        return "this page does not check whether the file is the one that D4RL published, report.md does"
    if (going.start, going.end) != tuple(PROTOCOLS.values()):
        return f"ours are measured after {going.start:,} and {going.end:,} steps"
    return ""


def _values(found: OnlineFindings) -> dict[str, Any]:
    """Values of the template."""
    notes = {}
    for name, pairs in found.published.items():
        if not pairs:
            notes[name] = "there is no published score for this data set"
        elif found.reasons[name]:
            notes[name] = f"not comparable with ours; {found.reasons[name]}"
    rows = [[name, p.method, p.start, p.end, p.source] for name, pairs in found.published.items() for p in pairs]
    return {
        "name": found.name,
        "plan": found.plan,
        "mixed": mixed(found.versions),
        "episodes": list(dict.fromkeys(going.task.episodes for going in found.goings)),
        "table": _table(found),
        "cut": cut(*_drawn(found)),
        "published": Table(["task", "method", "start", "end", "source"], rows, "llrrl"),
        "notes": notes,
    }


def _table(found: OnlineFindings) -> Table:
    rows = []
    for name, method, pair in _rows(found):
        steps = next((f"{g.start:,} to {g.end:,}" for g in found.goings if g.task.name == name), "")
        cells = [_cell(summary) for summary in _summaries(pair, found.plan.confidence).values()]
        rows.append([name, method, steps, *cells])
    return Table(["task", "method", "steps", "start", "end", "gain"], rows, "lllr")


def _rows(found: OnlineFindings) -> list[tuple[str, str, tuple[Floats, Floats]]]:
    """(task, method, scores at the start and at the end), and the mean over tasks if there are several."""
    rows = [(going.task.name, method, found.ends(going, method)) for going in found.goings for method in found.methods]
    if len(found.goings) > 1:
        rows += [(MEAN, method, found.means(method)) for method in found.methods]
    return rows


def _summaries(pair: tuple[Floats, Floats], confidence: float) -> dict[str, Summary]:
    start, end = pair
    values = {"start": start, "end": end, "gain": end - start}
    return {name: summarise(value, confidence) for name, value in values.items()}


def _cell(summary: Summary) -> str:
    return f"{plus_minus(summary.mean, summary.std)} {interval(summary.low, summary.high)}".rstrip()


def _csv(found: OnlineFindings) -> str:
    return csv_text(
        {"task": name, "method": method, "quantity": quantity} | vars(summary) | {"seeds": len(found.plan.seeds)}
        for name, method, pair in _rows(found)
        for quantity, summary in _summaries(pair, found.plan.confidence).items()
    )


def _range(found: OnlineFindings, task: str) -> tuple[float, float]:
    """0 to 100, wider if scores of a task lie outside."""
    own = np.concatenate([found.curves[task, method].ravel() for method in found.methods])
    return min(0.0, float(own.min())), max(100.0, float(own.max()))


def _drawn(found: OnlineFindings) -> tuple[dict[str, tuple[float, float]], list[tuple[str, Summary]]]:
    """Ends of the axis of scores by task, and (task, summary over seeds) at every evaluated step of every method."""
    ranges = {going.task.name: _range(found, going.task.name) for going in found.goings}
    curves = [
        (task, summarise(column, found.plan.confidence)) for (task, _), c in found.curves.items() for column in c.T
    ]
    return ranges, curves


def _figure(found: OnlineFindings) -> Drawing:
    """Score against training step, one panel per task: mean over seeds and the interval of that mean."""
    columns = min(PER_ROW, len(found.goings))
    rows = math.ceil(len(found.goings) / columns)
    figure = Drawing(figsize=(min(WIDTH, 0.6 + 2.6 * columns), 2.0 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[len(found.goings) :]:
        panel.remove()
    for index, going in enumerate(found.goings):
        panel, task = panels[index], going.task
        low, high = _range(found, task.name)
        steps = np.array([*task.steps, *going.steps]) / 1000
        for method in found.methods:
            look = appearance(found.plan, method)
            summaries = [summarise(column, found.plan.confidence) for column in found.curves[task.name, method].T]
            band = np.clip([[summary.low, summary.high] for summary in summaries], low, high)
            panel.fill_between(steps, band[:, 0], band[:, 1], color=look["color"], alpha=0.13, linewidth=0)
            panel.plot(steps, [s.mean for s in summaries], **look, markersize=3, markeredgewidth=0, clip_on=False)
        panel.axvline(going.start / 1000, color=DARK, linewidth=0.9, linestyle="--")
        panel.set(title=task.name, ylim=(low, high), xlabel=STEP)
        if index % columns == 0:
            panel.set_ylabel("score (%)")
    looks = {method: appearance(found.plan, method) for method in found.methods}
    lines = [Line2D([], [], **look, markersize=4, markeredgewidth=0, label=method) for method, look in looks.items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=min(len(lines), 3 * columns))
    return figure
