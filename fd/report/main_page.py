"""The report's main page as Markdown and as one HTML file, and the text of every file of a report."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from fd.reference.published import Comparison, Reference, Setting, compare_published
from fd.report import figures, published_page, tables
from fd.report.ablation_page import TEMPLATE as ABLATION
from fd.report.ablation_page import AblationFindings, ablation_values
from fd.report.behaviour_figure import behaviour
from fd.report.behaviour_section import behaviour_section
from fd.report.constraint_section import constraint_section
from fd.report.path_figure import paths, reached
from fd.report.rendering import render_block, render_markdown
from fd.report.style import style, svg
from fd.report.table import Table
from fd.report.text import clock
from fd.report.web_page import render_web_page
from fd.results.estimates import Results
from fd.results.films import Film, Films
from fd.results.flow_shape import FlowShape
from fd.results.grid import Grid, GridTask
from fd.results.origins import Provenance, mixed
from fd.results.training_log import TrainingLog

TEMPLATE = "main_page.md.jinja"
SECTIONS = {  # of the HTML file, by the block of the template; the introduction has no title
    "introduction": "",
    "scores": "Scores",
    "curves": "Learning curves",
    "published": "Published scores",
    "films": "The policies in the simulator",
    "behaviour": "The behaviour before refinement",
    "constraint": "The constraint",
    "ablations": "Ablations",
    "data": "Data",
    "time": "Time, machine, versions",
    "again": "How to get each number again",
}
TIMING = {"pre": "state before the step", "post": "state after the step"}


def render_report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], TrainingLog],
    shapes: Mapping[str, FlowShape],
    films: Films,
    provenance: Provenance,
    reference: Reference,
    ablations: Sequence[AblationFindings],
    online: Sequence[str],
) -> dict[str, str]:
    """Text of every file of the report, by name; equal inputs give equal bytes.

    `online` names the pages of the stage `report-online`, to which the HTML file has links.
    """
    settings = {task.name: _setting(task, provenance) for task in results.plan.tasks}
    comparisons = {
        name: compare_published(reference, setting, results.plan.methods) for name, setting in settings.items()
    }
    rows = published_page.published_rows(results, reference, settings)
    with style():
        drawn = {
            "scores.svg": svg(figures.scores(results)),
            "learning_curves.svg": svg(figures.learning_curves(results)),
            "constraint.svg": svg(figures.constraint(results.plan, training)),
            "behaviour.svg": svg(behaviour(shapes)),
            "paths.svg": svg(paths(films)),
        }
    values = _results(results, comparisons) | _provenance(results.plan, provenance)
    values |= {"behaviour": behaviour_section(results, shapes), "constraint": constraint_section(results, training)}
    values |= _films(films)
    turned = {  # methods as rows: a click on the head of a task sorts them
        "scores": tables.scores_table(results, comparisons, turned=True),
        "turned": True,
        "time": _time(results.plan, provenance, turned=True),
    }
    run = [row for row in rows if row.scope == "task" and row.here]
    published = published_page.published_values(results, run) if run else None
    return drawn | {
        "scores.md": render_markdown("scores.md.jinja", values),
        "scores.csv": tables.scores_csv(results),
        "scores.tex": tables.scores_latex(results),
        "curves.csv": tables.curves_csv(results),
        "published.md": render_markdown("published_page.md.jinja", published_page.published_values(results, rows)),
        "published.csv": published_page.published_csv(results, rows),
        "metrics.json": tables.metrics_json(results),
        "report.md": render_markdown(TEMPLATE, values),
        "index.html": _web_page(values | turned, published, ablations, online, drawn),
    }


def _web_page(
    values: Mapping[str, Any],
    published: Mapping[str, Any] | None,
    ablations: Sequence[AblationFindings],
    online: Sequence[str],
    drawn: Mapping[str, str],
) -> str:
    """The sections of report.md, every published score of the suite's tasks, and the ablations, as HTML."""
    sections = {name: render_block(TEMPLATE, name, values) for name in SECTIONS if values.get(name, True)}
    found = {each.axis.name: ablation_values(each, "ablations/") for each in ablations}
    page = {
        "plan": values["plan"],
        "mixed": values["mixed"],
        "titles": SECTIONS,
        "sections": {name: text for name, text in sections.items() if text},
        "published": published,
        "shots": values["shots"],
        "ablations": {
            name: [render_block(ABLATION, block, each) for block in ("difference", "findings")]
            for name, (each, _) in found.items()
        },
        "online": online,
    }
    figures = {f"ablations/{name}.svg": figure for name, (_, figure) in found.items()}
    return render_web_page("main_page.html.jinja", page, {**drawn, **figures})


def _setting(task: GridTask, provenance: Provenance) -> Setting:
    data = provenance.manifests[task.name]
    return Setting(
        task.dataset, task.source, task.differs, task.final_steps, task.episodes, data.success_timing, data.verified
    )


def _results(results: Results, comparisons: Mapping[str, Comparison]) -> dict[str, Any]:
    """Values of the template about scores."""
    plan, ranges = results.plan, figures.score_ranges(results)
    curves = {key: [spot for _, spot in results.curve(*key)] for key in results.summaries}
    ends: dict[str, dict[str, tuple[float, float]]] = {}
    for (task, method), spots in curves.items():
        ends.setdefault(task, {})[method] = spots[0].mean, spots[-1].mean
    return {
        "plan": plan,
        "scores": tables.scores_table(results),
        "turned": plan.many,
        "cut_scores": figures.cut(ranges, [(task, summary) for (task, _), summary in results.summaries.items()]),
        "cut_curves": figures.cut(ranges, [(task, spot) for (task, _), spots in curves.items() for spot in spots]),
        "ends": ends,
        "published": tables.comparable_table(results, comparisons),
        "comparisons": comparisons,
    }


def _provenance(plan: Grid, provenance: Provenance) -> dict[str, Any]:
    """Values of the template about data, time, machines and versions."""
    records = provenance.records()
    machines: dict[str, dict[str, None]] = {}  # to the stages that ran on them
    for stage, of_stage in records.items():
        for machine in (record.machine for record in of_stage):
            words = f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib:.0f} GiB, {machine.gpu or 'no GPU'}"
            machines.setdefault(words, {})[stage] = None
    return {
        "mixed": mixed(provenance.versions()),
        "data": _data(plan, provenance),
        "manifests": [provenance.manifests[task.name] for task in plan.tasks],
        "time": _time(plan, provenance, turned=plan.many),
        "seconds": {stage: sum(record.seconds for record in of_stage) for stage, of_stage in records.items()},
        "rates": [r.steps_per_second for r in provenance.evaluate.values() if r.steps_per_second is not None],
        "machines": machines,
        "versions": provenance.versions(),
    }


def _films(films: Films) -> dict[str, Any]:
    """Values of the template about the replayed episodes."""
    cells = {(task, method): film for task, of_task in films.items() for method, film in of_task.items()}
    records = [film.record for film in cells.values()]
    return {
        "films": films,
        "reached": {cell: (reached(film), len(film.record.paths)) for cell, film in cells.items() if film.record.maze},
        "differ": sum(record.differ for record in records),
        "replayed": sum(record.episodes for record in records),
        "unrendered": sorted({record.unrendered for record in records if record.unrendered}),
        "shots": {
            cell: [_shot(*cell, film, place) for place in range(len(film.record.shots))] for cell, film in cells.items()
        },
    }


def _shot(task: str, method: str, film: Film, place: int) -> dict[str, str]:
    """A filmed episode: its kind, what it shows in words, and the addresses of its pictures, which are data."""
    shot = film.record.shots[place]
    names = {"strip": f"{shot.kind}-strip.webp", "animation": f"{shot.kind}.webp"}
    told = f"seed {shot.seed}, episode {shot.episode}, {shot.length} steps"
    told += f", return {shot.return_:.1f}" if shot.kind in ("highest", "lowest") else ""
    return {"kind": shot.kind, "told": told, "every": str(shot.every)} | {
        part: f"data:image/webp;base64,{b64encode(film.pictures[name]).decode()}"
        for part, name in names.items()
        if name in film.pictures
    }


def _data(plan: Grid, provenance: Provenance) -> Table:
    head = ["task", "dataset", "origin", "episodes", "transitions", "with success", "horizon", "score", "reward of"]
    rows = []
    for task in plan.tasks:
        data = provenance.manifests[task.name]
        origin = f"{'published' if data.verified else 'not verified'} ({data.source})"
        if data.source == "generate":
            origin = f"generated here ({data.collector})"
        counts = [data.episodes, data.transitions, data.successes, data.horizon]
        cells = ["-" if count is None else f"{count:,}" for count in counts]
        rows.append([task.name, f"`{data.dataset}`", origin, *cells, data.score, TIMING[data.success_timing]])
    return Table(head, rows, "lllrrrrl")


def _time(plan: Grid, provenance: Provenance, *, turned: bool) -> Table:
    head = ["stage" if turned else "task", "pretrain", *(f"{method}: refine + evaluate" for method in plan.methods)]
    rows = []
    for task in plan.tasks:
        cells = [task.name, clock(provenance.pretrain[task.name].seconds)]
        for method in plan.methods:
            pair = provenance.refine[task.name, method], provenance.evaluate[task.name, method]
            cells.append(" + ".join(clock(record.seconds) for record in pair))
        rows.append(cells)
    table = Table(head, rows, "lr")
    return table.turned() if turned else table
