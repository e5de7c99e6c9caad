"""The report's main page, and the text of every file of a report."""

from __future__ import annotations

from collections.abc import Mapping

from fd.reference.published import Comparison, Reference, Setting, compare_published
from fd.report import figures, published_page, tables
from fd.report.behaviour_figure import behaviour
from fd.report.behaviour_section import behaviour_section
from fd.report.constraint_section import constraint_section
from fd.report.markdown import markdown_table
from fd.report.style import style, svg
from fd.report.text import clock, cut, protocol
from fd.results.estimates import Results
from fd.results.flow_shape import FlowShape
from fd.results.grid import Grid, GridTask
from fd.results.origins import Provenance, RecordedMachine, mixed
from fd.results.training_log import TrainingLog

INTRODUCTION = (
    "Written by the stage `report` from the evaluations of every task and method in `params.yaml`."
    " [README.md](../README.md) says what each file claims."
)
GENERATED = (
    "A data set that is generated here is not the published set of the same name: it is newly drawn from the same"
    " simulator, and may be smaller."
)
UNMARKED = "With success: `-` where the data do not mark success."
UNVERIFIED = (
    "Not verified: the SHA-256 of the file is not one that [reference/d4rl_files.csv](../../reference/d4rl_files.csv)"
    " has for this data set."
)
PUBLISHED = (
    "[published.md](published.md) lists all tasks of the benchmark, our scores beside every published score;"
    " [published.csv](published.csv) has the same numbers."
)
TIMING = {"pre": "state before the step", "post": "state after the step"}


def render_report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], TrainingLog],
    shapes: Mapping[str, FlowShape],
    provenance: Provenance,
    reference: Reference,
) -> dict[str, str]:
    """Text of every file of the report, by name; equal inputs give equal bytes."""
    settings = {task.name: _setting(task, provenance) for task in results.plan.tasks}
    comparisons = {
        name: compare_published(reference, setting, results.plan.methods) for name, setting in settings.items()
    }
    rows = published_page.published_rows(results, reference, settings)
    files = {
        "scores.md": f"{tables.scores_markdown(results)}\n\n{tables.caption(results)}\n",
        "scores.csv": tables.scores_csv(results),
        "scores.tex": tables.scores_latex(results),
        "curves.csv": tables.curves_csv(results),
        "published.md": published_page.published_page(results, rows),
        "published.csv": published_page.published_csv(results, rows),
        "metrics.json": tables.metrics_json(results),
        "report.md": _report(results, training=training, shapes=shapes, provenance=provenance, comparisons=comparisons),
    }
    with style():
        files["scores.svg"] = svg(figures.scores(results))
        files["learning_curves.svg"] = svg(figures.learning_curves(results))
        files["constraint.svg"] = svg(figures.constraint(results.plan, training))
        files["behaviour.svg"] = svg(behaviour(shapes))
    return files


def _setting(task: GridTask, provenance: Provenance) -> Setting:
    data = provenance.manifests[task.name]
    return Setting(
        task.dataset, task.source, task.differs, task.final_steps, task.episodes, data.success_timing, data.verified
    )


def _report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], TrainingLog],
    shapes: Mapping[str, FlowShape],
    provenance: Provenance,
    comparisons: Mapping[str, Comparison],
) -> str:
    plan, ranges = results.plan, figures.score_ranges(results)
    finals = [(task, summary) for (task, _), summary in results.summaries.items()]
    curves = [(task, spot) for task, method in results.summaries for _, spot in results.curve(task, method)]
    names = (", ".join(items) for items in ([task.name for task in plan.tasks], plan.methods, map(str, plan.seeds)))
    parts = [
        *mixed(provenance.versions()),
        f"# Results of the suite `{plan.suite}`",
        INTRODUCTION,
        "Tasks: {}. Methods: {}. Seeds: {}.".format(*names),
        protocol(plan),
        *_ablations(plan),
        "## Scores",
        tables.scores_markdown(results),
        tables.caption(results),
        "![Final scores](scores.svg)",
        f"Final scores. Symbol and bar: mean and interval as in the table{cut(ranges, finals)}; dots: the seeds.",
        "![Learning curves](learning_curves.svg)",
        f"Learning curves. Line: mean over seeds; band: its {plan.percent()} % t-interval{cut(ranges, curves)}."
        + (" Grey: the range of the means of all methods." if plan.many else ""),
        *behaviour_section(results, shapes),
        *constraint_section(results, training),
        "## Published scores",
        tables.published_markdown(results, comparisons),
        PUBLISHED,
        "## Data",
        _data(plan, provenance),
        "## Time, machine, versions",
        _time(plan, provenance),
        _machines(provenance),
        _versions(provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _ablations(plan: Grid) -> list[str]:
    links = [f"[{name}](ablations/{name}.md)" for name in plan.ablations]
    return [f"Ablations: {', '.join(links)}."] if links else []


def _data(plan: Grid, provenance: Provenance) -> str:
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
    manifests = [provenance.manifests[task.name] for task in plan.tasks]
    notes = [GENERATED]
    if any(data.successes is None for data in manifests):
        notes.append(UNMARKED)
    if not all(data.verified for data in manifests):
        notes.append(UNVERIFIED)
    return f"{markdown_table(head, rows, 'lllrrrrl')}\n\n{' '.join(notes)}"


def _time(plan: Grid, provenance: Provenance) -> str:
    head = ["" if plan.many else "task", "pretrain", *(f"{method}: refine + evaluate" for method in plan.methods)]
    rows = []
    for task in plan.tasks:
        cells = [task.name, clock(provenance.pretrain[task.name].seconds)]
        for method in plan.methods:
            pair = provenance.refine[task.name, method], provenance.evaluate[task.name, method]
            cells.append(" + ".join(clock(record.seconds) for record in pair))
        rows.append(cells)
    sums = {stage: sum(record.seconds for record in records) for stage, records in provenance.records().items()}
    total = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in sums.items())
    rates = [record.steps_per_second for record in provenance.evaluate.values() if record.steps_per_second is not None]
    text = (
        f"Wall-clock time of all seeds together, minutes:seconds. By stage: {total}. In all:"
        f" {clock(sum(sums.values()))}, without generating or downloading the data: that time is not recorded, so that"
        " equal data have equal bytes."
    )
    if rates:
        text += f" Simulator steps per second of evaluation: {min(rates):,.0f} to {max(rates):,.0f}."
    return f"{tables.score_table(head, rows, turned=plan.many)}\n\n{text}"


def _machines(provenance: Provenance) -> str:
    used: dict[RecordedMachine, list[str]] = {}
    for stage, records in provenance.records().items():
        for machine in dict.fromkeys(record.machine for record in records):
            used.setdefault(machine, []).append(stage)
    words = {m: f"{m.cpu}, {m.cores} cores, {m.memory_gib:.0f} GiB, {m.gpu or 'no GPU'}" for m in used}
    if len(used) == 1:
        return f"Machine: {next(iter(words.values()))}."
    return "Machines:\n\n" + "\n".join(f"- {', '.join(stages)}: {words[machine]}" for machine, stages in used.items())


def _versions(provenance: Provenance) -> str:
    named = ", ".join(f"{package} {' and '.join(found)}" for package, found in provenance.versions().items())
    return (
        f"Versions: {named}. Scores hold only for this version of mujoco: another version gives different trajectories"
        " from the same seeds."
    )
